"""Reports of a made-up run in which it is known who wins where."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from copersona.errors import DataError
from copersona.reporting import plots
from copersona.reporting.branches import branches_section
from copersona.reporting.claim import (
    claim_sentences,
    judge_tasks,
    main_ones,
    overall,
)
from copersona.reporting.comparisons import (
    METRICS,
    Judge,
    ladder_steps,
    primary,
    settings,
    strata,
)
from copersona.reporting.document import Figure, Table, number, span
from copersona.reporting.html import render_html
from copersona.reporting.measures import score_systems
from copersona.reporting.report import build_report, write_report
from copersona.reporting.stored import Setting, StoredRun, TaskRun

N_USERS, PER_USER, RESAMPLES = 40, 6, 1000
N_CASES = N_USERS * PER_USER
SYSTEMS = {
    "zero & <b>shot</b>": "baseline", "global peers": "baseline", "shuffled": "baseline",
    "ladder.0": "ladder", "ladder.1": "ladder", "ladder.2": "ladder", "ladder.2p": "ladder",
    "ladder.3": "ladder", "ladder.4": "ladder", "ladder.6": "ladder", "random peers": "control",
    "no gate": "ablation",
}  # fmt: skip
TASKS = {"won.title": "text", "lost.verdict": "label", "even.rating": "rating"}
CAPS = ("0", "2", "all")


def gain(task: str, system: str, low: np.ndarray, shift: str) -> np.ndarray:
    """The planted truth: how much better than a stranger's answer, by case."""
    own = 0.0 if system in ("zero & <b>shot</b>", "ladder.0", "shuffled") else 0.3
    full = {"won.title": 0.4, "lost.verdict": -0.3, "even.rating": 0.0}[task]
    adds = full * (low | (shift == "facet")) if system == "ladder.6" else 0.0
    return own + np.zeros(len(low)) + adds


def scores_of(task: str, kind: str, better: np.ndarray, rng: np.random.Generator) -> dict:
    if kind == "text":
        return {"nll": 3 - better + rng.normal(0, 0.1, len(better)),
                "rougeL": 0.2 + better / 4, "borrowed": (better > 0.5) * 1.0,
                "worth": rng.uniform(size=len(better)), "n_own": np.full(len(better), 3.0),
                "n_peer": better * 4, "n_population": better * 0, "tokens": 300 + better,
                "ms": 20 + better}  # fmt: skip
    if kind == "label":
        return {"correct": (rng.uniform(size=len(better)) < 0.55 + better) * 1.0}
    error = np.abs(rng.normal(1 - better, 0.2))
    return {"abs_error": error, "sq_error": error**2}


def blocks(task: str, rng: np.random.Generator) -> Iterator[tuple[tuple, dict[str, np.ndarray]]]:
    """Every variant of a task that was run: (system, mode, same_item, seed, cap, shift), scores."""
    low = np.arange(N_CASES) % 4 == 0
    for system in SYSTEMS:
        modes = ("text", "aggregate") if system == "ladder.6" else ("text",)
        variants = [(cap, "none") for cap in CAPS] + [("all", "facet"), ("all", "random")]
        for mode in modes:
            for cap, shift in variants:
                for seed in (0, 1) if system == "shuffled" else (0,):
                    better = gain(task, system, low, shift) * (1 if cap == "all" else 0.5)
                    key = (system, mode, False, seed, cap, shift)
                    yield key, scores_of(task, TASKS[task], better, rng)


