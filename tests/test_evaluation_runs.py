"""Runs: what is there is not computed again, a killed one goes on, and leaks stop it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from copersona.commands import cli
from copersona.contenders.systems import SYSTEMS, register
from copersona.contenders.world import World
from copersona.errors import ConfigError, DataError, LeakageError
from copersona.evaluation import runs
from copersona.evaluation.cache import ResultCache
from copersona.evaluation.parts import Bench
from copersona.evaluation.plans import Plan
from copersona.evaluation.runs import RESULTS, RunConfig, run
from copersona.evaluation.scoring import Job
from copersona.language.generation import Messages
from copersona.language.likelihood import Likelihood
from copersona.tasks.cases import Prediction, Request
from copersona.tasks.registry import TASKS

CONTEXTS = ("own_recent", "ladder.1", "ladder.0", "zero_shot")
PLAN = Plan(
    tasks=("demo.reply",), systems=CONTEXTS, swept=(), caps=(), judged=CONTEXTS,
    judged_shifted=(), n_judged=3, n_written=2, seeds=(0,), most=6, aggregate=(),
)  # fmt: skip


class FakeModel:
    """Finds longer contexts likelier; answers with the end of what it was asked; counts both."""

    name = identity = "fake@1"

    def __init__(self) -> None:
        self.scored: list[Job] = []
        self.answered: list[Messages] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def nll(self, pairs: Sequence[Job]) -> list[Likelihood]:
        self.scored += pairs
        return [Likelihood(9.0 / len(str(asked)) + len(said), len(said)) for asked, said in pairs]

    def generate(self, asked: Sequence[Messages], max_tokens: int) -> list[str]:
        self.answered += asked
        return [each[-1]["content"][-max_tokens:] for each in asked]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()
    monkeypatch.setattr(runs, "open_scorer", lambda spec, **options: fake)
    return fake


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the systems asked, one entry for each part."""
    told: list[str] = []
    usual = Bench.predictions

    def predictions(self: Bench, entry: Any, seed: int, setting: Any) -> Any:
        told.append(f"{entry.name}/{seed}")
        return usual(self, entry, seed, setting)

    monkeypatch.setattr(Bench, "predictions", predictions)
    return told


def config(folder: Path, plan: Plan = PLAN, **options: Any) -> RunConfig:
    places = {"out": folder / "run", "cache": folder / "cache"}
    return RunConfig(**places | {"plan": plan, "encoder": "hashing"} | options)


def scores(out: Path, *, ms: bool = False) -> list[dict[str, Any]]:
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    kept = [row for row in rows if ms or row["metric"] != "ms"]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


def n_parts(folder: Path) -> int:
    return len(list((folder / "cache" / "parts").glob("*.parquet")))


# ---- once ----------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(
    tmp_path: Path, model: FakeModel, computed: list[str]
) -> None:
    first = scores(run(config(tmp_path, llm="fake:model")), ms=True)
    n = len(model.scored), len(model.answered), len(computed), n_parts(tmp_path)
    assert n[2] == len(CONTEXTS)
    second = scores(run(config(tmp_path, llm="fake:model", out=tmp_path / "again")), ms=True)
    assert (len(model.scored), len(model.answered), len(computed), n_parts(tmp_path)) == n
    assert second == first


def test_every_setting_is_stored_whole_and_a_case_once(tmp_path: Path) -> None:
    plan = Plan(**{**vars(PLAN), "systems": ("ladder.2", "ladder.6"), "swept": ("ladder.6",),
                   "caps": (0,), "aggregate": ("ladder.6",), "barred_too": True})  # fmt: skip
    out = run(config(tmp_path, plan))
    cases = pq.read_table(out / "cases.parquet").to_pylist()
    named = [(row["task"], row["case"], row["cap"], row["shift"]) for row in cases]
    assert len(set(named)) == len(named)
    assert {(row["cap"], row["shift"]) for row in cases} >= {("all", "none"), ("0", "none")}
    stored = scores(out)
    assert {(row["mode"], row["same_item"]) for row in stored} == {
        ("text", False), ("text", True), ("aggregate", False)
    }  # fmt: skip
    told = {(row["task"], row["case"], row["cap"], row["shift"]) for row in stored}
    assert told == set(named)


