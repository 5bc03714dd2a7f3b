"""What the verbs of the front door give back: reports, receipts, answers, explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from copersona.records import Context, RowOutcome


@dataclass(frozen=True)
class IngestReport:
    """What became of one file.

    Attributes:
        guess: one line saying which column was taken for what; empty for data sets.
        consents_set: authors of a public data set, new here, whose consent was set with it.
    """

    source: str
    guess: str
    n_read: int
    stored: int
    duplicates: int
    rejected: tuple[RowOutcome, ...]
    dry_run: bool = False
    consents_set: int = 0


@dataclass(frozen=True)
class FitReport:
    """What a fit learnt.

    Attributes:
        state: version that is now in force.
        encoder: the encoder, and why it was chosen.
        abstaining: what to know where completion will borrow nothing at all; empty otherwise.
        reasoning: what became of graph reasoning, where it was trained as well.
    """

    state: str
    encoder: str
    n_users: int
    n_lenders: int
    n_interactions: int
    facets: tuple[str, ...]
    abstaining: str
    warnings: tuple[str, ...]
    seconds: float
    reasoning: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainReport:
    """What was trained on the fitted state.

    Attributes:
        state: version that is now in force: the same state, with what was learnt on it.
        said: sentences on what was trained, how good it is, and where it will be used.
    """

    state: str
    said: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Answer:
    """A language model's answer and the context it was given.

    Attributes:
        scores: of all answers that were sampled, best first, where there were several; the first
            belongs to `text`. See `CoPersona.choose`.
    """

    text: str
    context: Context
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class HeldBackup:
    """A backup that was taken before a user was forgotten, and may hold them.

    Attributes:
        place: the folder it was written to.
        age_days: since it was taken.
        is_noted: the tombstone was written beside it, so that restoring it erases the user again;
            False where it is not at its place any more.
    """

    id: str
    place: str
    age_days: float
    is_noted: bool


@dataclass(frozen=True)
class Receipt:
    """What a forgotten user left, and what is left of the user.

    Attributes:
        removed: rows per kind.
        states_removed: fitted states that were deleted; `state` is the rewritten one.
        not_unlearnt: averages over everybody that the next fit replaces.
        traces_found: files in which an independent scan still finds the user; empty when clean.
        scanned: number of files the scanner read.
        searched, unsearched: what it looked at, and what it cannot look at.
        backups: copies that may still hold the user.
    """

    removed: Mapping[str, int]
    state: str
    states_removed: tuple[str, ...]
    not_unlearnt: tuple[str, ...]
    traces_found: tuple[str, ...]
    scanned: int
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()
    backups: tuple[HeldBackup, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Explanation:
    """Why a context is as it is.

    Attributes:
        detail: everything as plain data: facets routed, need, worth, sources, counterfactuals.
    """

    trace_id: str
    detail: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"trace_id": self.trace_id, **self.detail}

    def lines(self) -> list[str]:
        """As sentences."""
        detail = self.detail
        lines = [f"request: {detail['text']}", f"fitted state: {detail['state']}",
                 f"own evidence missing (need): {detail['need']:.2f}, "
                 f"confidence gained from others (worth): {detail['worth']:.2f}"]  # fmt: skip
        if "branches" in detail:  # not in traces from before there was a choice
            lines.append(f"branches: {detail['branches']}; graph: {detail['graph']}")
        if detail.get("choice"):
            lines.append(f"gate: lets in {detail['choice']}")
        lines += [_facet_line(facet) for facet in detail["facets"] if facet["share"] > 0]
        lines += [
            f"part {part['kind']} ({part['tokens']} tokens): {part['reason']}; without it: "
            f"{part['without']}"
            for part in detail["parts"]
        ]
        return lines


def _facet_line(facet: Mapping[str, Any]) -> str:
    borrowed = (
        f"borrowed nothing: {facet['abstained']}"
        if facet["abstained"]
        else f"borrowed from {facet['n_contributors']} users, agreement {facet['agreement']:.2f}"
    )
    return (
        f"facet {facet['name']} ({facet['share']:.0%}): own interactions {facet['support']:g}, "
        f"confidence {facet['own_confidence']:.2f} -> {facet['confidence']:.2f}; {borrowed}"
    )