def write_run(folder: Path, tasks: dict[str, str] = TASKS) -> Path:
    """A whole run of the made-up tasks."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    cases = [f"c{row:03d}" for row in range(N_CASES)]
    users = [f"u{row // PER_USER:02d}" for row in range(N_CASES)]
    scores, labels = [], []
    for task in tasks:
        for key, found in blocks(task, rng):
            names = ("system", "mode", "same_item", "seed", "cap", "shift")
            fixed = dict(zip(names, key, strict=True)) | {"task": task}
            for metric, values in found.items():
                scores.append(_table(fixed | {"metric": metric},
                                     {"case": cases, "user": users, "value": values}))  # fmt: skip
            if "correct" in found:
                labels.append(_label_table(fixed, cases, users, found["correct"], rng))
    pq.write_table(pa.concat_tables(scores), folder / "scores.parquet")
    pq.write_table(pa.concat_tables(labels), folder / "labels.parquet")
    pq.write_table(pa.concat_tables([_cases(task, cases, users, rng) for task in tasks]),
                   folder / "cases.parquet")  # fmt: skip
    _write_small(folder)
    info = {
        "name": "made up", "command": "copersona evaluate --size smoke", "commit": "abc123",
        "started_at": "2030-01-01T00:00:00", "size": "smoke", "split": "dev", "encoder": "hashing",
        "llm": "", "generation": False, "seeds": [0, 1], "versions": {"numpy": "2"},
        "tasks": [_task_info(task, kind) for task, kind in tasks.items()],
        "systems": [{"name": name, "family": family, "source": "made up", "kinds": ["text"],
                     "is_random": name == "shuffled"} for name, family in SYSTEMS.items()],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info), "utf-8")
    return folder


def _table(fixed: dict, columns: dict) -> pa.Table:
    n = len(columns["case"])
    return pa.table({name: [value] * n for name, value in fixed.items()} | columns)


def _label_table(
    fixed: dict, cases: list[str], users: list[str], right: np.ndarray, rng: np.random.Generator
) -> pa.Table:
    is_yes = np.arange(N_CASES) % 2 == 0
    said_yes = is_yes == (right > 0)
    share = np.where(said_yes, 0.8, 0.2) + rng.uniform(-0.1, 0.1, N_CASES)
    return _table(fixed | {"positive": "yes"}, {
        "case": cases, "user": users, "truth": np.where(is_yes, "yes", "no").tolist(),
        "predicted": np.where(said_yes, "yes", "no").tolist(), "p_positive": share,
    })  # fmt: skip


def _cases(task: str, cases: list[str], users: list[str], rng: np.random.Generator) -> pa.Table:
    low = np.arange(N_CASES) % 4 == 0
    confidence = np.where(low, 0.1, 0.5) + rng.uniform(0, 0.05, N_CASES)
    return _table({"task": task, "cap": "all", "shift": "none", "n_history": 9, "facet": 1}, {
        "case": cases, "user": users, "support": confidence * 10, "confidence": confidence,
        "skew": rng.uniform(size=N_CASES), "typicality": rng.uniform(size=N_CASES),
    })  # fmt: skip


def _write_small(folder: Path) -> None:
    rows = [(c, b) for c in ("facet mean", "completion") for b in ("all", "few")]
    pq.write_table(pa.table({
        "task": ["won"] * 4, "view": ["text"] * 4, "comparator": [c for c, _ in rows],
        "bucket": [b for _, b in rows], "r2": [0.0, 0.0, 0.1, 0.2],
        "r2_over_ceiling": [0.0, 0.0, 0.25, 0.375], "slope": [1.0] * 4, "n": [80, 40, 80, 40],
    }), folder / "masked.parquet")  # fmt: skip
    facet, layer = np.divmod(np.arange(6), 3)
    pq.write_table(pa.table({
        "task": ["won.title"] * 6, "facet": facet, "facet_name": [f"theme {f}" for f in facet],
        "layer": layer, "layer_name": [f"layer {n}" for n in layer],
        "value": np.linspace(-0.2, 0.8, 6),
    }), folder / "transfer.parquet")  # fmt: skip


def _task_info(task: str, kind: str) -> dict:
    return {"name": task, "dataset": task.split(".")[0], "kind": kind, "description": f"a {kind}",
            "note": "", "has_dates": True, "has_peers": True, "n_users": N_USERS,
            "n_interactions": 999, "n_cases": N_CASES, "cut": "2029"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def run(folder: Path) -> StoredRun:
    return StoredRun(folder)


@pytest.fixture(scope="module")
def tasks(run: StoredRun) -> dict[str, TaskRun]:
    return {task.name: task for task in run.tasks()}


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    into = tmp_path_factory.mktemp("report")
    html, markdown = write_report(folder, into, n_resamples=RESAMPLES)
    return html.read_text("utf-8"), markdown.read_text("utf-8"), into


def test_verdicts_follow_the_planted_truth(run: StoredRun, tasks: dict[str, TaskRun]) -> None:
    judged = main_ones(judge_tasks(Judge(run, RESAMPLES), list(tasks.values())))
    claims = {each.task.name: each.claim for each in judged}
    assert {name: claim.outcome for name, claim in claims.items()} == {
        "won.title": "supported", "lost.verdict": "contradicted", "even.rating": "not supported",
    }  # fmt: skip
    won = claims["won.title"]
    n_rivals = 3 + 5  # baselines, and rungs below the facets
    assert won.count("better", "low") == won.count("better", "deleted") == n_rivals
    assert won.missing == ()
    assert won.own is not None
    assert won.own.verdict == "no difference seen"
    assert claims["lost.verdict"].count("better", "low") == 0


def test_a_gain_is_the_planted_difference_in_the_better_direction(
    run: StoredRun, tasks: dict[str, TaskRun]
) -> None:
    task = tasks["won.title"]
    low = strata(task)["low"]
    assert low.cases is not None
    assert low.cases.tolist() == list(range(0, N_CASES, 4))
    found = Judge(run, RESAMPLES).compare(
        task, METRICS["nll"], settings(task)[0], [("ladder.6", "global peers", low)]
    )[0]
    assert found.gain.n == N_CASES // 4
    assert found.gain.difference == pytest.approx(0.4, abs=0.06)
    assert found.gain.low < 0.4 < found.gain.high


def test_rungs_are_compared_with_the_rung_before_and_2p_stands_aside() -> None:
    assert ladder_steps(["ladder.3", "pag", "ladder.0", "ladder.2p", "ladder.2", "ladder.6"]) == [
        ("ladder.2", "ladder.0"), ("ladder.2p", "ladder.2"), ("ladder.3", "ladder.2"),
        ("ladder.6", "ladder.3"),
    ]  # fmt: skip


def test_only_rungs_that_add_something_pay(run: StoredRun, tasks: dict[str, TaskRun]) -> None:
    task, judge = tasks["won.title"], Judge(run, RESAMPLES)
    metric = primary(task)
    assert metric is METRICS["nll"]
    steps = judge.ladder(task, metric, settings(task)[0], strata(task)["all"])
    verdicts = {(each.system, each.rival): each.verdict for each in steps}
    assert {step for step, verdict in verdicts.items() if verdict != "no difference seen"} == {
        ("ladder.1", "ladder.0"), ("ladder.6", "ladder.4"),
    }  # fmt: skip


def test_seeds_are_averaged_before_anything(tasks: dict[str, TaskRun], folder: Path) -> None:
    series = tasks["won.title"].find("shuffled", "nll", Setting("text", False))
    assert series is not None
    assert len(series.cases) == N_CASES
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    wanted = {"task": "won.title", "system": "shuffled", "metric": "nll", "cap": "all",
              "shift": "none", "case": "c005"}  # fmt: skip
    values = [row["value"] for row in rows if wanted.items() <= row.items()]
    assert len(values) == 2
    assert series.values[5] == pytest.approx(sum(values) / 2)


def test_a_system_run_in_one_mode_is_read_in_both(tasks: dict[str, TaskRun]) -> None:
    task, lent = tasks["won.title"], Setting("aggregate", False)
    assert settings(task) == [Setting("text", False), lent]
    assert task.setting_of("ladder.1", lent) == Setting("text", False)
    assert task.setting_of("ladder.6", lent) == lent
    assert task.setting_of("unknown", lent) is None


def test_scores_of_a_table_equal_plain_counting(run: StoredRun, tasks: dict[str, TaskRun]) -> None:
    task, setting = tasks["lost.verdict"], Setting("text", False)
    labels = task.labels("ladder.1", setting)
    assert labels is not None
    pairs = list(zip(labels.truth.tolist(), labels.predicted.tolist(), strict=True))
    f1 = [
        2 * pairs.count((label, label)) / sum((t == label) + (p == label) for t, p in pairs)
        for label in ("no", "yes")
    ]
    found = score_systems(task, METRICS["macro_f1"], setting, ["ladder.1", "ladder.6"], RESAMPLES)
    assert found["ladder.1"].interval.mean == pytest.approx(sum(f1) / 2)
    assert found["ladder.1"].is_best
    even = score_systems(tasks["even.rating"], METRICS["rmse"], setting, ["ladder.1"], RESAMPLES)
    squares = tasks["even.rating"].find("ladder.1", "sq_error", setting)
    assert squares is not None
    assert even["ladder.1"].interval.mean == pytest.approx(np.sqrt(squares.values.mean()))


def test_the_best_is_marked_and_so_is_who_is_not_worse(
    run: StoredRun, tasks: dict[str, TaskRun]
) -> None:
    found = score_systems(
        tasks["won.title"], METRICS["nll"], Setting("text", False), list(SYSTEMS), RESAMPLES
    )
    assert [name for name, score in found.items() if score.is_best] == ["ladder.6"]
    assert not any(score.is_tied for score in found.values())
    without = [name for name in SYSTEMS if name != "ladder.6"]
    metric, setting = METRICS["nll"], Setting("text", False)
    others = score_systems(tasks["won.title"], metric, setting, without, RESAMPLES)
    tied = {name for name, score in others.items() if score.is_tied or score.is_best}
    assert "global peers" in tied
    assert not tied & {"ladder.0", "shuffled", "zero & <b>shot</b>"}


def test_where_nobody_has_peers_only_a_loss_to_own_retrieval_counts(
    run: StoredRun, tasks: dict[str, TaskRun]
) -> None:
    claims = {}
    for name in ("won.title", "lost.verdict"):
        alone = replace(tasks[name], info={**tasks[name].info, "has_peers": False})
        (judged, *_) = judge_tasks(Judge(run, RESAMPLES), [alone])
        assert judged.claim.rivals == judged.claim.missing == ()
        assert judged.claim.own is not None
        assert judged.claim.own.gain.n == N_CASES
        loses = judged.claim.own.p < 0.05 and judged.claim.own.gain.difference < 0
        assert judged.claim.outcome == ("contradicted" if loses else "not tested")
        claims[name] = judged.claim.own.gain.difference
    assert claims["won.title"] == pytest.approx(0.1, abs=0.03)  # .4 on a quarter of the requests
    assert claims["lost.verdict"] == pytest.approx(-0.075, abs=0.1)


def test_a_tie_is_not_a_win_and_says_what_could_have_been_seen(
    run: StoredRun, tasks: dict[str, TaskRun]
) -> None:
    (judged, *_) = judge_tasks(Judge(run, RESAMPLES), [tasks["even.rating"]])
    own = judged.claim.own
    assert own is not None
    assert own.verdict == "no difference seen"
    last = list(claim_sentences(judged))[-1]
    assert "ladder.6 is not distinguishable from ladder.1 (" in last
    assert f"could have seen {number(own.gain.detectable)})" in last
    assert own.gain.n == N_CASES // 4


def test_labels_of_lines_keep_apart_around_where_they_were() -> None:
    assert plots._spread([0.0, 5.0], 1.0) == [0.0, 5.0]
    assert plots._spread([1.0, 1.0, 1.0], 1.0) == [0.0, 1.0, 2.0]
    assert plots._spread([0.0, 0.25, 9.0], 1.0) == [-0.375, 0.625, 9.0]


def test_one_loss_contradicts_and_one_tie_does_not_support() -> None:
    assert overall(["supported", "not tested"]) == "supported"
    assert overall(["supported", "not supported"]) == "not supported"
    assert overall(["supported", "not supported", "contradicted"]) == "contradicted"
    assert overall([]) == "not tested"


def test_the_report_says_what_was_planted(written: tuple[str, str, Path]) -> None:
    html, markdown, _ = written
    assert "Contradicted. The claim is supported on 1 of 3 tasks (won.title)" in html
    assert "Contradicted. The claim is supported on 1 of 3 tasks (won.title)" in markdown
    assert re.search(r"On won\.title, low-support requests \(n = 60, 40 users\): "
                     r"ladder\.6 is better than 8 rivals", html)  # fmt: skip
    assert "could have seen" in html
    assert "ladder.1 after ladder.0 pays for itself. All requests: better on 3" in html
    assert "ladder.3 after ladder.2 does not pay for itself: no gain seen." in html
    assert "ladder.6 after ladder.4 does not pay for itself: it also loses." in html
    assert html.count("<h2>") == 10
    assert html.index("<h2>Verdict") < html.index("<h2>Plots") < html.index("<h2>Costs")


def test_the_page_stands_alone_and_escapes_names(written: tuple[str, str, Path]) -> None:
    html, _, _ = written
    assert "<b>shot" not in html
    loaded = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import""", html)
    assert all(one.startswith("#") or two.startswith("#") for one, two in loaded)
    assert "<script" not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {one[1:] for one, _ in loaded if one} <= set(ids)


