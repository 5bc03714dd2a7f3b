"""Tendencies in words: what a facet's estimate says about how someone answers.

Turns columns of an estimate (standard deviations, rating points, shares) into short comparatives –
"shorter messages", "far more commas" – that read well after "this user" as after "ten similar
users". The comparison is always with most people on the same matters; `prompting` says so once.
Only what is clearly off the population's mean is said. Which words are distinctive is `words`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.residuals import View
from copersona.records import Tendency
from copersona.style import HABITS

Array = NDArray[Any]

NOTABLE = 0.2
"""Standard deviations (style), rating scale units or share (label) below which nothing is said."""
MOST = 4
_FAR = 2.5 * NOTABLE
_HABIT = {habit.name: habit for habit in HABITS}
_COARSE = 20


def describe(
    estimate: Array,
    views: Sequence[View],
    said: Sequence[str],
    *,
    contributors: int,
    n_words: float | None = None,
) -> tuple[Tendency, ...]:
    """The most notable tendencies of one facet, strongest first.

    Args:
        said: names of the views that may be spoken of.
        contributors: other users behind the estimate; 0 where it is the user's own.
        n_words: length of a message that the estimate amounts to; said with the length.

    Shapes:
        estimate (n_columns,), standardised
    """
    found = []
    for view in views:
        if view.name in said and view.name != "text":
            found.extend(_of_view(estimate[view.slice], view, contributors, n_words))
    found.sort(key=lambda tendency: (-abs(tendency.value), tendency.name))
    return tuple(found[:MOST])


def told_words(words: Sequence[str], *, contributors: int) -> Tendency:
    """Distinctive words as one tendency.

    Args:
        contributors: users behind the least used of them; 0 where they are the user's own.
    """
    quoted = ", ".join(f"“{word}”" for word in words)
    return Tendency("words", " ".join(words), float(len(words)), contributors,
                    f"words like {quoted}")  # fmt: skip


def _of_view(values: Array, view: View, contributors: int, n_words: float | None) -> list[Tendency]:
    notable = np.flatnonzero(np.isfinite(values) & (np.abs(values) >= NOTABLE)).tolist()
    tendencies = []
    for column in notable:
        name, value = view.columns[column], float(values[column])
        phrase = _phrase(view.name, name, value)
        if n_words is not None and (view.name, name) == ("style", "length"):
            phrase = f"{phrase} (about {_rounded(n_words)})"
        tendencies.append(Tendency(view.name, name, round(value, 3), contributors, phrase))
    return tendencies


def _phrase(view: str, name: str, value: float) -> str:
    far = "far " if abs(value) >= _FAR else ""
    if view == "style":
        habit = _HABIT[name]
        return far + (habit.more if value > 0 else habit.less)
    if view == "rating":
        return f"{far}{'higher' if value > 0 else 'lower'} ratings"
    return f"the label “{name}” {far}{'more often' if value > 0 else 'less often'}"


def _rounded(n_words: float) -> str:
    n = max(1, round(n_words))
    if n >= _COARSE:
        step = 5 if n < 5 * _COARSE else 10 ** math.floor(math.log10(n)) // 2
        n = round(n / step) * step
    return "1 word" if n == 1 else f"{n} words"
