"""GraphReasoner: a trained network over one fitted state, arrays in and arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.fitted import FittedState
from copersona.method.residuals import columns_of
from copersona.reasoning.examples import Examples, corrections, tensors
from copersona.reasoning.hidden import Hidden
from copersona.reasoning.neighbourhoods import of_lenders
from copersona.reasoning.training import Trained

Array = NDArray[Any]


class GraphReasoner:
    """Completion with the learnt correction, in the views in which it was found to help.

    Args:
        state: the one that the network was trained on.
    """

    def __init__(self, trained: Trained, state: FittedState, device: str = "cpu") -> None:
        self.trained, self._device = trained, device
        self._lenders = tensors(of_lenders(state, trained.config.n_peers), device)
        views = state.residuals.views
        self._views = columns_of(views, np.arange(len(views)))
        self._helps = columns_of(views, np.array([one.is_used for one in trained.decisions]))

    def complete(self, hidden: Hidden, *, everywhere: bool = False) -> tuple[Array, Array]:
        """Tendencies and their variance, in units of a stranger's.

        Args:
            everywhere: the correction is used in every view, whatever was decided.

        Shapes:
            -> (n, n_columns), (n, n_columns)
        """
        examples = Examples.of(hidden, self._views, self._device)
        guess, variance = corrections(self.trained.network, self._lenders, examples)
        if everywhere:
            return guess, variance
        return (
            np.where(self._helps, guess, hidden.closed),
            np.where(self._helps, variance, hidden.variance),
        )