class _Balance(HTMLParser):
    """Keeps the open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_tag_is_closed_and_every_figure_is_xml(written: tuple[str, str, Path]) -> None:
    html, markdown, into = written
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    figures = sorted((into / "figures").glob("*.svg"))
    assert {path.name.split("-")[0] for path in figures} == {
        "curve", "ladder", "forest", "reliability", "borrowed", "transfer",
    }  # fmt: skip
    for path in figures:
        assert ElementTree.fromstring(path.read_text("utf-8")).tag.endswith("svg")
        assert f"(figures/{path.name})" in markdown


def test_markdown_tables_have_as_many_cells_as_columns(written: tuple[str, str, Path]) -> None:
    _, markdown, _ = written
    lines = markdown.splitlines()
    rules = [row for row, line in enumerate(lines) if re.fullmatch(r"\| (---:?( \| )?)+ \|", line)]
    assert len(rules) > 10
    for rule in rules:
        n_columns = lines[rule].count("|") - 1
        assert lines[rule - 2] == ""
        for line in [lines[rule - 1], *_until_blank(lines[rule + 1 :])]:
            assert len(re.findall(r"(?<!\\)\|", line)) - 1 == n_columns


def _until_blank(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line:
            return
        yield line


def test_the_same_run_gives_the_same_bytes(folder: Path, run: StoredRun) -> None:
    first = render_html(build_report(run, n_resamples=50))
    second = render_html(build_report(StoredRun(folder), n_resamples=50))
    assert first == second


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    for name in ("labels", "masked", "transfer", "cases"):
        (part / f"{name}.parquet").unlink()
    scores = pq.read_table(part / "scores.parquet").to_pylist()
    kept = [row for row in scores if row["task"] == "won.title" and row["shift"] == "none"
            and row["cap"] == "all" and row["system"] != "ladder.1"]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(kept), part / "scores.parquet")
    html = write_report(part, tmp_path / "into", n_resamples=50)[0].read_text("utf-8")
    assert "files missing: cases.parquet, labels.parquet, masked.parquet, transfer.parquet" in html
    assert "Tasks without scores: lost.verdict, even.rating" in html
    assert "Masked facets were not run." in html
    assert "No facets were deleted in this run." in html
    assert "won.title: not compared on high-support requests (1): ladder.1." in html
    assert "The claim is not tested on 1 of 1 tasks (won.title)" in html


def test_a_run_without_scores_is_reported_as_such(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(folder / "run.json", empty)
    html = write_report(empty, tmp_path / "into", n_resamples=50)[0].read_text("utf-8")
    assert "Not tested" in html
    assert "<table" in html


def test_a_folder_without_a_run_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "run.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="not JSON"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "run.json").write_text('{"tasks": []}', "utf-8")
    pq.write_table(pa.table({"task": ["a"]}), tmp_path / "scores.parquet")
    with pytest.raises(DataError, match="columns missing: cap, case"):
        write_report(tmp_path, tmp_path)


def test_numbers_are_written_short_and_aligned() -> None:
    assert number(0.0214) == ".021"
    assert number(-0.0001) == ".000"
    assert number(-1.25, 2) == "−1.25"
    assert number(0.5, is_signed=True) == "+.500"
    assert number(float("nan")) == "–"
    assert number(0, 0) == "0"
    assert span(-0.0141, 0.02) == "[−.014, .020]"


def test_what_each_branch_adds_is_said_with_its_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {"soft.persona": 0.5, "soft.blind": 0.1, "soft.persona+text": 0.6}
    monkeypatch.setattr(sys.modules[__name__], "SYSTEMS",
                        {**SYSTEMS, **dict.fromkeys(planted, "dual")})  # fmt: skip
    usual = gain
    monkeypatch.setattr(
        sys.modules[__name__], "gain",
        lambda task, system, low, shift: usual(task, system, low, shift) + planted.get(system, 0),
    )  # fmt: skip
    run = StoredRun(write_run(tmp_path / "run"))
    judge = Judge(run, RESAMPLES)
    section = branches_section(judge, main_ones(judge_tasks(judge, list(run.tasks()))))
    assert "soft.blind" in judge.rivals(next(iter(run.tasks())))
    assert "soft.persona" not in judge.rivals(next(iter(run.tasks())))
    table, *rest = section.blocks
    assert isinstance(table, Table)
    said = {row[1].text: row[2] for row in table.groups[0].rows}
    assert set(said) == {"soft.persona − ladder.0", "soft.persona − soft.blind"}
    injected = next(block for block in rest if isinstance(block, Table))
    assert [cell.text for cell in injected.groups[0].rows[0]] == [
        "soft.persona+text", "100%", "0%", "–", "240"
    ]  # fmt: skip
    assert all(cell.mark == "good" for cell in said.values())
    assert float(said["soft.persona − soft.blind"].text) == pytest.approx(0.4, abs=0.05)
    assert sum(isinstance(block, Figure) for block in rest) == 6  # three tasks


def test_a_run_without_soft_prompts_says_that_branches_were_not_compared(
    written: tuple[str, str, Path],
) -> None:
    assert "no soft prompt was trained" in written[0]
