"""SoftPrompter: a trained projector over one fitted state, for one request at a time.

And how it is kept beside that state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.learnt import TRAINED_ON, Weights
from copersona.method.fitted import FittedState, UserView
from copersona.softprompts.persona import persona_vectors
from copersona.softprompts.projector import Projector
from copersona.softprompts.training import Trained, from_arrays, to_arrays

Array = NDArray[Any]


class SoftPrompter:
    """Soft prompts of personas; see `persona_vectors`."""

    def __init__(self, projector: Projector, state: FittedState) -> None:
        self._projector, self._state = projector.eval(), state

    def soft(self, view: UserView, routed: Array, vector: Array) -> NDArray[np.float32] | None:
        """See `Prompter`."""
        return self._projector.soft(persona_vectors(self._state, view, routed, vector))


def to_weights(trained: Trained, trained_on: Sequence[bool]) -> Weights:
    """A trained projector as plain arrays.

    Args:
        trained_on: whom it was trained on, lender by lender.
    """
    arrays, facts = to_arrays(trained)
    return Weights({**arrays, TRAINED_ON: np.array(trained_on, bool)}, facts, (TRAINED_ON,))


def prompter_of(weights: Weights, state: FittedState, *, language_model: str) -> SoftPrompter:
    """The prompter again.

    Args:
        language_model: the identity of the one that is to be spoken to.

    Raises:
        ArtifactError: it was trained for another language model, or something is missing.
    """
    arrays = {name: array for name, array in weights.arrays.items() if name != TRAINED_ON}
    trained = from_arrays(arrays, weights.facts, language_model=language_model)
    return SoftPrompter(trained.projector, state)
