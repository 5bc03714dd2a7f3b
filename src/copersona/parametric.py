"""The trained parts of the fitted state in force, opened once, where their libraries are there.

Without torch the closed form is served, and `missing` says so: nothing else changes.
"""

from __future__ import annotations

from copersona.answering.sources import Reasoner
from copersona.errors import MissingExtraError
from copersona.language.models import require_torch
from copersona.learnt import GRAPH
from copersona.published import Published


class Parametric:
    """What was trained on one state at a time.

    Attributes:
        missing: why something that was trained is not used; empty where all is.
    """

    def __init__(self) -> None:
        self._version = ""
        self._reasoner: Reasoner | None = None
        self.missing = ""

    def reasoner(self, published: Published) -> Reasoner | None:
        """Graph reasoning, where it was trained and found to help."""
        if self._version != published.version:
            self._open(published)
        return self._reasoner

    def _open(self, published: Published) -> None:
        self._version, self._reasoner, self.missing = published.version, None, ""
        weights = published.learnt.get(GRAPH)
        if weights is None or not any(one["lower"] > 0 for one in weights.facts["decisions"]):
            return
        try:
            require_torch()
        except MissingExtraError as error:
            self.missing = f"graph reasoning was trained and is not used: {error}"
            return
        from copersona.reasoning.reasoner import reasoner_of  # noqa: PLC0415  it needs torch

        self._reasoner = reasoner_of(weights, published.state)
