"""Tendencies in words: what a facet's estimate says about how someone answers.

Turns columns of an estimate (standard deviations, rating points, shares) into hedged sentences.
Only what is clearly off the population's mean is said; the text view has no words of its own here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.records import Tendency
from copersona.residuals import View
from copersona.style import HABITS

Array = NDArray[Any]

NOTABLE = 0.2
"""Standard deviations (style), rating scale units or share (label) below which nothing is said."""
MOST = 4


def describe(
    estimate: Array, views: Sequence[View], said: Sequence[str], *, contributors: int
) -> tuple[Tendency, ...]:
    """The most notable tendencies of one facet, strongest first.

    Args:
        said: names of the views that may be spoken of.
        contributors: other users behind the estimate; 0 where it is the user's own.

    Shapes:
        estimate (n_columns,), standardised
    """
    found = []
    for view in views:
        if view.name in said and view.name != "text":
            found.extend(_of_view(estimate[view.slice], view, contributors))
    found.sort(key=lambda tendency: (-abs(tendency.value), tendency.name))
    return tuple(found[:MOST])


def _of_view(values: Array, view: View, contributors: int) -> list[Tendency]:
    tendencies = []
    for name, value in zip(view.columns, values.tolist(), strict=True):
        if abs(value) >= NOTABLE and np.isfinite(value):
            sentence = _sentence(view.name, name, value)
            tendencies.append(Tendency(view.name, name, round(value, 3), contributors, sentence))
    return tendencies


def _sentence(view: str, name: str, value: float) -> str:
    strength = "clearly " if abs(value) >= 2.5 * NOTABLE else ""
    if view == "style":
        habit = next(habit for habit in HABITS if habit.name == name)
        return strength + (habit.more if value > 0 else habit.less)
    if view == "rating":
        return f"{strength}rates {'higher' if value > 0 else 'lower'} than others do"
    return f"{strength}{'often' if value > 0 else 'rarely'} chooses “{name}”"
