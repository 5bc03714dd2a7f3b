"""The fitted state: everything learnt from a population of lenders, as one immutable object.

`fit_state` runs the method's steps 0 to 5 on a corpus of lenders; `UserView` answers for any one
user – a lender, a stranger, someone who wrote a minute ago – from that user's own corpus and the
lenders who lend *now*. The state turns into plain arrays and back, so that `artifacts` can publish
it without knowing what it is.

Rows of people who do not lend are never in it: they are computed from their own history when read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from copersona.errors import ArtifactError, DataError
from copersona.method.alignment import AlignmentConfig, fit_transfer
from copersona.method.calibration import (
    Calibration,
    CompletionConfig,
    Curve,
    MaskedFacets,
    agreement_floor,
    calibrate,
)
from copersona.method.completion import FacetCompletion, complete_facet
from copersona.method.corpus import Corpus
from copersona.method.facets import FacetConfig, Facets, fit_facets, name_facets
from copersona.method.graph import GraphConfig, LayerStates, PersonaGraph, build_graph, layer_states
from copersona.method.lending import Lenders, Offers
from copersona.method.masking import Hiding, mask_facets
from copersona.method.preference import PreferenceConfig, own_preference
from copersona.method.profiles import (
    Observed,
    OwnEvidence,
    ProfileConfig,
    ViewModel,
    decay_weights,
    fit_view_models,
)
from copersona.method.residuals import ResidualConfig, ResidualModel, View, fit_residuals

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]

ENOUGH_MASKED = 300
"""Masked facets with peers that the calibration wants before it asks less of their support."""

_STAGES = ("facets", "residuals", "profiles", "graph", "transfer", "calibration")


class MethodConfig(BaseModel):
    """The method's settings, one object per step; each field is explained at its own class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facets: FacetConfig = FacetConfig()
    residuals: ResidualConfig = ResidualConfig()
    profiles: ProfileConfig = ProfileConfig()
    graph: GraphConfig = GraphConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    completion: CompletionConfig = CompletionConfig()
    preference: PreferenceConfig = PreferenceConfig()


@dataclass(frozen=True)
class FittedState:
    """What was learnt from the lenders.

    Attributes:
        lenders: external ids, in row order.
        evidence: averaged residuals of every lender.
        fitted_ids: hashes of the interactions that entered the fit, ascending.
        cut: time of the fit; nothing newer is in it.
        own_preference: weight of own examples among the retrieved, see `preference`.
        revision: of what it was fitted on, counted by whoever keeps that; 0 where unknown.

    Shapes:
        transfer (n_facets, n_facets + 1) · fitted_ids (n_items,) int64
    """

    config: MethodConfig
    encoder: str
    cut: float
    lenders: tuple[str, ...]
    facets: Facets
    residuals: ResidualModel
    models: tuple[ViewModel, ...]
    evidence: OwnEvidence
    states: LayerStates
    graph: PersonaGraph
    transfer: Array
    calibration: Calibration
    fitted_ids: Array
    own_preference: float
    revision: int = 0
    row_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.row_of:
            object.__setattr__(self, "row_of", {u: r for r, u in enumerate(self.lenders)})

    @property
    def n_facets(self) -> int:
        """Number of facets."""
        return self.facets.n_facets

    @property
    def lending(self) -> Lenders:
        """The lenders as a source of peers."""
        graph = self.config.graph
        return Lenders(self.evidence, self.states, self.graph, self.transfer,
                       self.config.alignment, graph.min_support, graph.k)  # fmt: skip

    def observe(self, corpus: Corpus, now: float | None = None) -> Observed:
        """Residuals of the users of any corpus under this state."""
        in_fit = _is_among(corpus.id_hashes, self.fitted_ids)
        half_life = self.config.profiles.half_life
        return _observe(corpus, self.facets, self.residuals, in_fit,
                        decay_weights(corpus.at, half_life, now or self.cut))  # fmt: skip

    def evidence_of(self, corpus: Corpus, now: float | None = None) -> OwnEvidence:
        """Own evidence of the users of any corpus under this state."""
        return self.observe(corpus, now).average()

    def view(
        self,
        user: str,
        evidence: OwnEvidence,
        *,
        may_lend: Callable[[str], bool],
        learns: bool = True,
        facets: Sequence[int] | None = None,
        searches_anew: bool = False,
    ) -> UserView:
        """One user's persona, facet by facet, from own evidence and who lends now.

        Args:
            facets: only these are completed; all where None.
            searches_anew: a lender's listed neighbours are not used, only this evidence.
        """
        states = layer_states(evidence, self.models)
        chosen = range(self.n_facets) if facets is None else facets
        offers: Sequence[Offers | None] = [None] * len(chosen)
        lending = np.zeros(0, np.int64)
        if learns:
            candidates = self._candidates(user, states, searches_anew)
            lends = np.array([may_lend(self.lenders[c]) for c in candidates.tolist()], bool)
            lending = candidates[lends]
            offers = self.lending.offers(states, 0, candidates, lends, chosen)
        completed = {
            f: complete_facet(
                f,
                states,
                0,
                self.models,
                offer,
                self.calibration,
                evidence.support[0, f],
                self.config.completion,
            )
            for f, offer in zip(chosen, offers, strict=True)
        }
        return UserView(user, evidence, states, completed, lending)

    def _candidates(self, user: str, states: LayerStates, searches_anew: bool) -> Array:
        """Listed neighbours of a lender; for anyone else the nearest lenders of every layer."""
        row = self.row_of.get(user)
        if row is not None and not searches_anew:
            return self.graph.candidates(row)
        exclude = None if row is None else np.array([row])
        return self.lending.search(states, np.zeros(1, int), exclude)[0]


