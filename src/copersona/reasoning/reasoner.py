"""GraphReasoner: a trained network over one fitted state, for examples and for one user at a time.

Arrays and views in, arrays and views out. It listens to lenders who lend now, in both hops, and
looks at no more of the state than the neighbours of who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copersona.errors import ArtifactError
from copersona.learnt import TRAINED_ON, Weights
from copersona.method.completion import FacetCompletion
from copersona.method.fitted import FittedState, UserView
from copersona.method.residuals import columns_of
from copersona.reasoning.config import TrainingConfig
from copersona.reasoning.examples import Examples, corrections, tensors
from copersona.reasoning.hidden import Hidden
from copersona.reasoning.neighbourhoods import (
    Neighbourhoods,
    neighbourhoods,
    nodes_of,
    of_lenders,
    units,
)
from copersona.reasoning.network import Asked, Nodes
from copersona.reasoning.training import Decision, Trained, network_of

Array = NDArray[Any]


class GraphReasoner:
    """Completion with the learnt correction, in the views in which it was found to help.

    Args:
        state: the one that the network was trained on.
        listed: peers and alignments of every lender, as `Neighbourhoods` has them; found anew
            where None, which takes a while for many lenders.
    """

    def __init__(
        self,
        trained: Trained,
        state: FittedState,
        device: str = "cpu",
        listed: tuple[Array, Array] | None = None,
    ) -> None:
        self.trained, self._state, self._device = trained, state, device
        self._network = trained.network.to(device).eval()
        if listed is None:
            found = of_lenders(state, trained.config.n_peers)
            listed = found.peers, found.alignments
        self._peers, self._alignments = listed
        views = state.residuals.views
        self._views = columns_of(views, np.arange(len(views)))
        self._is_used = np.array([one.is_used for one in trained.decisions])
        self._helps = columns_of(views, self._is_used)

    # ---- many examples -------------------------------------------------------------------------

    def complete(self, hidden: Hidden, *, everywhere: bool = False) -> tuple[Array, Array]:
        """Tendencies and their variance, in units of a stranger's.

        Args:
            everywhere: the correction is used in every view, whatever was decided.

        Shapes:
            -> (n, n_columns), (n, n_columns)
        """
        examples = Examples.of(hidden, self._views, self._device)
        rows = np.arange(len(self._state.lenders))
        guess, variance = corrections(self._network, self._nodes(rows), examples)
        if everywhere:
            return guess, variance
        return (
            np.where(self._helps, guess, hidden.closed),
            np.where(self._helps, variance, hidden.variance),
        )

    # ---- one user ------------------------------------------------------------------------------

    def corrected(self, view: UserView, may_lend: Callable[[str], bool]) -> UserView:
        """A view with its completed facets corrected.

        Args:
            view: of somebody who learns from others.
            may_lend: whether a lender lends now, to this user.
        """
        facets = list(view.facets)
        if not facets or not self._is_used.any():
            return view
        heard = neighbourhoods(
            self._state, view.evidence, view.states, [view.near], self.trained.config.n_peers
        )
        if not (heard.peers >= 0).any():  # nobody to reason over
            return view
        lenders, peers = self._around(heard.peers[0], may_lend)
        with torch.no_grad():
            correction, doubt = self._network(
                lenders, self._asked(replace(heard, peers=peers[None]), facets, view.user)
            )
        unit = units(self._state.models)
        done = {
            f: self._corrected(
                view.facets[f], unit[f] * correction[n].cpu().numpy(),
                doubt[n].clamp(-4, 4).exp().cpu().numpy(), int((peers[f] >= 0).sum()),
            )
            for n, f in enumerate(facets)
        }  # fmt: skip
        return replace(view, facets=done)

    def _corrected(
        self, done: FacetCompletion, correction: Array, factor: Array, n_heard: int
    ) -> FacetCompletion:
        """One facet; the correction in units of the residuals.

        Shapes:
            correction (n_columns,) · factor (n_views,): on the variance
        """
        views = self._state.residuals.views
        unknown = 1 - columns_of(views, done.own_confidence)
        confidence = np.clip(1 - (1 - done.confidence) * factor, 0, 1 - 1e-9)
        names = tuple(v.name for v, used in zip(views, self._is_used, strict=True) if used)
        borrowed = dict(done.borrowed_views)
        if n_heard >= self._state.config.completion.min_donors:
            borrowed |= {name: max(n_heard, borrowed.get(name, 0)) for name in names}
        return replace(
            done,
            completed=done.completed + np.where(self._helps, unknown * correction, 0),
            confidence=np.where(self._is_used, confidence, done.confidence),
            borrowed_views=borrowed,
            reasoned_views=names,
        )

    def _around(self, peers: Array, may_lend: Callable[[str], bool]) -> tuple[Nodes, Array]:
        """The peers of one user and those they listen to, who lend now; and the peers among them.

        Shapes:
            peers (n_facets, k): rows of lenders, −1 where there are fewer -> the same, as rows of
            the nodes
        """
        near = np.unique(peers[peers >= 0])
        second = np.unique(self._peers[near])
        second = second[second >= 0]
        second = second[[may_lend(self._state.lenders[row]) for row in second.tolist()]]
        rows = np.union1d(near, second)
        nodes = self._nodes(rows)
        return nodes, _places(peers, rows)

    def _nodes(self, rows: Array) -> Nodes:
        """Some lenders and their links among each other.

        Shapes:
            rows (n,), ascending
        """
        evidence, states = self._state.evidence.take(rows), self._state.states.take(rows)
        nodes, credibility = nodes_of(self._state.models, evidence, states)
        peers = _places(self._peers[rows], rows)
        found = Neighbourhoods(nodes, credibility, peers, np.array(self._alignments[rows]))
        return tensors(found, self._device)

    def _asked(self, heard: Neighbourhoods, facets: Sequence[int], user: str) -> Asked:
        same = torch.zeros(len(facets), dtype=torch.int64, device=self._device)
        asked = torch.tensor(facets, device=self._device)
        # Who asks is never among the nodes: whoever lends to them is somebody else.
        return Asked(tensors(heard, self._device).take(same), asked, same - 1)


def _places(rows: Array, among: Array) -> Array:
    """Where rows stand in an ascending list; −1 for those that do not."""
    if not len(among):
        return np.full(rows.shape, -1, np.int32)
    place = np.searchsorted(among, rows).clip(max=len(among) - 1)
    return np.where((rows >= 0) & (among[place] == rows), place, -1).astype(np.int32)


# ---- kept beside the state ---------------------------------------------------------------------


def to_weights(trained: Trained, state: FittedState, may_train: Sequence[bool]) -> Weights:
    """A trained network as plain arrays.

    Args:
        may_train: whom it was trained on, lender by lender.
    """
    listed, n_second = of_lenders(state, trained.config.n_peers), trained.config.n_second
    network = {f"network.{n}": v.cpu().numpy() for n, v in trained.network.state_dict().items()}
    return Weights(
        {
            **network,
            "peers": listed.peers[..., :n_second],
            "alignments": listed.alignments[..., :n_second],
            TRAINED_ON: np.array(may_train, bool),
        },
        {
            "config": trained.config.model_dump(),
            "decisions": [asdict(one) for one in trained.decisions],
            "losses": list(trained.losses),
        },
        by_lender=("peers", "alignments", TRAINED_ON),
        of_rows=("peers",),
    )


def reasoner_of(weights: Weights, state: FittedState) -> GraphReasoner:
    """The reasoner again.

    Raises:
        ArtifactError: something is missing or does not fit the state.
    """
    try:
        config = TrainingConfig(**weights.facts["config"])
        decisions = tuple(Decision(**one) for one in weights.facts["decisions"])
        network = network_of(state, config)
        network.load_state_dict(
            {name: torch.tensor(weights.arrays[f"network.{name}"]) for name in network.state_dict()}
        )
        listed = weights.arrays["peers"], weights.arrays["alignments"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"graph reasoning does not fit the fitted state ({error}); train anew"
        ) from error
    losses = tuple(weights.facts["losses"])
    return GraphReasoner(Trained(network, config, decisions, losses), state, listed=listed)
