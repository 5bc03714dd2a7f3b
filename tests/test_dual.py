"""Rungs 7 and 8 and the soft prompts of others, with a real model of random weights."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from copersona.contenders.dual import _averaged
from copersona.contenders.systems import SYSTEMS, find_systems
from copersona.errors import ConfigError
from copersona.evaluation.plans import PLANS, Plan
from copersona.evaluation.runs import REGISTERED, RunConfig, run
from copersona.evaluation.scoring import packed, unpacked
from copersona.records import Interaction
from copersona.reporting.branches import PAIRS
from copersona.tasks.cases import Task
from copersona.tasks.registry import find_tasks
from copersona.tasks.splits import lessons
from tiny_model import save_tiny_model

assert REGISTERED
NAMES = ("ladder.0", "ladder.6", "ladder.7", "soft.persona", "soft.blind", "soft.pplug",
         "soft.persona+text", "ladder.8")  # fmt: skip
SMALL = Plan(tasks=("demo.reply",), systems=NAMES, swept=(), caps=(), judged=NAMES,
             judged_shifted=(), n_judged=6, n_written=2, seeds=(0,), most=8, barred_too=False,
             aggregate=(), budget_tokens=900, soft_steps=2)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    folder = tmp_path_factory.mktemp("dual")
    model = save_tiny_model(folder / "model")
    config = RunConfig(out=folder / "out", cache=folder / "cache", plan=SMALL, llm=f"local:{model}",
                       threads=1)  # fmt: skip
    return config, run(config)


def rows_of(ran: tuple[RunConfig, Path], name: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = defaultdict(list)
    for row in pq.read_table(ran[1] / f"{name}.parquet").to_pylist():
        found[row["system"]].append(row)
    return found


def nll(ran: tuple[RunConfig, Path], system: str) -> np.ndarray:
    rows = [row for row in rows_of(ran, "scores")[system] if row["metric"] == "nll"]
    return np.array([row["value"] for row in sorted(rows, key=lambda row: row["case"])])


def test_every_system_is_judged_on_the_same_requests(ran: tuple[RunConfig, Path]) -> None:
    assert {len(nll(ran, name)) for name in NAMES} == {6}
    assert all(np.isfinite(nll(ran, name)).all() for name in NAMES)


def test_soft_tokens_reach_the_model(ran: tuple[RunConfig, Path]) -> None:
    assert not np.allclose(nll(ran, "soft.persona"), nll(ran, "ladder.0"))
    assert not np.allclose(nll(ran, "soft.persona"), nll(ran, "soft.blind"))
    assert not np.allclose(nll(ran, "soft.persona+text"), nll(ran, "ladder.7"))


def test_what_is_softened_is_not_answered_from_messages_alone(ran: tuple[RunConfig, Path]) -> None:
    written = rows_of(ran, "outputs")
    assert "ladder.6" in written
    assert "soft.persona" not in written


def test_too_few_lessons_leave_everything_in_and_are_said(ran: tuple[RunConfig, Path]) -> None:
    told = json.loads((ran[1] / "run.json").read_text("utf-8"))
    warnings = [line for task in told["tasks"] for line in task["warnings"]]
    assert any(line.startswith("gate: not fitted, so that all enters") for line in warnings)
    assert any(line.startswith("graph reasoning was not trained") for line in warnings)
    np.testing.assert_allclose(nll(ran, "ladder.8"), nll(ran, "soft.persona+text"))
    np.testing.assert_allclose(nll(ran, "ladder.7"), nll(ran, "ladder.6"))


def test_a_second_run_trains_nothing_again(ran: tuple[RunConfig, Path]) -> None:
    said: list[tuple[str, int, int]] = []
    run(ran[0], lambda *now: said.append(now))
    assert said[0] == ("predictions", said[0][2], said[0][2])


def test_without_a_local_model_soft_prompts_are_refused(tmp_path: Path) -> None:
    plan = Plan(tasks=("demo.reply",), systems=("soft.persona",), swept=(), most=4, seeds=(0,))
    with pytest.raises(ConfigError, match="local language model"):
        run(RunConfig(out=tmp_path / "out", cache=tmp_path / "cache", plan=plan))


def test_what_a_report_compares_is_there() -> None:
    known = set(SYSTEMS)
    assert {name for _, first, second in PAIRS for name in (first, second)} <= known
    assert {entry.name for entry in find_systems(PLANS["dual"].systems)} >= set(NAMES)


def test_lessons_come_from_before_and_hold_what_came_before_them() -> None:
    task: Task = find_tasks(["demo.reply"])[0]
    rows = [Interaction("ann", f"question {n} of many?", f"a long answer to number {n} by ann",
                        at=float(n), id=f"a{n}") for n in range(5)]  # fmt: skip
    found = lessons(task, rows, 2, 10)
    assert sorted(case.source for case in found) == ["a3", "a4"]
    for case in found:
        assert all(row.at < case.request.at for row in case.request.history)
    assert lessons(task, rows[:1], 2, 10) == []
    assert len(lessons(task, rows, 4, 3)) == 3


def test_soft_tokens_are_kept_as_they_are() -> None:
    soft = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    again = unpacked(packed(soft), 8)
    assert again is not None
    np.testing.assert_array_equal(again, soft)
    assert unpacked("", 8) is None


def test_vectors_are_averaged_over_those_listed() -> None:
    vectors = np.array([[1.0], [3.0], [8.0]])
    listed = np.array([[1, 2], [0, -1], [-1, -1]])
    np.testing.assert_allclose(_averaged(vectors, listed), [[5.5], [1.0], [8.0]])


def test_trainings_are_kept_under_names_that_another_process_finds(
    ran: tuple[RunConfig, Path],
) -> None:
    def kept() -> set[str]:
        return {path.name for path in (ran[0].cache / "training").glob("*/*")}

    before = kept()
    assert len(before) == 4  # persona, blind, pplug, persona beside text
    for part in (ran[0].cache / "parts").iterdir():
        part.unlink()
    run(ran[0])
    assert kept() == before