def test_equal_contexts_are_judged_once_and_the_same_requests_for_all(
    tmp_path: Path, model: FakeModel
) -> None:
    found = scores(run(config(tmp_path, llm="fake:model")))
    judged = {
        name: {row["case"] for row in found if (row["system"], row["metric"]) == (name, "nll")}
        for name in CONTEXTS
    }
    cases = sorted({row["case"] for row in found})
    assert len(cases) == PLAN.most
    assert set(map(frozenset, judged.values())) == {frozenset(cases[: PLAN.n_judged])}
    told = [json.dumps([list(map(dict, asked)), said]) for asked, said in model.scored]
    assert len(set(told)) == len(told)
    alone = [one for one in model.scored if len(one[0]) == 1]  # nothing but the request
    assert len(alone) == PLAN.n_judged  # zero_shot and ladder.0 say the same
    outputs = pq.read_table(tmp_path / "run" / "outputs.parquet").to_pylist()
    assert len(outputs) == PLAN.n_written * len(CONTEXTS)


def test_scores_are_those_of_the_model(tmp_path: Path, model: FakeModel) -> None:
    run(config(tmp_path, llm="fake:model"))
    expected = {
        json.dumps(list(map(dict, asked)), ensure_ascii=False): (9.0 / len(str(asked)) + len(said))
        / len(said)
        for asked, said in model.scored
    }
    outputs = pq.read_table(tmp_path / "run" / "outputs.parquet").to_pylist()
    nll = {
        (r["system"], r["case"]): r["value"]
        for r in scores(tmp_path / "run") if r["metric"] == "nll"
    }  # fmt: skip
    for row in outputs:
        assert nll[row["system"], row["case"]] == pytest.approx(expected[row["messages"]])
        assert row["text"] == json.loads(row["messages"])[-1]["content"][-40:]


def test_more_seeds_and_more_requests_add_to_what_is_there(
    tmp_path: Path, model: FakeModel, computed: list[str]
) -> None:
    def planned(**changes: Any) -> Plan:
        named = ("own_random", "own_recent")
        told = {"systems": named, "judged": named, "seeds": (0,), "n_judged": 2} | changes
        return Plan(**{**vars(PLAN), **told})

    run(config(tmp_path, planned(), llm="fake:model"))
    assert computed == ["own_random/0", "own_recent/0"]
    n_scored = len(model.scored)
    run(config(tmp_path, planned(seeds=(0, 1)), llm="fake:model"))
    assert computed[2:] == ["own_random/1"]
    assert len(model.scored) == n_scored
    run(config(tmp_path, planned(seeds=(0, 1), n_judged=3), llm="fake:model"))
    assert len(computed) == 3
    assert len(model.scored) == n_scored + 2  # one more request, two systems
    seeds = {(r["system"], r["seed"]) for r in scores(tmp_path / "run")}
    assert seeds == {("own_random", 0), ("own_random", 1), ("own_recent", 0)}


def test_another_machine_takes_over_what_the_model_said(tmp_path: Path, model: FakeModel) -> None:
    first = scores(run(config(tmp_path / "here", llm="fake:model")))
    n = len(model.scored), len(model.answered)
    moved = tmp_path / "moved.db"
    for words in (
        ["cache", tmp_path / "here" / "cache", "--export", moved],
        ["cache", tmp_path / "there" / "cache", "--merge", moved],
    ):
        assert invoked(*words).exit_code == 0
    second = scores(run(config(tmp_path / "there", llm="fake:model")))
    assert (len(model.scored), len(model.answered)) == n
    assert second == first


