"""What can be counted in a text without understanding it: its words and its habits of form.

Language-neutral on purpose: lengths, punctuation, capitals, digits, line breaks. Each habit has two
phrases, both compared with most people, so that a measured tendency can be said in a prompt of one
user as of many. Nothing here knows users or facets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_SENTENCE_END = re.compile(r"[.!?…]+(?:\s|$)|\n+")
_EMOJI = re.compile(r"[\u2600-\u27bf\U0001f300-\U0001faff]|[:;]-?[)(DP]")


@dataclass(frozen=True, slots=True)
class Habit:
    """One countable habit of form and how to say that someone has more or less than most.

    Attributes:
        more, less: comparatives, so that "far" may stand before them.
    """

    name: str
    more: str
    less: str


HABITS = (
    Habit("length", "longer messages", "shorter messages"),
    Habit("word length", "longer words", "plainer, shorter words"),
    Habit("sentence length", "longer sentences", "shorter sentences"),
    Habit("exclamation marks", "more exclamation marks", "fewer exclamation marks"),
    Habit("question marks", "more questions", "fewer questions"),
    Habit("commas", "more commas", "fewer commas"),
    Habit("capitals", "more capital letters", "fewer capital letters"),
    Habit("numbers", "more numbers and measures", "fewer numbers"),
    Habit("emoji", "more emoji", "fewer emoji"),
    Habit("line breaks", "more line breaks or lists", "fewer line breaks"),
    Habit("brackets", "more asides in brackets", "fewer asides in brackets"),
)


def tokenize(text: str) -> list[str]:
    """Lower-cased words of a text, in order; digits count as words, punctuation does not."""
    return _WORD.findall(text.lower())


def style_features(texts: Sequence[str]) -> Array:
    """Raw habits of every text, one column for each of `HABITS`.

    Shapes:
        n texts -> (n, len(HABITS)) float32; an empty text is a row of zeros.
    """
    rows = np.zeros((len(texts), len(HABITS)), dtype=np.float32)
    for i, text in enumerate(texts):
        if text.strip():
            rows[i] = _features(text)
    return rows


def _features(text: str) -> tuple[float, ...]:
    words = text.split()
    n_words = max(len(words), 1)
    n_letters = sum(map(len, words))
    n_sentences = max(len(_SENTENCE_END.findall(text)), 1)
    return (
        math.log1p(n_words),
        min(n_letters / n_words, 15.0),
        math.log1p(n_words / n_sentences),
        math.sqrt(text.count("!") / n_words),
        math.sqrt(text.count("?") / n_words),
        math.sqrt(text.count(",") / n_words),
        math.sqrt(sum(map(str.isupper, text)) / max(n_letters, 1)),
        math.sqrt(sum(map(str.isdigit, text)) / max(n_letters, 1)),
        math.sqrt(len(_EMOJI.findall(text)) / n_words),
        math.sqrt(text.count("\n") / n_words),
        math.sqrt((text.count("(") + text.count("[")) / n_words),
    )
