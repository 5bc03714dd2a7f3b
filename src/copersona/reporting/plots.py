"""The figures of a report, as SVG text: curves, dots with intervals, reliability, heat maps.

Every figure is drawn from plain numbers, always with the same bytes; text stays text. One colour a
family, labels at the lines themselves, no legend. A figure is narrow enough for a telephone; a page
sets several side by side. The module knows neither runs nor statistics; matplotlib is loaded when
something is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copersona.evaluation.metrics import EVAL_COMMAND
from copersona.language.models import require

Array = NDArray[Any]

COLOURS = {
    "baseline": "#737985",
    "ladder": "#1c5fa8",
    "dual": "#2f7d5b",
    "control": "#c06a14",
    "ablation": "#7b4aa6",
}
"""One colour a family."""
INK, FAINT, GRID = "#22262e", "#8a909b", "#e4e7eb"

Weight = Literal["behind", "named", "focus"]
WEIGHTS: tuple[Weight, ...] = ("behind", "named", "focus")

_WIDTH = 4.8
_MARKERS = "s^Dv<>"
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "copersona", "font.family": "sans-serif",
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "text.color": INK, "xtick.color": FAINT,
    "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": GRID,
    "lines.solid_capstyle": "round",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        weight: `focus` is drawn strongly and with its interval, `named` has its name alone, and
            `behind` is there for comparison.

    Shapes:
        x, y, low, high (n_points,), at least one point
    """

    label: str
    family: str
    x: Array
    y: Array
    low: Array
    high: Array
    weight: Weight = "focus"


@dataclass(frozen=True)
class Dot:
    """One difference with its interval.

    Attributes:
        is_clear: whether it differs from zero; else the dot is hollow.
    """

    label: str
    family: str
    value: float
    low: float
    high: float
    is_clear: bool


def colour(family: str) -> str:
    """The colour of a family; ink for one nobody named."""
    return COLOURS.get(family, INK)


def draw_curves(
    name: str, title: str, lines: Sequence[Line], *, x_label: str, y_label: str,
    ticks: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """Curves over steps (`ticks`) or numbers, each named at its end."""
    with _drawing(name, title, 3.3) as (axes, result):
        _draw_lines(axes, lines)
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), ticks)
        _label_ends(axes, [line for line in lines if line.weight != "behind"])
    return result()


def draw_dots(name: str, title: str, dots: Sequence[Dot], *, x_label: str) -> str:
    """Differences with intervals, first on top; right of the line at zero is better."""
    with _drawing(name, title, 1.15 + 0.23 * len(dots)) as (axes, result):
        axes.axvline(0, color=FAINT, linewidth=1)
        for row, dot in enumerate(dots):
            shade = colour(dot.family)
            axes.plot([dot.low, dot.high], [row, row], color=shade, linewidth=1.6)
            axes.plot(
                [dot.value], [row], "o", color=shade, markersize=5.5,
                markerfacecolor=shade if dot.is_clear else "white",
            )  # fmt: skip
        axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(x_label)
    return result()


def draw_reliability(name: str, title: str, lines: Sequence[Line]) -> str:
    """Observed shares against foretold ones; on the diagonal they agree."""
    with _drawing(name, title, 3.9) as (axes, result):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        _draw_lines(axes, lines)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.grid()
        axes.set_xlabel("foretold share")
        axes.set_ylabel("observed share")
        _label_ends(axes, list(lines))
    return result()


def draw_matrix(
    name: str, title: str, values: Array, rows: Sequence[str], columns: Sequence[str]
) -> str:
    """A heat map with its numbers; blue is positive, orange negative.

    Shapes:
        values (n_rows, n_columns); NaN stays white
    """
    with _drawing(name, title, 1.5 + 0.3 * max(4, len(rows))) as (axes, result):
        limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        shades = require("matplotlib.colors", EVAL_COMMAND).LinearSegmentedColormap.from_list(
            "signed", [COLOURS["control"], "white", COLOURS["ladder"]])  # fmt: skip
        axes.pcolormesh(values, cmap=shades, vmin=-limit, vmax=limit, edgecolors="white")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and values.shape[1] <= 14:
                axes.text(
                    column + 0.5, row + 0.5, f"{value:.2f}".replace("-", "−"), fontsize=6.5,
                    ha="center", va="center",
                    color="white" if abs(value) > 0.65 * limit else INK,
                )  # fmt: skip
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right")
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.invert_yaxis()
        axes.tick_params(length=0, labelsize=7.5)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("similar in this layer")
        axes.set_ylabel("foretells agreement in")
    return result()


@contextmanager
def _drawing(name: str, title: str, height: float) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes to draw on, and what gives the SVG once the block is left."""
    matplotlib = require("matplotlib", EVAL_COMMAND)
    with matplotlib.rc_context(_STYLE):
        figure = require("matplotlib.figure", EVAL_COMMAND).Figure(
            figsize=(_WIDTH, height), layout="constrained"
        )
        axes = figure.subplots()
        axes.set_title(title)
        text = io.StringIO()
        yield axes, lambda: _clean(text.getvalue(), name)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)


def _draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    """The lines behind first, the one in focus last; those named differ in their markers."""
    markers = cycle(_MARKERS)
    for line in sorted(lines, key=lambda line: WEIGHTS.index(line.weight)):
        shade = colour(line.family)
        if line.weight == "behind":
            axes.plot(line.x, line.y, color=shade, linewidth=0.9, alpha=0.35)
        elif line.weight == "named":
            axes.plot(line.x, line.y, color=shade, linewidth=1.2, alpha=0.8, marker=next(markers),
                      markersize=4, markerfacecolor="white")  # fmt: skip
        else:
            axes.fill_between(line.x, line.low, line.high, color=shade, alpha=0.16, linewidth=0)
            axes.plot(line.x, line.y, color=shade, linewidth=2.2, marker="o", markersize=4)


def _label_ends(axes: Any, lines: Sequence[Line]) -> None:
    """Write every name beside the last point of its line, apart from one another."""
    if not lines:
        return
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ends = sorted(lines, key=lambda line: float(line.y[-1]))
    places = _spread([float(line.y[-1]) for line in ends], gap)
    for place, line in zip(places, ends, strict=True):
        axes.annotate(
            line.label, (float(line.x[-1]), place), xytext=(7, 0), textcoords="offset points",
            va="center", color=colour(line.family), fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places apart until neighbours keep the gap, around where they were."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + gap * step for group in groups for step in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _clean(svg: str, name: str) -> str:
    """The drawing alone, with ids that no other drawing on the page has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
