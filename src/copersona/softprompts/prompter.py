"""SoftPrompter: a trained projector over one fitted state, for one request at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.fitted import FittedState, UserView
from copersona.softprompts.persona import persona_vectors
from copersona.softprompts.projector import Projector

Array = NDArray[Any]


class SoftPrompter:
    """Soft prompts of personas; see `persona_vectors`."""

    def __init__(self, projector: Projector, state: FittedState) -> None:
        self._projector, self._state = projector.eval(), state

    def soft(self, view: UserView, routed: Array, vector: Array) -> NDArray[np.float32] | None:
        """See `Prompter`."""
        return self._projector.soft(persona_vectors(self._state, view, routed, vector))
