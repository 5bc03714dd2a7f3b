"""Which words are distinctive: log odds with an informative Dirichlet prior.

Compares two bodies of text word by word, so that neither rare nor everyday words win by themselves.
Counts may be of occurrences, responses or texts; the caller decides, and what may be said at all is
not decided here.

Source: Monroe, Colaresi & Quinn 2008, "Fightin' Words".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PRIOR = 10.0
"""Words that the population lends to every estimate."""
PRIOR_FLOOR = 0.5
"""Of them, for a word the population hardly knows."""


def prior_of(used: Array, n_used: float) -> Array:
    """Prior count of every word, from how often the population uses it: (n_words,)."""
    return np.asarray(np.maximum(PRIOR * used / max(n_used, 1.0), PRIOR_FLOOR))


def log_odds(
    here: Array, n_here: float, there: Array, n_there: float, prior: Array
) -> tuple[Array, Array]:
    """How much more often here than there, as a log ratio of odds, and in standard errors.

    Args:
        n_here: all words counted here, `n_there` there.

    Shapes:
        here, there, prior (n_words,) -> two of (n_words,)
    """
    odds, variance = [], np.zeros(len(here))
    for said, n in ((here, n_here), (there, n_there)):
        known = said + prior
        odds.append(np.log(known / (n + PRIOR - known)))
        variance += 1 / known
    excess = odds[0] - odds[1]
    return excess, excess / np.sqrt(variance)
