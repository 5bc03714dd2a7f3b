"""How far a user's verdicts on answers move the examples that were shown for them.

Every interaction begins with the same belief, that it helps this user as often as not, and each
accepted or rejected answer that it was shown for moves it a little: the mean of a Beta posterior,
scaled so that no number of verdicts moves a score by more than `BOUND`. Knows counts only; whose
they are is decided by who passes them in.
"""

from __future__ import annotations

from collections.abc import Mapping

BOUND = 0.5
"""Most that verdicts add to a score, or take away; relevance has a spread of about 1."""
PRIOR = 4.0
"""Accepted, and rejected, answers that the prior is worth."""


def shifts(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """What is added to the score of each interaction, in (-BOUND, BOUND).

    Args:
        counts: answers accepted and rejected, by interaction.

    Ours: the mean m of Beta(`PRIOR` + accepted, `PRIOR` + rejected), as BOUND · (2 m - 1).
    """
    return {
        one: BOUND * (accepted - rejected) / (accepted + rejected + 2 * PRIOR)
        for one, (accepted, rejected) in counts.items()
    }