@dataclass(frozen=True)
class UserView:
    """One user under one fitted state: own evidence and the completed facets, by number.

    Shapes:
        near (n,): rows of the lenders near the user in any layer who lend now
    """

    user: str
    evidence: OwnEvidence
    states: LayerStates
    facets: Mapping[int, FacetCompletion]
    near: Array

    @property
    def support(self) -> Array:
        """Own interactions per facet, the most of any view: (n_facets,)."""
        return np.asarray(self.states.support[0])


def fit_state(
    corpus: Corpus,
    *,
    encoder: str,
    cut: float,
    config: MethodConfig,
    words_of_item: Sequence[Sequence[str]] | None = None,
    encode_words: Callable[[Sequence[str]], Array] | None = None,
    progress: Progress | None = None,
) -> FittedState:
    """Steps 0 to 5 on a corpus that holds lenders only.

    Args:
        words_of_item: words of every input that may name a facet; no names without.
        encode_words: helps to choose among them, see `name_facets`.

    Raises:
        DataError: there is nothing to learn from.
    """
    if not len(corpus):
        raise DataError(
            "no interactions of users who lend: nothing to fit on; add some, or let "
            "users lend (consent lend=aggregate)"
        )

    def report(stage: str) -> None:
        if progress:
            progress(stage, _STAGES.index(stage), len(_STAGES))

    report("facets")
    facets = fit_facets(corpus.inputs, corpus.users, config.facets, corpus.declared)
    assigned = facets.assign(corpus.inputs, corpus.declared)
    if words_of_item is not None:
        facets = name_facets(
            facets, words_of_item, assigned, corpus.users,
            min_donors=config.facets.min_donors, encode=encode_words,
        )  # fmt: skip
    report("residuals")
    model = fit_residuals(corpus, assigned, facets.n_facets, config.residuals)
    observed = _observe(corpus, facets, model, np.ones(len(corpus), bool),
                        decay_weights(corpus.at, config.profiles.half_life, cut))  # fmt: skip
    report("profiles")
    evidence = observed.average()
    models = fit_view_models(observed, evidence, config.profiles)
    states = layer_states(evidence, models)
    report("graph")
    graph = build_graph(states, np.ones(corpus.n_users, bool), config.graph)
    report("transfer")
    first, second = _halves(observed, config.alignment.seed)
    transfer = fit_transfer(first, second, models, config.alignment)
    report("calibration")
    floor = agreement_floor(
        states.specifics, graph.lends, n_peers=config.alignment.n_peers, seed=config.completion.seed
    )
    nothing = Curve.none(len(models))
    draft = FittedState(
        config, encoder, cut, corpus.user_ids, facets, model, models, evidence, states, graph,
        transfer, Calibration(nothing, nothing, floor), np.sort(corpus.id_hashes),
        own_preference(corpus, config.preference),
    )  # fmt: skip
    masked = _enough_masked(draft, observed)
    return replace(draft, calibration=calibrate(masked, models, floor, config.completion))