# ---- killed, and in parallel ---------------------------------------------------------------------

COPERSONA = "from copersona.commands.cli import main; main()"
KILLED = ("ladder.1", "ladder.2", "own_majority", "item_user_bias", "svd")


def started(folder: Path) -> subprocess.Popen[bytes]:
    chosen = [word for name in KILLED for word in ("--system", name)]
    places = ["--out", str(folder / "run"), "--cache", str(folder / "cache")]
    return subprocess.Popen(
        [sys.executable, "-c", COPERSONA, "--encoder", "hashing", "evaluate", "--task",
         "demo.rating", *chosen, *places],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    first = started(tmp_path)
    until(lambda: n_parts(tmp_path) >= 2)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "parts").glob("*t")}
    assert not (tmp_path / "run").exists()
    assert started(tmp_path).wait(timeout=120) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    whole = tmp_path / "whole"
    undisturbed = run(config(whole, None, size="smoke", tasks=("demo.rating",), systems=KILLED))
    assert scores(tmp_path / "run") == scores(undisturbed)
    assert len(kept) < n_parts(tmp_path) == n_parts(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_two_workers_find_what_one_does(tmp_path: Path) -> None:
    plan = Plan(**{**vars(PLAN), "tasks": ("demo.reply", "demo.rating"),
                   "systems": ("ladder.2", "own_random", "own_majority")})  # fmt: skip
    one = run(config(tmp_path / "one", plan))
    two = run(config(tmp_path / "two", plan, jobs=2))
    assert scores(one) == scores(two)
    for name in ("cases", "transfer"):
        tables = [pq.read_table(out / f"{name}.parquet") for out in (one, two)]
        assert repr(tables[0].to_pylist()) == repr(tables[1].to_pylist())


def test_a_program_that_changes_under_its_workers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process looks for is not what the workers, who read the program anew, compute."""
    key = runs.part_key
    monkeypatch.setattr(runs, "part_key", lambda *given: {**key(*given), "code": "as it was"})
    plan = Plan(**{**vars(PLAN), "tasks": ("demo.reply", "demo.rating"), "systems": ("ladder.0",)})
    with pytest.raises(DataError, match="changed meanwhile; run the same command again"):
        run(config(tmp_path, plan, jobs=2))


# ---- refused -------------------------------------------------------------------------------------


def invoked(*words: object) -> Any:
    return CliRunner().invoke(cli.app, ["--encoder", "hashing", *map(str, words)])


def evaluated(folder: Path, *words: object) -> Any:
    return invoked("evaluate", "--out", folder / "run", "--cache", folder / "cache", *words)


def test_the_test_side_wants_a_reason_and_logs_it(tmp_path: Path) -> None:
    refused = evaluated(tmp_path, "--split", "test", "--task", "demo.reply")
    assert refused.exit_code != 0
    assert isinstance(refused.exception, ConfigError) or "needs a reason" in refused.stderr
    assert not (tmp_path / "cache").exists()
    looked = config(tmp_path, side="test", reason="the last word", command="by hand")
    run(looked)
    (line,) = (tmp_path / "cache" / "test-runs.jsonl").read_text("utf-8").splitlines()
    told = json.loads(line)
    assert (told["reason"], told["command"]) == ("the last word", "by hand")
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert (facts["split"], facts["reason"]) == ("test", "the last word")
    run(config(tmp_path))
    assert len((tmp_path / "cache" / "test-runs.jsonl").read_text("utf-8").splitlines()) == 1


def test_the_two_sides_ask_different_people(tmp_path: Path) -> None:
    dev = run(config(tmp_path, out=tmp_path / "dev"))
    test = run(config(tmp_path, out=tmp_path / "test", side="test", reason="sides"))
    users = [{row["user"] for row in scores(out)} for out in (dev, test)]
    assert users[0].isdisjoint(users[1])
    assert all(users)


@pytest.fixture
def cheat() -> Iterator[str]:
    name = "a_cheat"

    @register(name, source="a test")
    class Cheat:
        """Says the target, which it has found in a drawer."""

        def __init__(self, world: World, seed: int) -> None:
            self._rows = world.task.load(Path()).interactions

        def predict(self, request: Request) -> Prediction:
            said = next(r for r in self._rows if (r.user, r.at) == (request.user, request.at))
            return Prediction(({"role": "user", "content": said.response},))

    yield name
    del SYSTEMS[name]


def test_a_leak_stops_the_run_and_names_the_system(tmp_path: Path, cheat: str) -> None:
    with pytest.raises(LeakageError, match=rf"{cheat}, case \w+: the target"):
        run(config(tmp_path, systems=("own_recent", cheat)))
    assert not (tmp_path / "run").exists()
    run(config(tmp_path, systems=("own_recent",)))  # what was done before is of use


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--task", "demo.nothing"), "demo.nothing"),
        (("--system", "no_such"), "no_such"),
        (("--system", "no_such_module:Thing"), "no_such_module"),
        (("--size", "huge"), "huge"),
        (("--split", "train"), "train"),
        (("--benchmark", "LaMP_99=x.json"), "LaMP_99"),
    ],
)
def test_unknown_names_are_said(tmp_path: Path, words: tuple[str, str], named: str) -> None:
    found = evaluated(tmp_path, *words)
    assert found.exit_code != 0
    assert named in found.stderr + str(found.exception)
    assert not (tmp_path / "run").exists()


# ---- from the command line -----------------------------------------------------------------------


def test_a_benchmark_file_runs_without_code(tmp_path: Path) -> None:
    ask = (
        "What is the score of the following review on a scale of 1 to 5? "
        "just answer with 1, 2, 3, 4, or 5 without further explanation. review: "
    )
    things = ("tea", "hay", "cup", "urn", "oak", "elk")
    questions, golds = [], []
    for n in range(12):
        rated = [(f"A {thing} of kind {n}, {thing}s forever", 1 + (n + place) % 5)
                 for place, thing in enumerate(things)]  # fmt: skip
        profile = [{"id": f"{n}.{k}", "text": text, "score": str(stars)}
                   for k, (text, stars) in enumerate(rated)]  # fmt: skip
        questions.append({"id": str(n), "input": f"{ask}A new {things[n % 6]} {n}",
                          "profile": profile})  # fmt: skip
        golds.append({"id": str(n), "output": str(1 + n % 5)})
    asked, answers = tmp_path / "dev_questions.json", tmp_path / "dev_outputs.json"
    asked.write_text(json.dumps(questions), "utf-8")
    answers.write_text(json.dumps({"task": "LaMP_3", "golds": golds}), "utf-8")
    found = evaluated(tmp_path, "--benchmark", f"LaMP_3={asked},{answers}",
                      "--system", "majority", "--system", "ladder.2")  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    rows = scores(tmp_path / "run")
    assert {row["task"] for row in rows} == {"LaMP_3"}
    assert {row["system"] for row in rows} == {"majority", "ladder.2"}
    mean = sum(1 + (n + k) % 5 for n in range(12) for k in range(6)) / 72
    errors = {r["value"] for r in rows if (r["system"], r["metric"]) == ("majority", "abs_error")}
    assert len(errors) <= 5
    assert all(0 <= error <= max(mean - 1, 5 - mean) + 1 for error in errors)
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert facts["tasks"][0]["n_cases"] == len({row["case"] for row in rows})


def test_names_of_people_are_not_in_what_is_stored(tmp_path: Path) -> None:
    out = run(config(tmp_path))
    people = {row.user for row in TASKS["demo.reply"].load(Path()).interactions}
    users = {row["user"] for row in scores(out)}
    assert users
    assert users.isdisjoint(people)
    with ResultCache(tmp_path / "cache" / RESULTS) as cache:
        assert cache.get_many(people) == {}
