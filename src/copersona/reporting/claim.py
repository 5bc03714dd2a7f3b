"""The verdict of a report: what the numbers say of the claim and of each rung, in sentences.

The words are made from comparisons alone; a sentence always carries its n, its interval, its p and,
where nothing was seen, what could have been. Knows comparisons and the parts of a report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

from copersona.reporting.comparisons import (
    ALPHA,
    OWN,
    Comparison,
    Judge,
    Metric,
    Outcome,
    TaskClaim,
    Verdict,
    primary,
    rungs,
    settings,
    strata,
)
from copersona.reporting.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Folded,
    Group,
    Mark,
    Section,
    Sentence,
    Table,
    number,
    span,
    table,
)
from copersona.reporting.stored import Setting, TaskRun

KINDS = {"all": "all requests", "low": "low-support requests"}
"""Kinds of request on which the ladder is climbed."""
MOST_IN_FULL = 3
"""More rivals of one verdict than this are named, and only the most telling is given in full."""
OUTCOMES: tuple[Outcome, ...] = ("supported", "not supported", "contradicted", "not tested")
_MOST_READ = 3
"""Tasks of which sentences are shown at once."""
CLAIM = (
    "The claim: on requests in a facet where the user has little evidence, the full system (the "
    "highest rung that was run) is better than every rival; where the user has much, it is never "
    f"significantly worse than retrieval from the own history ({OWN})."
)


@dataclass(frozen=True)
class Judged:
    """Everything compared for one task in one setting.

    Attributes:
        ladder: kind of request (`all`, `low`) -> rungs against the ones before.
    """

    task: TaskRun
    metric: Metric
    setting: Setting
    claim: TaskClaim
    ladder: dict[str, list[Comparison]]


def judge_tasks(judge: Judge, tasks: Sequence[TaskRun]) -> list[Judged]:
    """All tasks on which something decides, in all their settings, the main one first."""
    found = []
    for task in tasks:
        metric, kinds = primary(task), strata(task)
        if metric is None:
            continue
        for setting in settings(task):
            ladder: dict[str, list[Comparison]] = {
                name: judge.ladder(task, metric, setting, kinds[name])
                for name in KINDS
                if name in kinds
            }
            claim = judge.claim(task, metric, setting)
            found.append(Judged(task, metric, setting, claim, ladder))
    return found


def main_ones(judged: Sequence[Judged]) -> list[Judged]:
    """Of every task the main setting."""
    return [next(each) for _, each in groupby(judged, key=lambda each: each.task.name)]


def verdict_section(judged: Sequence[Judged]) -> Section:
    """Section 1: is the claim supported, and does every rung pay for itself."""
    main = main_ones(judged)
    return Section("Verdict", tuple(_overall(main)), (
        Section("The claim, task by task", tuple(_claim_blocks(main))),
        Section("The ladder: does each rung pay for itself?", tuple(_ladder_blocks(main))),
        Section("The same in other settings", tuple(_setting_blocks(judged))),
    ))  # fmt: skip


def overall(outcomes: Sequence[Outcome]) -> Outcome:
    """One word for all tasks: one loss contradicts, one task without a win does not support."""
    tested = [outcome for outcome in outcomes if outcome != "not tested"]
    worst: tuple[Outcome, ...] = ("contradicted", "not supported", "supported")
    return next((outcome for outcome in worst if outcome in tested), "not tested")


def p_text(p: float) -> str:
    """Such as `p = .031` or `p < .001`."""
    return "p < .001" if p < 0.001 else f"p = {number(p)}"


def gain_cell(each: Comparison) -> Cell:
    """A gain with its interval, marked if it is a win or a loss."""
    mark: Mark = "good" if each.verdict == "better" else "bad" if each.verdict == "worse" else ""
    gain = each.gain
    return Cell(number(gain.difference, is_signed=True), mark, span(gain.low, gain.high))


def _overall(main: Sequence[Judged]) -> Iterator[Block]:
    outcomes = [each.claim.outcome for each in main]
    word = overall(outcomes)
    named = {
        outcome: [each.task.name for each in main if each.claim.outcome == outcome]
        for outcome in OUTCOMES
    }
    where = "; ".join(
        f"{outcome} on {len(names)} of {len(main)} tasks ({', '.join(names)})"
        for outcome, names in named.items()
        if names
    )
    yield Sentence(
        f"{word.capitalize()}. The claim is {where or 'not tested: no scores'}.", "verdict"
    )
    yield Sentence(CLAIM)
    rivals = [rival for each in main for rival in each.claim.rivals]
    if rivals:
        yield Sentence(_tally_sentence(rivals))
    yield Sentence(_rules(len(main)), "small")


def _tally_sentence(rivals: Sequence[Comparison]) -> str:
    counts = Counter(each.verdict for each in rivals)
    return (
        f"Against rivals where support is low: {len(rivals)} comparisons, {counts['better']} won, "
        f"{counts['worse']} lost, no difference seen in {counts['no difference seen']}."
    )


def _rules(n_tasks: int) -> str:
    by_chance = number(n_tasks * ALPHA / 2, 1)
    return (
        f"Better and worse: p < {number(ALPHA, 2)} in a paired bootstrap clustered by user, "
        "adjusted by Holm for all comparisons of the claim on one task (and of the ladder on one "
        "task and kind of request); intervals are of 95 % and not adjusted. The test against own "
        "retrieval where support is high is not adjusted, so that a loss is not made harder to "
        f"see; of {n_tasks} such tests about {by_chance} are lost by chance where there is no "
        "difference. Low and high support: lowest and highest quarter of own confidence in the "
        "request's facet. A gain is positive where the first system is better. “Could have seen”: "
        "the difference that so many users show with 80 % power before adjustment."
    )


def _claim_blocks(main: Sequence[Judged]) -> Iterator[Block]:
    columns = (
        Column("task", False), Column("measure", False), Column("claim", False),
        Column("low support: won / lost / unseen"), Column("facet deleted: won / lost / unseen"),
        Column(f"against {OWN}, high support", note="gain with 95 % interval"),
    )  # fmt: skip
    yield table("Outcome of the claim on each task", columns, [_claim_row(each) for each in main])
    said = tuple(Bullets(tuple(claim_sentences(each))) for each in main)
    if len(said) > _MOST_READ:
        yield Folded("In words, task by task", said)
    else:
        yield from said
    rivals = tuple(
        Group(f"{each.task.name} – gain in {each.metric.title}", tuple(_rival_rows(each.claim)))
        for each in main
        if each.claim.rivals
    )
    if rivals:
        heads = (Column("rival", False), *_pair_columns("low support", "facet deleted"))
        yield Folded(
            "Every comparison", (Table("The full system against every rival", heads, rivals),)
        )


def _pair_columns(*kinds: str) -> Iterator[Column]:
    for kind in kinds:
        yield from (Column(f"gain, {kind}"), Column("p"), Column("could have seen"), Column("n"))


def _rival_rows(claim: TaskClaim) -> Iterator[tuple[Cell, ...]]:
    found = {(each.rival, each.stratum.name): each for each in claim.rivals}
    for rival in dict.fromkeys(each.rival for each in claim.rivals):
        cells = [_pair_cells(found.get((rival, kind))) for kind in ("low", "deleted")]
        yield (Cell(rival), *cells[0], *cells[1])


def _pair_cells(each: Comparison | None) -> list[Cell]:
    if each is None:
        return [Cell("–")] * 4
    return [gain_cell(each), Cell(number(each.p)), Cell(number(each.gain.detectable)),
            Cell(f"{each.gain.n:,}")]  # fmt: skip


def _claim_row(each: Judged) -> list[Cell]:
    claim = each.claim
    marks: dict[str, Mark] = {"supported": "good", "contradicted": "bad"}
    own = gain_cell(claim.own) if claim.own else Cell("–")
    return [
        Cell(claim.task), Cell(each.metric.title),
        Cell(claim.outcome, marks.get(claim.outcome, "")),
        Cell(_counts(claim, "low")), Cell(_counts(claim, "deleted")), own,
    ]  # fmt: skip


def _counts(claim: TaskClaim, stratum: str) -> str:
    counts = [
        claim.count("better", stratum), claim.count("worse", stratum),
        claim.count("no difference seen", stratum),
    ]  # fmt: skip
    return " / ".join(map(str, counts)) if sum(counts) else "–"


def claim_sentences(each: Judged) -> Iterator[str]:
    """What was seen of the claim on one task, one sentence for each kind of request."""
    claim = each.claim
    for _, found in groupby(claim.rivals, key=lambda rival: rival.stratum.name):
        yield _against(claim.task, list(found))
    if claim.own:
        yield _against(claim.task, [claim.own])
    if not each.task.info["has_peers"]:
        yield (f"{claim.task}: users have no peers to borrow from, so the full system must only "
               "not be worse than own retrieval.")  # fmt: skip
    yield from _not_compared(claim)


def _not_compared(claim: TaskClaim) -> Iterator[str]:
    """Who is missing, for each kind of request."""
    of_kind: dict[str, list[str]] = {}
    for missing in claim.missing:
        system, _, kind = missing.partition(" on ")
        of_kind.setdefault(kind, []).append(system)
    for kind, systems in of_kind.items():
        where = f"on {kind} " if kind else ""
        yield f"{claim.task}: not compared {where}({len(systems)}): {', '.join(systems)}."


def _against(task: str, found: Sequence[Comparison]) -> str:
    first = found[0]
    sorted_out: dict[Verdict, list[Comparison]] = {
        "better": sorted((each for each in found if each.verdict == "better"), key=_gain),
        "worse": sorted((each for each in found if each.verdict == "worse"), key=_gain),
        "no difference seen": sorted(
            (each for each in found if each.verdict == "no difference seen"),
            key=lambda each: each.p,
        ),
    }
    parts = [_those(verdict, group) for verdict, group in sorted_out.items() if group]
    n = _range({each.gain.n for each in found})
    n_users = _range({each.gain.n_users for each in found})
    return f"On {task}, {first.stratum.title} (n = {n}, {n_users} users): {first.system} is " + (
        f"{'; '.join(parts)}.")  # fmt: skip


def _gain(each: Comparison) -> float:
    return each.gain.difference


def _those(verdict: Verdict, group: Sequence[Comparison]) -> str:
    """Rivals of one verdict: in full if they are few, else by name, and the most telling in full.

    The most telling is the smallest win, the largest loss, what was nearest to being seen.
    """
    start = {"better": "better than ", "worse": "worse than "}.get(
        verdict, "not distinguishable from "
    )
    if len(group) <= MOST_IN_FULL:
        return start + ", ".join(map(_phrase, group))
    telling = {"better": "the closest:", "worse": "the worst:"}.get(
        verdict, "nearest to a difference:"
    )
    names = ", ".join(each.rival for each in group)
    return f"{start}{len(group)} rivals ({names}), {telling} {_phrase(group[0])}"


def _phrase(each: Comparison) -> str:
    gain, unit = each.gain, each.metric.unit or each.metric.title
    around = span(gain.low, gain.high)
    if each.verdict == "no difference seen":
        could = number(gain.detectable)
        return (f"{each.rival} ({number(gain.difference, is_signed=True)} {unit} {around}, "
                f"{p_text(each.p)}; could have seen {could})")  # fmt: skip
    if each.verdict == "worse":
        around = span(-gain.high, -gain.low)
    return f"{each.rival} by {number(abs(gain.difference))} {unit} {around}, {p_text(each.p)}"


def _range(numbers: set[int]) -> str:
    return f"{min(numbers):,}–{max(numbers):,}" if len(numbers) > 1 else f"{min(numbers):,}"


def _ladder_blocks(main: Sequence[Judged]) -> Iterator[Block]:
    found = {(each.system, each.rival) for one in main for each in one.ladder.get("all", [])}
    order = rungs(rung for rung, _ in found)
    steps = sorted(found, key=lambda step: (order.index(step[0]), step[1]))
    if not steps:
        yield Sentence("No two rungs were run.", "missing")
        return
    yield Bullets(tuple(_step_sentence(main, *step) for step in steps))
    yield Sentence("A rung pays for itself if it is better on some task, on all or on low-support "
                   "requests, and worse on none.", "small")  # fmt: skip
    for kind, title in KINDS.items():
        yield _step_matrix(main, steps, kind, title)
    groups = tuple(
        Group(f"{one.task.name} – gain in {one.metric.title}", tuple(_ladder_rows(one)))
        for one in main
        if one.ladder.get("all")
    )
    columns = (Column("rung, after the one before", False), *_pair_columns(*KINDS.values()))
    yield Folded("Every step with its p", (
        Table("Each rung against the one before", columns, groups),
    ))  # fmt: skip


def _step_matrix(
    main: Sequence[Judged], steps: Sequence[tuple[str, str]], kind: str, title: str
) -> Table:
    columns = [Column("task", False), Column("measure", False)]
    columns += [Column(f"{rung} − {before}") for rung, before in steps]
    rows = []
    for one in main:
        found = {(each.system, each.rival): each for each in one.ladder.get(kind, [])}
        cells = [gain_cell(found[step]) if step in found else Cell("–") for step in steps]
        rows.append([Cell(one.task.name), Cell(one.metric.title), *cells])
    return table(f"Gain of each rung over the one before, {title}", columns, rows)


def _step_sentence(main: Sequence[Judged], rung: str, before: str) -> str:
    found = {
        kind: {
            one.task.name: each.verdict
            for one in main
            for each in one.ladder.get(kind, [])
            if (each.system, each.rival) == (rung, before)
        }
        for kind in KINDS
    }
    verdicts = {verdict for of_task in found.values() for verdict in of_task.values()}
    pays = (
        "does not pay for itself: it also loses" if {"better", "worse"} <= verdicts
        else "does not pay for itself: it loses" if "worse" in verdicts
        else "pays for itself" if "better" in verdicts
        else "does not pay for itself: no gain seen"
    )  # fmt: skip
    said = "; ".join(f"{KINDS[kind]}: {_counted(each)}" for kind, each in found.items() if each)
    return f"{rung} after {before} {pays}. {said[:1].upper()}{said[1:]}."


def _counted(verdicts: Mapping[str, Verdict]) -> str:
    """How many tasks have which verdict, and which they are unless nothing was seen there."""
    parts = []
    for verdict in get_args(Verdict):
        tasks = [task for task, each in verdicts.items() if each == verdict]
        named = f" ({', '.join(tasks)})" if verdict != "no difference seen" else ""
        if tasks:
            parts.append(f"{verdict} on {len(tasks)} of {len(verdicts)}{named}")
    return ", ".join(parts)


def _ladder_rows(one: Judged) -> Iterator[tuple[Cell, ...]]:
    low = {(each.system, each.rival): each for each in one.ladder.get("low", [])}
    for each in one.ladder["all"]:
        also = low.get((each.system, each.rival))
        name = Cell(f"{each.system} − {each.rival}", family="ladder")
        yield (name, *_pair_cells(each), *_pair_cells(also))


def _setting_blocks(judged: Sequence[Judged]) -> Iterator[Block]:
    names = list(dict.fromkeys(each.setting for each in judged))
    if len(names) < 2:
        yield Sentence("The run has one setting only.", "missing")
        return
    columns = [Column("task", False)] + [Column(str(setting), False) for setting in names]
    rows = []
    for task, group in groupby(judged, key=lambda each: each.task.name):
        by_setting = {each.setting: each for each in group}
        rows.append([Cell(task)] + [_setting_cell(by_setting.get(s)) for s in names])
    yield table("The claim, by what may be lent and whether the same item counts", columns, rows)
    yield Sentence("Won / lost / unseen where support is low. Verdicts above are of the first "
                   "setting a task ran in.", "small")  # fmt: skip


def _setting_cell(each: Judged | None) -> Cell:
    if each is None:
        return Cell("–")
    marks: dict[str, Mark] = {"supported": "good", "contradicted": "bad"}
    outcome = each.claim.outcome
    return Cell(outcome, marks.get(outcome, ""), _counts(each.claim, "low"))