def _observe(
    corpus: Corpus, facets: Facets, model: ResidualModel, in_fit: Array, weights: Array | None
) -> Observed:
    assigned = facets.assign(corpus.inputs, corpus.declared)
    residuals, present = model.transform(corpus, assigned, in_fit)
    return Observed(residuals, present, corpus.users, assigned, corpus.n_users, facets.n_facets,
                    model.views, weights)  # fmt: skip


def _halves(observed: Observed, seed: int) -> tuple[OwnEvidence, OwnEvidence]:
    """Two disjoint halves of every user-facet, by a seeded shuffle."""
    cell = observed.users.astype(np.int64) * observed.n_facets + observed.facets
    order = np.lexsort((np.random.default_rng(seed).random(len(cell)), cell))
    starts = np.r_[True, np.diff(cell[order]) != 0]
    rank = np.arange(len(cell)) - np.maximum.accumulate(np.where(starts, np.arange(len(cell)), 0))
    is_first = np.zeros(len(cell), bool)
    is_first[order] = rank % 2 == 0
    return observed.average(np.flatnonzero(is_first)), observed.average(np.flatnonzero(~is_first))


def _enough_masked(state: FittedState, observed: Observed) -> MaskedFacets:
    """Masked facets of at least four interactions; of fewer where a small population has few."""
    for min_support in (4.0, 2.0, 1.0):
        masked = mask_facets(
            observed, state.models, state.lending, state.calibration.agreement_floor,
            state.config.completion, are_lenders=True,
            hiding=Hiding(min_support=min_support),
        )  # fmt: skip
        if (masked.unknown > 0).any(axis=1).sum() >= ENOUGH_MASKED:
            break
    return masked


def with_transfer(state: FittedState, transfer: Array, corpus: Corpus) -> FittedState:
    """The same state with other links between layers, and completion calibrated anew for them.

    Args:
        corpus: what the state was fitted on.

    Shapes:
        transfer (n_facets, n_facets + 1)
    """
    draft = replace(state, transfer=transfer)
    masked = _enough_masked(draft, state.observe(corpus))
    floor = state.calibration.agreement_floor
    return replace(
        draft, calibration=calibrate(masked, state.models, floor, state.config.completion)
    )


def to_arrays(state: FittedState) -> tuple[dict[str, Array], dict[str, Any]]:
    """The state as named arrays and JSON metadata; `from_arrays` is the inverse."""
    model = state.residuals
    names = {"lenders": state.lenders, "items": list(model.item_rows)}
    texts = json.dumps(names, ensure_ascii=False).encode("utf-8", "surrogatepass")
    arrays: dict[str, Array] = {
        "texts": np.frombuffer(texts, np.uint8),
        "facets.center": state.facets.center,
        "facets.prototypes": state.facets.prototypes,
        "evidence.support": state.evidence.support,
        "evidence.means": state.evidence.means,
        "graph.neighbours": state.graph.neighbours,
        "graph.is_edge": state.graph.is_edge,
        "graph.radius": state.graph.radius,
        "graph.lends": state.graph.lends,
        "transfer": state.transfer,
        "fitted_ids": state.fitted_ids,
    }
    for name in _RESIDUAL_ARRAYS:
        arrays[f"residuals.{name}"] = getattr(model, name)
    arrays["calibration.agreement_floor"] = state.calibration.agreement_floor
    for kind in _CURVES:
        for name in _CURVE_ARRAYS:
            arrays[f"calibration.{kind}.{name}"] = getattr(getattr(state.calibration, kind), name)
    for view in state.models:
        for name in _MODEL_ARRAYS:
            arrays[f"model.{view.view.name}.{name}"] = getattr(view, name)
    meta = {
        "config": state.config.model_dump(),
        "encoder": state.encoder,
        "cut": state.cut,
        "facet_names": list(state.facets.names),
        "declared": list(state.facets.declared),
        "temperature": state.facets.temperature,
        "views": [[v.name, v.start, v.stop, list(v.columns)] for v in model.views],
        "labels": list(model.labels),
        "ridge": model.ridge,
        "min_donors": model.min_donors,
        "own_preference": state.own_preference,
        "revision": state.revision,
        "is_assumed": [view.is_assumed for view in state.models],
    }
    return {name: _storable(array) for name, array in arrays.items()}, meta


