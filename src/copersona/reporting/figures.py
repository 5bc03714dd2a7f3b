"""The plots of a report, made from stored runs: what is drawn, not how.

Knows stored runs, comparisons and the drawing functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from copersona.evaluation.metrics import reliability
from copersona.evaluation.statistics import LEVEL, bootstrap_mean, quantile_buckets
from copersona.reporting.claim import Judged
from copersona.reporting.comparisons import (
    OWN,
    Comparison,
    Judge,
    Metric,
    full_of,
    primary,
    rungs,
    settings,
)
from copersona.reporting.document import Block, Figure, Section, Sentence
from copersona.reporting.plots import (
    Dot,
    Line,
    Weight,
    draw_curves,
    draw_dots,
    draw_matrix,
    draw_reliability,
)
from copersona.reporting.stored import CAPS, StoredRun, TaskRun

Array = NDArray[Any]

MAIN_RUNGS = ("ladder.0", OWN, "ladder.3")
"""Named in curves, as are the full system and the best baseline; the others stay behind."""


def figures_section(
    run: StoredRun, judge: Judge, tasks: Sequence[TaskRun], main: Sequence[Judged]
) -> Section:
    """Section 3: all plots, by kind."""
    return Section("Plots", (), (
        _part("Support curve", "The deciding metric against the most own interactions kept. Band: "
              "95 % interval of the full system. Grey: baselines, the best of them by name.",
              [_curve(judge, task) for task in tasks]),
        _part("Ladder", "Gain of each rung over the one before, with 95 % intervals; full dots "
              "differ after Holm's adjustment.",
              [_ladder(judge, one, kind) for one in main for kind in ("all", "low")]),
        _part("The full system against every rival", "Gain where support is low; right of zero the "
              "full system is better. Full dots differ after Holm's adjustment.",
              [_forest(judge, one) for one in main]),
        _part("Reliability", "Tasks with two labels: how often the positive label was right, "
              "against the share foretold.", [_reliability(judge, task) for task in tasks]),
        _part("Borrowed evidence", "Share of the evidence shown that comes from others, against "
              "own interactions in the request's facet, a sixth of the requests a point.",
              [_borrowed(judge, task) for task in tasks]),
        _part("Transfer", "T: how far similarity in one layer foretells agreement in a facet.",
              [_transfer(run, name) for name in run.names("transfer")]),
    ))  # fmt: skip


def _part(title: str, note: str, figures: Sequence[Figure | None]) -> Section:
    drawn = [figure for figure in figures if figure is not None]
    blocks: tuple[Block, ...] = (Sentence(note, "small"), *drawn)
    return Section(title, blocks if drawn else (Sentence("Not in this run.", "missing"),))


def _name(*parts: str) -> str:
    """The name of a figure: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _curve(judge: Judge, task: TaskRun) -> Figure | None:
    metric = primary(task)
    if metric is None:
        return None
    found = {k.cap for k in task.series if k.shift == "none" and k.metric == metric.name}
    caps = [cap for cap in CAPS if cap in found]
    if len(caps) < 2:
        return None
    best = _best_baseline(judge, task, metric)
    shown = (*MAIN_RUNGS, full_of(task))
    drawn = [_cap_line(judge, task, metric, name, caps, _weight(task, name, *best))
             for name in judge.names(task, "baseline", "ladder")
             if name in shown or judge.family(name) == "baseline"]  # fmt: skip
    lines = [line for line in drawn if line is not None]
    svg = draw_curves(
        _name("curve", task.name), task.name, lines, x_label="own interactions kept, at most",
        y_label=_axis(metric), ticks=caps,
    )  # fmt: skip
    return Figure(_name("curve", task.name), f"Support curve of {task.name}", svg)


