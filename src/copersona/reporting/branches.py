"""What each branch adds: text against graph, soft tokens against ones that know no user, the gate.

Pairs of systems whose difference is one part; a part pays where the first is better. Holm's
adjustment runs over all pairs of a task and kind of request.
"""

from __future__ import annotations

from collections.abc import Sequence

from copersona.reporting.claim import Judged, gain_cell
from copersona.reporting.comparisons import Comparison, Judge, strata
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


def branches_section(judge: Judge, main: Sequence[Judged]) -> Section:
    """What each branch adds, task by task; says so where no such system ran."""
    blocks: list[Block] = []
    for one in main:
        found = {kind: _compared(judge, one, kind) for kind in _KINDS}
        if any(found.values()):
            blocks += [_table(one, found), *_figures(one, found)]
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