_RESIDUAL_ARRAYS = ("center", "weights", "basis", "facet_means", "location", "scale", "item_sums",
                    "item_counts", "item_shrinkage")  # fmt: skip
_MODEL_ARRAYS = ("center", "noise", "signal")
_CURVES = ("shared", "specific")
_CURVE_ARRAYS = ("edges", "slope", "explained", "lower")


def _storable(array: Array) -> Array:
    """Doubles are kept as float32: nothing learnt is that precise."""
    return np.ascontiguousarray(array, np.float32 if array.dtype == np.float64 else None)


def from_arrays(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> FittedState:
    """The state again.

    Raises:
        ArtifactError: an array or a field is missing.
    """
    try:
        return _from_arrays(arrays, meta)
    except KeyError as error:
        raise ArtifactError(f"the fitted state lacks {error}; fit again") from error


def _from_arrays(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> FittedState:
    texts = json.loads(bytes(arrays["texts"]).decode("utf-8", "surrogatepass"))
    views = tuple(View(n, a, b, tuple(c)) for n, a, b, c in meta["views"])
    facets = Facets(
        arrays["facets.center"], arrays["facets.prototypes"], tuple(meta["facet_names"]),
        tuple(meta["declared"]), meta["temperature"],
    )  # fmt: skip
    residuals = ResidualModel(
        views=views,
        item_rows={item: row for row, item in enumerate(texts["items"])},
        labels=tuple(meta["labels"]),
        ridge=meta["ridge"],
        min_donors=meta["min_donors"],
        **{name: arrays[f"residuals.{name}"] for name in _RESIDUAL_ARRAYS},
    )
    models = tuple(
        ViewModel(
            view,
            arrays[f"model.{view.name}.center"],
            arrays[f"model.{view.name}.noise"].astype(float),
            arrays[f"model.{view.name}.signal"].astype(float),
            assumed,
        )
        for view, assumed in zip(views, meta["is_assumed"], strict=True)
    )
    evidence = OwnEvidence(arrays["evidence.support"], arrays["evidence.means"])
    graph = PersonaGraph(*(arrays[f"graph.{n}"] for n in ("neighbours", "is_edge", "radius",
                                                          "lends")))  # fmt: skip
    shared, specific = (
        Curve(*(arrays[f"calibration.{kind}.{name}"] for name in _CURVE_ARRAYS)) for kind in _CURVES
    )
    calibration = Calibration(shared, specific, arrays["calibration.agreement_floor"])
    return FittedState(
        MethodConfig.model_validate(meta["config"]), meta["encoder"], meta["cut"],
        tuple(texts["lenders"]), facets, residuals, models, evidence,
        layer_states(evidence, models), graph, arrays["transfer"], calibration,
        arrays["fitted_ids"], meta["own_preference"], meta.get("revision", 0),
    )  # fmt: skip


def _is_among(values: Array, ascending: Array) -> Array:
    """Which values stand in a sorted array, without sorting it again."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return np.asarray(ascending[place] == values)