def _axis(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit and metric.unit != metric.title else ""
    return f"{metric.title}{unit} ({'higher' if metric.is_higher_better else 'lower'} is better)"


def _best_baseline(judge: Judge, task: TaskRun, metric: Metric) -> list[str]:
    setting = settings(task)[0]
    means = {
        name: metric.sign * float(series.values.mean())
        for name in judge.names(task, "baseline")
        if (series := task.find(name, metric.name, setting)) is not None
    }
    return [max(means, key=means.__getitem__)] if means else []


def _cap_line(
    judge: Judge, task: TaskRun, metric: Metric, system: str, caps: Sequence[str], weight: Weight
) -> Line | None:
    points = []
    for x, cap in enumerate(caps):
        series = task.find(system, metric.name, settings(task)[0], cap)
        if series is not None:
            points.append(_point(x, series.values, series.users, judge.n_resamples // 5))
    return _line(system, judge.family(system), points, weight) if points else None


def _point(x: float, values: Array, users: Array, n_resamples: int) -> list[float]:
    mean = bootstrap_mean(values, users.tolist(), n_resamples=n_resamples)
    return [x, mean.mean, mean.low, mean.high]


def _weight(task: TaskRun, system: str, *named: str) -> Weight:
    if system == full_of(task):
        return "focus"
    return "named" if system in (*MAIN_RUNGS, *named) else "behind"


def _line(label: str, family: str, points: Sequence[Sequence[float]], weight: Weight) -> Line:
    x, y, low, high = np.array(points, dtype=float).T
    return Line(label, family, x, y, low, high, weight)


def _ladder(judge: Judge, one: Judged, kind: str) -> Figure | None:
    found = one.ladder.get(kind, [])
    if not found:
        return None
    dots = [_dot(judge, each, each.system) for each in found]
    name, title = _name("ladder", one.task.name, kind), f"{one.task.name}, {found[0].stratum.title}"
    svg = draw_dots(name, title, dots, x_label=_gain_axis(one.metric, "the rung before"))
    return Figure(name, f"Ladder of {title}", svg)


def _forest(judge: Judge, one: Judged) -> Figure | None:
    found = [each for each in one.claim.rivals if each.stratum.name == "low"]
    if not found:
        return None
    found.sort(key=lambda each: -each.gain.difference)
    dots = [_dot(judge, each, each.rival) for each in found]
    name = _name("forest", one.task.name)
    title = f"{one.task.name}, {found[0].stratum.title}"
    svg = draw_dots(name, title, dots, x_label=_gain_axis(one.metric, "the rival"))
    return Figure(name, f"{full_of(one.task)} against rivals, {title}", svg)


def _gain_axis(metric: Metric, over: str) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"gain over {over} in {metric.title}{unit}"


def _dot(judge: Judge, each: Comparison, label: str) -> Dot:
    gain, is_clear = each.gain, each.verdict != "no difference seen"
    return Dot(label, judge.family(label), gain.difference, gain.low, gain.high, is_clear)


def _reliability(judge: Judge, task: TaskRun) -> Figure | None:
    if task.info["kind"] != "label":
        return None
    lines = []
    for system in (OWN, full_of(task)):
        labels = task.labels(system, settings(task)[0])
        if labels is not None and np.isfinite(labels.p_positive).all():
            is_positive = labels.truth == labels.positive
            bins = [b for b in reliability(labels.p_positive, is_positive) if b.weight]
            points = [[b.confidence, b.accuracy, *_wilson(b.accuracy, b.weight)] for b in bins]
            lines.append(_line(system, judge.family(system), points, _weight(task, system)))
    if not lines:
        return None
    name = _name("reliability", task.name)
    svg = draw_reliability(name, task.name, lines)
    return Figure(name, f"Reliability on {task.name}", svg)


def _wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of n cases, taken as independent."""
    found = binomtest(round(share * n), round(n)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def _borrowed(judge: Judge, task: TaskRun) -> Figure | None:
    lines = [line for name in rungs(judge.names(task, "ladder"))
             if (line := _borrowed_line(judge, task, name)) is not None]  # fmt: skip
    if not lines:
        return None
    name = _name("borrowed", task.name)
    svg = draw_curves(
        name, task.name, lines, x_label="own interactions in the facet (mean of the bucket)",
        y_label="share of evidence from others",
    )  # fmt: skip
    return Figure(name, f"Borrowed evidence on {task.name}", svg)


def _borrowed_line(judge: Judge, task: TaskRun, system: str) -> Line | None:
    setting = settings(task)[0]
    found = [task.find(system, name, setting) for name in ("n_own", "n_peer", "n_population")]
    own, peer, population = found
    if own is None or peer is None or population is None:
        return None
    cases = own.cases[np.isin(own.cases, peer.cases) & np.isin(own.cases, population.cases)]
    own, peer, population = (each.among(cases) for each in (own, peer, population))
    total = own.values + peer.values + population.values
    others = peer.values + population.values
    has_any = total > 0
    if not others.any():
        return None
    points = [
        _point(x, others[at] / total[at], own.users[at], judge.n_resamples // 5)
        for x, at in _support_buckets(task, cases, has_any)
    ]
    return _line(system, judge.family(system), points, _weight(task, system)) if (
        len(points) > 1) else None  # fmt: skip


def _support_buckets(task: TaskRun, cases: Array, keep: Array) -> Iterator[tuple[float, Array]]:
    """Mean own support of every sixth of the cases, and where they stand."""
    known = dict(zip(task.attributes["case"].tolist(), task.attributes["support"], strict=True))
    support = np.array([known.get(case, np.nan) for case in cases.tolist()], dtype=float)
    at = np.flatnonzero(keep & np.isfinite(support))
    buckets = quantile_buckets(support[at], 6)
    for row in range(len(buckets.labels)):
        rows = at[buckets.numbers == row]
        yield float(support[rows].mean()), rows


def _transfer(run: StoredRun, task: str) -> Figure | None:
    rows = run.rows("transfer", task)
    facets, layers = np.unique(rows["facet"]), np.unique(rows["layer"])
    values = np.full((len(facets), len(layers)), np.nan)
    at = np.searchsorted(facets, rows["facet"]), np.searchsorted(layers, rows["layer"])
    values[at] = rows["value"]
    named = [_named(rows, "facet", facets), _named(rows, "layer", layers)]
    name = _name("transfer", task)
    return Figure(
        name, f"Transfer between layers on {task}", draw_matrix(name, task, values, *named)
    )


def _named(rows: dict[str, Array], axis: str, numbers: Array) -> list[str]:
    names = dict(zip(rows[axis].tolist(), rows[f"{axis}_name"].tolist(), strict=True))
    return [_short(str(names[number])) for number in numbers.tolist()]


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
