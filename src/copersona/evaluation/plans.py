"""Sizes of a run: which tasks, which systems, which histories, and what a language model judges.

`smoke` takes seconds and needs no data, `glance` is for a language model that takes seconds a
context, `dual` trains soft prompts and the gate, `small` is for a laptop, `full` for a machine with
a GPU or a night. A plan says nothing of where data or models are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from copersona.contenders.systems import TEXT, VOTES, Entry, find_systems
from copersona.evaluation.parts import Setting
from copersona.tasks.cases import Shift, Task

_MAIN = ("ladder.1", "ladder.2p", "ladder.3", "ladder.6", "population", "control.random_peers")
_SWEPT = (*_MAIN, "ladder.0", "ladder.2", "zero_shot", "own_bm25", "global_peers", "own_majority",
          "item_user_bias")  # fmt: skip
_GLANCE = ("acl.title", "amazon.title", "critics.review", "huffpost.headline")
_ENDS = ("ladder.0", "ladder.1", "ladder.2p", "ladder.6", "population")
_DUAL = (*_ENDS, "own_bm25", "ladder.3", "dual.*", "control.random_peers")
_SMALL = ("acl.title", "critics.review", "critics.verdict", "huffpost.headline",
          "huffpost.section", "amazon.title", "amazon.rating", "amazon14.rating",
          "movielens.rating", "blogs.continuation")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        systems: names as `find_systems` takes them; all are run on whole histories.
        swept: those also run on histories cut to each of `caps` and shifted.
        n_swept: requests of each task in what is not the base setting, and for ablations.
        judged: those whose contexts a language model judges, on whole histories.
        judged_shifted: the same where the request's facet is deleted.
        n_judged: requests of each task that are judged, the same ones for all systems.
        n_written: of these, requests that the language model also answers.
        seeds: for systems that depend on chance; the others take the first.
        most: requests of each task; None takes all.
        masked: tasks on whose data masked facets are predicted.
        barred_too: whether votes are also run with the same item barred, and texts with it allowed.
        aggregate: systems also run where others lend statistics only.
        soft_steps: training of each soft prompt; 1,000 at most.
    """

    tasks: tuple[str, ...]
    systems: tuple[str, ...] = ("baseline.*", "ladder.*", "control.*")
    swept: tuple[str, ...] = _SWEPT
    caps: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    n_swept: int | None = None
    judged: tuple[str, ...] = ("baseline.*", "ladder.*", "control.*")
    judged_shifted: tuple[str, ...] = ("baseline.*", "ladder.*", "control.*")
    n_judged: int = 500
    n_written: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    most: int | None = None
    masked: tuple[str, ...] = ()
    barred_too: bool = True
    aggregate: tuple[str, ...] = ("ladder.2", "ladder.6")
    budget_tokens: int = 350
    soft_steps: int = 100


PLANS = {
    "smoke": Plan(
        tasks=("demo.reply", "demo.rating"), swept=_MAIN, caps=(0, 2), judged=_MAIN,
        judged_shifted=(), n_judged=4, n_written=2, seeds=(0,), masked=("demo.reply",),
        aggregate=(),
    ),
    "glance": Plan(
        tasks=_GLANCE, systems=_ENDS, swept=(), caps=(), judged=_ENDS, judged_shifted=(),
        n_judged=30, n_written=0, seeds=(0,), most=200, barred_too=False, aggregate=(),
    ),
    "dual": Plan(
        tasks=("huffpost.headline", "chitchat.reply"), systems=_DUAL, swept=(), caps=(),
        judged=_DUAL, judged_shifted=(), n_judged=150, n_written=0, seeds=(0,), most=600,
        barred_too=False, aggregate=(),
    ),
    "small": Plan(
        tasks=_SMALL,
        systems=("baseline.*", "ladder.*", "ladder.7", "control.*", "ablation.*"),
        judged=("ladder.*", "ladder.7", *_MAIN, "own_bm25", "cfrag_style", "control.global_facet",
                "ablation.quoted"),
        judged_shifted=("ladder.1", "ladder.2p", "ladder.3", "ladder.6", "ladder.7", "population"),
        caps=(0, 2, 8), n_swept=100, n_judged=150, n_written=25,
        masked=("acl.title", "critics.review", "blogs.continuation", "amazon.title"),
    ),
    "full": Plan(
        tasks=("all",), systems=("all",), n_judged=500, n_written=200,
        masked=("acl.title", "acl.title.last", "critics.review", "blogs.continuation",
                "amazon.title", "chitchat.reply"),
    ),
}  # fmt: skip


def settings_of(plan: Plan, task: Task, entry: Entry) -> Iterator[Setting]:
    """The settings in which a plan runs one system on one task, the base one first.

    Texts are asked with the same item barred, since what others say of it is no persona; labels and
    ratings with it allowed, since nobody would throw it away. The other way round comes second.
    """
    base = base_setting(plan, task)
    if entry.kinds.isdisjoint({task.kind}):
        return
    some = replace(base, most=plan.n_swept)
    yield some if entry.family == "ablation" else base
    if entry.name in _names(plan.swept):
        yield from (replace(some, cap=cap) for cap in plan.caps)
        shifts: tuple[Shift, ...] = ("facet", "random")
        yield from (replace(some, shift=shift) for shift in shifts)
        if plan.barred_too:
            yield replace(some, same_item=not base.same_item)
    if entry.name in _names(plan.aggregate):
        yield replace(some, mode="aggregate")


def base_setting(plan: Plan, task: Task) -> Setting:
    """The setting that everything else is compared with."""
    return Setting(same_item=task.kind in VOTES, budget_tokens=plan.budget_tokens)


def is_judged(plan: Plan, task: Task, entry: Entry, setting: Setting) -> bool:
    """Whether a language model judges what a system sends in a setting."""
    if task.kind not in TEXT:
        return False
    base = base_setting(plan, task)
    setting = replace(setting, most=base.most)
    if setting == base:
        return entry.name in _names(plan.judged)
    return setting == replace(base, shift="facet") and entry.name in _names(plan.judged_shifted)


def seeds_of(plan: Plan, entry: Entry) -> tuple[int, ...]:
    """All seeds for a system that depends on chance, the first for others."""
    return plan.seeds if entry.is_random else plan.seeds[:1]


def _names(given: tuple[str, ...]) -> set[str]:
    return {entry.name for entry in find_systems(given)} if given else set()
