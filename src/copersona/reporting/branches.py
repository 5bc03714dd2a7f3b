"""What each branch adds: text against graph, soft tokens against ones that know no user, the gate.

Pairs of systems whose difference is one part; a part pays where the first is better. Holm's
adjustment runs over all pairs of a task and kind of request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from copersona.reporting.claim import Judged, gain_cell
from copersona.reporting.comparisons import Comparison, Judge, aligned, strata
from copersona.reporting.document import (
    Block,
    Cell,
    Column,
    Figure,
    Group,
    Section,
    Sentence,
    Table,
    number,
)
from copersona.reporting.plots import Dot, draw_dots

PAIRS: tuple[tuple[str, str, str], ...] = (
    ("graph reasoning, in words", "ladder.7", "ladder.6"),
    ("soft tokens, beside text", "soft.persona+text", "ladder.7"),
    ("… what they know of the user", "soft.persona+text", "soft.blind+text"),
    ("the gate, over text alone", "gated.text", "ladder.7"),
    ("the gate, over both branches", "ladder.8", "soft.persona+text"),
    ("both branches, gated, over text", "ladder.8", "ladder.7"),
    ("the graph alone, as soft tokens", "soft.persona", "ladder.0"),
    ("… what they know of the user", "soft.persona", "soft.blind"),
    ("… over PPlug", "soft.persona", "soft.pplug"),
    ("… over E2P", "soft.persona", "soft.e2p"),
    ("… over one facet (F = 1)", "soft.persona", "soft.global_gnn"),
    ("… over LightGCN", "soft.persona", "soft.lightgcn"),
    ("text alone, over the graph alone", "ladder.7", "soft.persona"),
)
"""What is added, with it, and without it."""
_KINDS = ("all", "low", "high")
NONE = "ladder.0"
GATED = {"ladder.7": "", "gated.text": "ladder.7", "soft.persona+text": "",
         "ladder.8": "soft.persona+text"}  # fmt: skip
"""Systems with and without a gate; of a gated one, what it is without."""
MARGIN = 0.02
"""By how much a request must be worse than without anything to count as falsely injected."""


def branches_section(judge: Judge, main: Sequence[Judged]) -> Section:
    """What each branch adds, task by task; says so where no such system ran."""
    blocks: list[Block] = []
    for one in main:
        found = {kind: _compared(judge, one, kind) for kind in _KINDS}
        if any(found.values()):
            blocks += [_table(one, found), *_injection(one), *_figures(one, found)]
    missing = Sentence("Not in this run: no soft prompt was trained (`dual.*`).", "missing")
    return Section("Branches", tuple(blocks) or (missing,))


def _compared(judge: Judge, one: Judged, kind: str) -> dict[tuple[str, str], Comparison]:
    stratum = strata(one.task).get(kind)
    if stratum is None:
        return {}
    is_dual = any(name.startswith("soft.") for name in one.task.settings)
    pairs = [(first, second, stratum) for _, first, second in PAIRS
             if is_dual and {first, second} <= set(one.task.settings)]  # fmt: skip
    found = judge.compare(one.task, one.metric, one.setting, pairs)
    return {(each.system, each.rival): each for each in found}


def _table(one: Judged, found: dict[str, dict[tuple[str, str], Comparison]]) -> Table:
    columns = [Column("what is added", False), Column("systems", False)]
    columns += [Column(f"gain, {kind}") for kind in _KINDS] + [Column("p, all"), Column("n")]
    rows = []
    for title, first, second in PAIRS:
        each = {kind: found[kind].get((first, second)) for kind in _KINDS}
        said = each["all"]
        if said is None:
            continue
        rows.append((
            Cell(title), Cell(f"{first} − {second}"),
            *(gain_cell(e) if (e := each[kind]) else Cell("–") for kind in _KINDS),
            Cell(number(said.p)), Cell(f"{said.gain.n:,}"),
        ))  # fmt: skip
    title = f"{one.task.name}: gain in {one.metric.title}"
    return Table(title, tuple(columns), (Group("", tuple(rows)),))


def _injection(one: Judged) -> list[Table]:
    """How often something was put in that did harm, and what abstaining cost; where NLL decides."""
    columns = (
        Column("system", False), Column("something put in"),
        Column("false injections", note=f"of all requests: put in, and worse by > {MARGIN} nats"),
        Column("lost by abstaining", note="nats a token, a request, against the same without gate"),
        Column("n"),
    )  # fmt: skip
    if one.metric.name != "nll":
        return []
    rows = [row for name, without in GATED.items() if (row := _injected(one, name, without))]
    title = f"{one.task.name}: what was put in, and whether that was right"
    return [Table(title, columns, (Group("", tuple(rows)),))] if rows else []


def _injected(one: Judged, name: str, without: str) -> tuple[Cell, ...] | None:
    task, setting = one.task, one.setting
    ours, none = (task.find(system, "nll", setting) for system in (name, NONE))
    if ours is None or none is None:
        return None
    ours, none = aligned(ours, none)
    put_in = np.ones(len(ours.cases), bool)
    lost = "–"
    told = task.find(name, "injected", setting)
    if without and told is not None:
        put_in = told.among(ours.cases).values > 0
        full = task.find(without, "nll", setting)
        if full is not None:
            missed = np.where(put_in, 0, none.values - full.among(ours.cases).values)
            lost = number(float(missed.mean()), is_signed=True)
    harm = put_in & (ours.values - none.values > MARGIN)
    return (Cell(name), Cell(f"{put_in.mean():.0%}"), Cell(f"{harm.mean():.0%}"), Cell(lost),
            Cell(f"{len(put_in):,}"))  # fmt: skip


def _figures(one: Judged, found: dict[str, dict[tuple[str, str], Comparison]]) -> list[Figure]:
    drawn = []
    for kind in ("all", "low"):
        dots = [
            Dot(f"{first} − {second}", "dual", each.gain.difference, each.gain.low, each.gain.high,
                each.verdict != "no difference seen")
            for _, first, second in PAIRS
            if (each := found[kind].get((first, second)))
        ]  # fmt: skip
        if dots:
            name = f"branches-{one.task.name.replace('.', '-')}-{kind}"
            title = f"{one.task.name}, {kind} requests"
            svg = draw_dots(name, title, dots, x_label=f"gain in {one.metric.title}")
            drawn.append(Figure(name, f"What each branch adds: {title}", svg))
    return drawn
