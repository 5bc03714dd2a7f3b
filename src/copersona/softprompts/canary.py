"""Whether a text that one user said can be drawn out of trained soft prompts: its exposure.

A text with made-up digits is planted among what one user said, the projector is trained, and the
language model is asked how likely it finds that text among others which differ in the digits alone.
This module does not plant and does not train.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from copersona.errors import DataError
from copersona.language.generation import Messages
from copersona.language.softened import SoftScorer
from copersona.softprompts.projector import PersonaVectors, Projector

_DIGIT = re.compile(r"[0-9]")


@dataclass(frozen=True, slots=True)
class Exposure:
    """Of a planted text among `n` candidates.

    Attributes:
        rank: 1 where no other candidate is likelier; (n + 1)/2 is expected by chance.
    """

    rank: int
    n: int

    @property
    def bits(self) -> float:
        """log2 n − log2 rank: 0 is hidden best, log2 n is the first guess; 1.44 by chance."""
        return math.log2(self.n) - math.log2(self.rank)


def exposure(
    lm: SoftScorer,
    projector: Projector | None,
    messages: Messages,
    vectors: PersonaVectors,
    planted: str,
    *,
    n: int = 256,
    seed: int = 0,
) -> Exposure:
    """How far a planted text stands out among random ones of the same form.

    Args:
        projector: None asks the language model without soft tokens.
        planted: its digits are what is secret.
        n: candidates, the planted one among them.

    Raises:
        DataError: the planted text has too few digits for so many candidates.

    Source: Carlini et al. 2019, The Secret Sharer.
    """
    soft = None if projector is None else projector.soft(vectors)
    texts = [planted, *_others(planted, n - 1, seed)]
    found = lm.soft_nll([(messages, text) for text in texts], [soft] * n)
    nats = [one.nats for one in found]
    return Exposure(1 + sum(other < nats[0] for other in nats[1:]), n)


def _others(planted: str, n: int, seed: int) -> list[str]:
    """Different texts that have other digits in the same places."""
    own = "".join(_DIGIT.findall(planted))
    if 10 ** len(own) <= n:
        raise DataError(f"a text with {len(own)} digits has no {n} others of the same form")
    random, found = np.random.default_rng(seed), dict[str, None]()
    while len(found) < n:
        digits = "".join(map(str, random.integers(10, size=len(own))))
        if digits != own:
            found[digits] = None
    return [_filled(planted, digits) for digits in found]


def _filled(text: str, digits: str) -> str:
    left = iter(digits)
    return _DIGIT.sub(lambda _: next(left), text)
