"""Splits: what is known before the cut, who is asked what, and what is left of a history.

Data with times have one global cut: nothing newer is fitted on, and requests are users' newest
interactions after it. Data without times are split by user: those who are asked are not fitted on.
Users belong to `dev` or `test` for good, by a hash. A history may be cut to its newest items, or
lose one facet, or as many at random; requests and ids stay the same.

Knows interactions; knows no vectors, systems or metrics.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from copersona.errors import ConfigError, DataError
from copersona.records import Interaction
from copersona.style import tokenize
from copersona.tasks.cases import Case, Material, Question, Request, Shift, Target, Task

Side = Literal["dev", "test"]

SAME = 0.8
"""Share of words in common from which on two texts say the same."""
WORDS_THAT_TELL = 6
"""Words from which on saying the same is no accident."""

CAPS: tuple[int | None, ...] = (0, 1, 2, 4, 8, 16, None)
"""Newest interactions kept of a history; None keeps all."""


@dataclass(frozen=True)
class SplitConfig:
    """How data are split.

    Attributes:
        side: whose requests are asked; `test` is for the last word only.
        newest: share of all interactions, the newest, that nothing is fitted on.
        unseen: users who are asked are not fitted on, also where there are times.
        most: requests in all, the same ones in every run; None takes all.
    """

    side: Side = "dev"
    newest: float = 0.2
    unseen: bool = False
    most: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.newest < 1:
            raise ConfigError(f"newest is {self.newest}: it is a share between 0 and 1")
        if self.most is not None and self.most < 1:
            raise ConfigError(f"most is {self.most}: it must be at least 1")


@dataclass(frozen=True)
class Split:
    """One task, split.

    Attributes:
        cut: time before which everything fitted lies; None where there are no times.
        fitted: what may be fitted on and lent, by user and time.
        n_undated: rows left out, since in data with times they have none.
    """

    cut: float | None
    fitted: tuple[Interaction, ...]
    cases: tuple[Case, ...]
    n_undated: int = 0


def side_of(user: str) -> Side:
    """Whether a user is for looking (`dev`) or for the last word (`test`); half each."""
    return "dev" if _hashed("side", user) % 2 == 0 else "test"


def side_named(name: str) -> Side:
    """The side of that name.

    Raises:
        ConfigError: there is none.
    """
    sides: dict[str, Side] = {"dev": "dev", "test": "test"}
    if name in sides:
        return sides[name]
    raise ConfigError(f"no side is called {name!r}; there are dev and test")


def split(task: Task, material: Material, config: SplitConfig | None = None) -> Split:
    """Requests of one side, and what may be fitted for them.

    Raises:
        DataError: nobody can be asked anything.
    """
    config = config or SplitConfig()
    if material.questions:
        found = _of_questions(task, material, config)
    elif task.has_dates:
        found = _by_time(task, material.interactions, config)
    else:
        found = _by_user(task, material.interactions, config)
    if not found.cases:
        raise DataError(f"{task.name}: nobody of side {config.side!r} can be asked anything")
    return found


def lessons(task: Task, fitted: Sequence[Interaction], per_user: int, most: int) -> list[Case]:
    """Requests among what may be fitted, to learn from: each user's newest, with what came before.

    Without times the rest of a history stands in for what came before.
    """
    found = []
    for own in _by_owner(fitted).values():
        asked = [n for n, row in enumerate(own) if _is_asked(task, row)][-per_user:]
        for n in asked:
            rest = own[:n] if own[n].at is not None else own[:n] + own[n + 1 :]
            if rest:
                found.append(_case(task, own[n], tuple(rest)))
    return _some(found, most)


def kept(case: Case, cap: int | None) -> Case:
    """The case with the newest items of its history only."""
    if cap is None:
        return case
    history = case.request.history
    left = history[len(history) - cap :] if cap < len(history) else history
    return replace(case, request=replace(case.request, history=left))


def shifted(
    case: Case, shift: Shift, in_facet: Callable[[Sequence[Interaction]], Sequence[bool]]
) -> Case | None:
    """The case without the request's facet in its history, or without as many at random.

    Args:
        in_facet: which interactions fall into the request's main facet.

    Returns:
        None where nothing would be deleted or nothing left, so that both deletions are made for
        the same cases.

    Source: ours (evaluation.md 3.3): the difference between the two is facet shift.
    """
    if shift == "none":
        return case
    history = case.request.history
    drop = np.asarray(in_facet(history), bool)
    if not 0 < drop.sum() < len(history):
        return None
    if shift == "random":
        order = sorted(range(len(history)), key=lambda n: _hashed(case.request.id, history[n].id))
        chosen = set(order[: int(drop.sum())])
        drop = np.array([n in chosen for n in range(len(history))])
    left = tuple(i for i, gone in zip(history, drop.tolist(), strict=True) if not gone)
    return replace(case, request=replace(case.request, history=left))


def _by_time(task: Task, rows: Sequence[Interaction], config: SplitConfig) -> Split:
    dated = [row for row in rows if row.at is not None]
    if not dated:
        raise DataError(f"{task.name}: no interaction has a time")
    times = np.array([row.at for row in dated], float)
    cut = float(np.quantile(times, 1 - config.newest, method="higher"))
    cases: list[Case] = []
    for user, own in _by_owner(dated).items():
        asked = [n for n, row in enumerate(own) if _time(row) >= cut and _is_asked(task, row)]
        for n in asked[-task.per_user :] if side_of(user) == config.side else []:
            history = tuple(row for row in own if _time(row) < _time(own[n]))
            if history:
                cases.append(_case(task, own[n], history))
    cases = _some(cases, config.most)
    gone = {case.request.user for case in cases} if config.unseen else set()
    fitted = [row for row in dated if _time(row) < cut and row.user not in gone]
    return Split(cut, _ordered(fitted), tuple(cases), len(rows) - len(dated))


def _by_user(task: Task, rows: Sequence[Interaction], config: SplitConfig) -> Split:
    cases: list[Case] = []
    fitted: list[Interaction] = []
    for user, own in _by_owner(rows).items():
        able = [row for row in own if _is_asked(task, row)]
        able.sort(key=lambda row: _hashed("asked", row.id))
        asked = able[: min(task.per_user, len(own) - 1)]
        hidden = {row.id for row in asked}
        history = tuple(row for row in own if row.id not in hidden)
        if side_of(user) == config.side:
            cases += [_case(task, row, history) for row in asked if history]
        else:
            # The other side's targets stay hidden too: nothing is ever learnt from them.
            fitted += history
    return Split(None, _ordered(fitted), tuple(_some(cases, config.most)))


def _of_questions(task: Task, material: Material, config: SplitConfig) -> Split:
    chosen = [q for q in material.questions if side_of(q.user) == config.side]
    cases = _some([_case_of(task, question) for question in chosen], config.most)
    gone = {case.request.user for case in cases} if config.unseen else set()
    fitted = [row for row in material.interactions if row.user not in gone]
    return Split(None, _ordered(fitted), tuple(cases))


def _is_asked(task: Task, row: Interaction) -> bool:
    value = {"label": row.label, "rating": row.rating}.get(task.kind, row.response)
    return bool(row.input) and value not in (None, "")


def target_of(task: Task, row: Interaction) -> Target:
    """What was said in an interaction, as far as a task asks for it."""
    if task.kind == "label":
        return Target(label=row.label)
    if task.kind == "rating":
        return Target(rating=row.rating)
    return Target(text=_first_words(row.response, task.max_words))


def _first_words(text: str, n: int) -> str:
    words = text.split()
    return text if len(words) <= n else " ".join(words[:n])


def _case(task: Task, row: Interaction, history: tuple[Interaction, ...]) -> Case:
    own = tuple(i for i in history if not _repeats(task, row, i))
    number = _name(task.name, row.id)
    request = Request(number, row.user, row.input, task.instruction, row.at, row.item, own)
    return Case(request, target_of(task, row), row.id)


def _case_of(task: Task, question: Question) -> Case:
    said = question.target
    row = Interaction(
        question.user, question.text, said.text, question.item, said.rating, said.label,
        question.at, id=question.number,
    )  # fmt: skip
    return _case(task, row, question.history)


def _repeats(task: Task, asked: Interaction, own: Interaction) -> bool:
    """True of an earlier interaction that gives the answer away: the same thing said again."""
    if task.kind == "text":
        return gives_away(asked.input, target_of(task, asked).text, own)
    return plain(asked.input) == plain(own.input) and asked.item == own.item


def gives_away(asked: str, target: str, row: Interaction) -> bool:
    """True of an interaction that repeats a target: contexts show what was answered, too.

    A few words that people say again and again give nothing away, unless the same was asked.
    """
    wanted, said = plain(target), plain(row.response)
    if len(wanted.split()) < WORDS_THAT_TELL:
        return wanted == said and plain(asked) == plain(row.input)
    return wanted in said or wanted in plain(row.input) or _overlap(target, row.response) >= SAME


def _overlap(first: str, second: str) -> float:
    """Share of words that two texts have in common (Jaccard)."""
    a, b = set(tokenize(first)), set(tokenize(second))
    return len(a & b) / len(a | b) if a | b else 0.0


def plain(text: str) -> str:
    """A text without case and spacing: what counts as the same."""
    return " ".join(text.lower().split())


def _by_owner(rows: Iterable[Interaction]) -> dict[str, list[Interaction]]:
    """Interactions of every user in time order, ties by id; users by name.

    What has no time stays in the order of its source.
    """
    found: dict[str, list[Interaction]] = defaultdict(list)
    for row in rows:
        found[row.user].append(row)
    return {user: sorted(found[user], key=_place) for user in sorted(found)}


def _place(row: Interaction) -> tuple[float, str]:
    return _time(row), "" if row.at is None else row.id


def _ordered(rows: Iterable[Interaction]) -> tuple[Interaction, ...]:
    return tuple(row for own in _by_owner(rows).values() for row in own)


def _some(cases: list[Case], most: int | None) -> list[Case]:
    """So many cases by hash of their id, the same ones whatever the number."""
    chosen = sorted(cases, key=lambda case: case.request.id)[:most]
    return sorted(chosen, key=lambda case: (case.request.user, case.request.at or 0))


def _time(row: Interaction) -> float:
    return -np.inf if row.at is None else row.at


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def _hashed(*parts: str) -> int:
    return int(_name(*parts), 16)
