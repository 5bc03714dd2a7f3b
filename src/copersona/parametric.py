"""The trained parts of the fitted state in force, opened once, where they can be used.

Without torch the closed form is served; with another language model than the one that soft tokens
and the gate were learnt with, it gets neither. `missing` says so: nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from copersona.answering.gate import Gate
from copersona.answering.sources import Prompter, Reasoner
from copersona.errors import MissingExtraError
from copersona.language.backends import Backends
from copersona.language.models import require_torch
from copersona.learnt import GATE, GRAPH, SOFT, Weights
from copersona.published import Published


@dataclass(frozen=True)
class Parts:
    """What was trained on one state and is used.

    Attributes:
        missing: by part, why something that was trained is not used.
    """

    reasoner: Reasoner | None = None
    prompter: Prompter | None = None
    gate: Gate | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


class Parametric:
    """What was trained on one state at a time, for one deployment's language model."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._opened_last = ("", Parts())

    def parts(self, published: Published) -> Parts:
        """Graph reasoning where it was found to help, soft prompts, and the gate."""
        version, parts = self._opened_last
        if version != published.version:
            parts = self._opened(published)
            self._opened_last = (published.version, parts)
        return parts  # not of `self`: another thread may serve another version

    def _opened(self, published: Published) -> Parts:
        missing: dict[str, str] = {}
        reasoner, prompter = None, None
        graph, soft, gate = (published.learnt.get(part) for part in (GRAPH, SOFT, GATE))
        if graph and any(one["lower"] > 0 for one in graph.facts["decisions"]):
            if why := _without_torch():
                missing[GRAPH] = f"graph reasoning was trained and is not used: {why}"
            else:
                from copersona.reasoning.reasoner import reasoner_of  # noqa: PLC0415  needs torch

                reasoner = reasoner_of(graph, published.state)
        if soft and not self._is_of_this_model(soft):
            missing[SOFT] = (
                f"soft tokens were trained for {_model_of(soft)}; {self._backends.generator_name} "
                "is given hedged text alone"
            )
        elif soft and (why := _without_torch()):
            missing[SOFT] = f"soft tokens were trained and are not sent: {why}"
        elif soft:
            from copersona.softprompts.prompter import prompter_of  # noqa: PLC0415  needs torch

            prompter = prompter_of(soft, published.state, language_model=self._backends.identity)
        if gate and not self._is_of_this_model(gate):
            missing[GATE] = (
                f"the gate was fitted to {_model_of(gate)} and is not asked for "
                f"{self._backends.generator_name}"
            )
            gate = None
        opened = Gate.from_arrays(gate.arrays, gate.facts) if gate else None
        return Parts(reasoner, prompter, opened, missing)

    def _is_of_this_model(self, weights: Weights) -> bool:
        return bool(weights.facts["language_model"] == self._backends.identity)


def _without_torch() -> str:
    """Why torch cannot be used; empty where it can."""
    try:
        require_torch()
    except MissingExtraError as error:
        return str(error)
    return ""


def _model_of(weights: Weights) -> str:
    """What a part was learnt with, and the beginning of the hash of what that holds."""
    name, _, content = weights.facts["language_model"].rpartition("@")
    return f"{name} ({content[:8]})"
