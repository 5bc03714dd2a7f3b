"""The sections of a report beside the results: masked facets, the gate, costs, how it was made.

Knows stored runs, comparisons and the parts of a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.evaluation.metrics import calibration_error, false_injection_rate
from copersona.evaluation.statistics import bootstrap_mean, quantile_buckets
from copersona.reporting.comparisons import (
    METRICS,
    Judge,
    Metric,
    aligned,
    primary,
    rungs,
    settings,
)
from copersona.reporting.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Group,
    Section,
    Sentence,
    Table,
    number,
    span,
    table,
)
from copersona.reporting.results import by_family, subject, system_cell
from copersona.reporting.stored import Setting, StoredRun, TaskRun

Array = NDArray[Any]

WITHOUT_OTHERS = "ladder.2"
"""The rung that knows the user alone: what a request would have got without others."""

_COSTS = (("tokens", "tokens", 0), ("n_own", "own items", 1), ("n_peer", "peer items", 1),
          ("n_population", "population items", 1), ("ms", "ms, mean", 1))  # fmt: skip


def masked_section(run: StoredRun) -> Section:
    """Section 6: what foretells a facet that was hidden."""
    tables = [_masked_table(name, run.rows("masked", name)) for name in run.names("masked")]
    if not tables:
        return _absent("Masked facets", "Masked facets were not run.")
    note = Sentence("A well-supported facet is hidden, the rest cut short to so many interactions. "
                    "Share of the variance of what was hidden that is foretold; under it, as a "
                    "share of what could be foretold at all, and the slope of truth on "
                    "prediction, which is 1 where it is calibrated.", "small")  # fmt: skip
    return Section("Masked facets", (note, *tables))


def gate_section(run: StoredRun, judge: Judge, tasks: Sequence[TaskRun]) -> Section:
    """Section 7: does borrowing do harm, and are shares what they say."""
    return Section("Gate and calibration", (), (
        Section("False injection", tuple(_injection(judge, tasks))),
        Section("Does the gate know what borrowing is worth?", tuple(_worth(judge, tasks))),
        Section("Calibration of labels", tuple(_calibration(judge, tasks))),
    ))  # fmt: skip


def costs_section(judge: Judge, tasks: Sequence[TaskRun]) -> Section:
    """Section 8: what a request costs."""
    columns = [Column("system", False), *(Column(title) for _, title, _ in _COSTS),
               Column("ms, 95th percentile")]  # fmt: skip
    groups = [Group(task.name, rows) for task in tasks if (rows := tuple(_cost_rows(judge, task)))]
    if not groups:
        return _absent("Costs", "No costs were stored.")
    return Section("Costs", (Table("Per request, whole histories", tuple(columns), tuple(groups)),))


def making_section(run: StoredRun, judge: Judge, tasks: Sequence[TaskRun]) -> Section:
    """Section 9: what it takes to make this report again, and what its words mean."""
    named = {task.name for task in tasks}
    stored = [Cell(str(info["name"])) for info in run.info.get("tasks", [])]
    left = ", ".join(cell.text for cell in stored if cell.text not in named)
    blocks: list[Block] = [_facts(run)]
    if left:
        blocks.append(Sentence(f"Tasks without scores: {left}.", "missing"))
    return Section("How it was made", tuple(blocks), (
        Section("Tasks", (Bullets(tuple(f"{task.name}: {subject(task)}" for task in tasks)),)),
        Section("Metrics", (Bullets(tuple(
            f"{metric.arrow}: {metric.meaning}." for metric in METRICS.values())),)),
        Section("Systems", tuple(_systems(run, judge))),
    ))  # fmt: skip


def _absent(title: str, text: str) -> Section:
    return Section(title, (Sentence(text, "missing"),))


def _masked_table(task: str, rows: dict[str, Array]) -> Table:
    buckets = list(dict.fromkeys(rows["bucket"].tolist()))
    columns = [Column("comparator", False), *(Column(str(bucket)) for bucket in buckets)]
    groups = []
    for view in dict.fromkeys(rows["view"].tolist()):
        own = rows["view"] == view
        cells = {
            (rows["comparator"][at], rows["bucket"][at]): _masked_cell(rows, at)
            for at in np.flatnonzero(own).tolist()
        }
        n = ", ".join(f"{b}: {int(rows['n'][own & (rows['bucket'] == b)].max(initial=0)):,}"
                      for b in buckets)  # fmt: skip
        lines = [
            (Cell(str(name)), *(cells.get((name, bucket), Cell("–")) for bucket in buckets))
            for name in dict.fromkeys(rows["comparator"][own].tolist())
        ]
        groups.append(Group(f"{view} – n: {n}", tuple(lines)))
    return Table(f"{task}: R² ↑", tuple(columns), tuple(groups))


def _masked_cell(rows: dict[str, Array], at: int) -> Cell:
    ceiling, slope = float(rows["r2_over_ceiling"][at]), float(rows["slope"][at])
    known = (("of ceiling", number(ceiling), ceiling), ("slope", number(slope, 2), slope))
    details = [f"{title} {shown}" for title, shown, value in known if np.isfinite(value)]
    return Cell(number(float(rows["r2"][at])), detail=", ".join(details))


def _injection(judge: Judge, tasks: Sequence[TaskRun]) -> Iterator[Block]:
    columns = (
        Column("system", False), Column("n"), Column("borrowed", note="share of requests"),
        Column("false injections ↓", note="of the requests that borrowed, those that got worse"),
        Column("gain where borrowed", note="mean, with 95 % interval"),
    )  # fmt: skip
    groups = [Group(f"{task.name} – {metric.title}", rows) for task, metric in _decided(tasks)
              if (rows := tuple(_injection_rows(judge, task, metric)))]  # fmt: skip
    if not groups:
        yield Sentence("Not in this run: it takes a gate and the rung without others.", "missing")
        return
    caption = f"Requests that were given evidence of others, against {WITHOUT_OTHERS}"
    yield Table(caption, columns, tuple(groups))
    yield Sentence("A single request gets worse by chance too: without any effect the rate is near "
                   "one half where the metric is continuous.", "small")  # fmt: skip


def _decided(tasks: Sequence[TaskRun]) -> list[tuple[TaskRun, Metric]]:
    return [(task, metric) for task in tasks if (metric := primary(task)) is not None]


def _injection_rows(judge: Judge, task: TaskRun, metric: Metric) -> Iterator[tuple[Cell, ...]]:
    for system in _borrowing(judge, task):
        found = _against_none(task, metric, system, "borrowed")
        if found is None:
            continue
        users, gains, is_borrowed = found[0], found[1], found[2] > 0
        rate = false_injection_rate(is_borrowed, gains)
        gain = bootstrap_mean(
            gains[is_borrowed], users[is_borrowed].tolist(), n_resamples=judge.n_resamples
        )
        yield (
            system_cell(judge, system), Cell(f"{len(gains):,}"),
            Cell(_share(float(is_borrowed.mean()))), Cell(_share(rate)),
            Cell(number(gain.mean, is_signed=True), detail=span(gain.low, gain.high)),
        )  # fmt: skip


def _borrowing(judge: Judge, task: TaskRun) -> list[str]:
    """The rungs above the one without others."""
    climbed = rungs(judge.names(task, "ladder"))
    at = climbed.index(WITHOUT_OTHERS) if WITHOUT_OTHERS in climbed else len(climbed)
    return climbed[at + 1 :]


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "–"


def _against_none(
    task: TaskRun, metric: Metric, system: str, name: str
) -> tuple[Array, Array, Array] | None:
    """Users, gains over the rung without others, and one more number of each request."""
    setting = settings(task)[0]
    ours, theirs = (task.find(s, metric.name, setting) for s in (system, WITHOUT_OTHERS))
    more = task.find(system, name, setting)
    if ours is None or theirs is None or more is None:
        return None
    ours, theirs = aligned(ours, theirs, more.cases)
    gains = metric.sign * (ours.values - theirs.values)
    return (ours.users, gains, more.among(ours.cases).values) if len(gains) else None


def _worth(judge: Judge, tasks: Sequence[TaskRun]) -> Iterator[Block]:
    columns = (Column("system", False), *(Column(f"worth: {part}")
               for part in ("lowest third", "middle", "highest third")))  # fmt: skip
    groups = [Group(f"{task.name} – {metric.title}", rows) for task, metric in _decided(tasks)
              if (rows := tuple(_worth_rows(judge, task, metric)))]  # fmt: skip
    if not groups:
        yield Sentence("Not in this run: no gate said what borrowing is worth.", "missing")
        return
    yield Table(f"Gain over {WITHOUT_OTHERS} by what the gate foretold", columns, tuple(groups))


def _worth_rows(judge: Judge, task: TaskRun, metric: Metric) -> Iterator[tuple[Cell, ...]]:
    for system in _borrowing(judge, task):
        found = _against_none(task, metric, system, "worth")
        buckets = quantile_buckets(found[2], 3) if found else None
        if found and buckets and len(buckets.labels) == 3:
            yield (
                system_cell(judge, system),
                *(_gain_cell(found, buckets.numbers == row, judge) for row in range(3)),
            )


def _gain_cell(found: tuple[Array, Array, Array], at: Array, judge: Judge) -> Cell:
    users, gains, _ = found
    gain = bootstrap_mean(gains[at], users[at].tolist(), n_resamples=judge.n_resamples)
    return Cell(number(gain.mean, is_signed=True), detail=span(gain.low, gain.high))


def _calibration(judge: Judge, tasks: Sequence[TaskRun]) -> Iterator[Block]:
    columns = (Column("system", False), Column("n"),
               Column("calibration error ↓", note="mean gap between foretold and observed share"),
               Column("foretold"), Column("observed"))  # fmt: skip
    groups = []
    for task in tasks:
        for family, members in by_family(judge, judge.names(task)):
            rows = [row for name in members
                    if (row := _calibration_row(judge, task, name, settings(task)[0]))]  # fmt: skip
            if rows:
                groups.append(Group(f"{task.name} – {family}", tuple(rows)))
    if groups:
        yield Table("Share of the positive label, tasks with two labels", columns, tuple(groups))
    else:
        yield Sentence("Not in this run: it takes tasks with two labels.", "missing")


def _calibration_row(
    judge: Judge, task: TaskRun, system: str, setting: Setting
) -> tuple[Cell, ...] | None:
    labels = task.labels(system, setting)
    if labels is None or not np.isfinite(labels.p_positive).all():
        return None
    is_positive = labels.truth == labels.positive
    error = calibration_error(labels.p_positive, is_positive)
    return (
        system_cell(judge, system), Cell(f"{len(is_positive):,}"), Cell(number(error)),
        Cell(number(float(labels.p_positive.mean()))), Cell(number(float(is_positive.mean()))),
    )  # fmt: skip


def _cost_rows(judge: Judge, task: TaskRun) -> Iterator[tuple[Cell, ...]]:
    for _, members in by_family(judge, judge.names(task)):
        for system in members:
            found = {name: task.find(system, name, settings(task)[0]) for name, _, _ in _COSTS}
            if any(found.values()):
                slow = found["ms"]
                yield (
                    system_cell(judge, system),
                    *(
                        Cell(number(float(series.values.mean()), digits) if series else "–")
                        for (_, _, digits), series in zip(_COSTS, found.values(), strict=True)
                    ),
                    Cell(number(float(np.quantile(slow.values, 0.95)), 1) if slow else "–"),
                )


def _facts(run: StoredRun) -> Table:
    """Whatever `run.json` says but its lists of tasks and systems."""
    rows = [
        [Cell(name.replace("_", " ")), Cell(_plain(value))]
        for name, value in run.info.items()
        if name not in ("tasks", "systems")
    ]
    return table("From run.json", (Column("what", False), Column("value", False)), rows)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return (value or "none") if isinstance(value, str) else json.dumps(value)


def _systems(run: StoredRun, judge: Judge) -> Iterator[Block]:
    columns = (Column("system", False), Column("tasks", False),
               Column("what it is and where it comes from", False))  # fmt: skip
    groups = []
    for family, members in by_family(judge, run.systems):
        infos = [(name, run.systems[name]) for name in members]
        rows = [(system_cell(judge, name), Cell(_plain(info.get("kinds", []))), Cell(_source(info)))
                for name, info in infos]  # fmt: skip
        groups.append(Group(family, tuple(rows)))
    if groups:
        yield Table("Systems of this run", columns, tuple(groups))
    else:
        yield Sentence("run.json lists no systems.", "missing")


def _source(info: Any) -> str:
    random = "random: mean of its seeds" if info.get("is_random") else ""
    parts = [info.get("description"), info.get("source"), random]
    return "; ".join(str(part) for part in parts if part)
