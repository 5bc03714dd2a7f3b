"""What is kept of an answer so that it can be explained: the trace, as plain data.

For every routed facet: own support, what was borrowed from how many, or why nothing was. For every
source: what it put into the context, and what would go without it. Users who lend text are told
apart under a pseudonym that differs for every borrower; of those who lend statistics there are
counts only, and the only removal that is told is that of all of them together, so that no single
one can be worked out from a difference. Knows records only; it computes nothing anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.routing import borrowing_worth, own_need
from copersona.consent import pseudonym
from copersona.records import Context, Evidence, FacetPersona, Peer, Persona, Query, Tendency

Array = NDArray[Any]

_FACET_FIELDS = ("facet", "name", "support", "own_confidence", "confidence", "n_contributors",
                 "agreement", "abstained")  # fmt: skip
_EXAMPLES = {"own": "own", "peers": "peer", "population": "population"}
_GONE = {
    "instructions": "what the user said outright would go",
    "tendencies": "what the user's own history shows in words would go",
    "borrowed": "what similar users show would go",
    "own": "the user's own earlier messages would go",
    "peers": "the quoted messages of similar users would go",
    "population": "the quoted messages of other users would go",
}


def trace_of(
    query: Query,
    persona: Persona,
    routed: Array,
    context: Context,
    peers: Sequence[Peer] = (),
    reasoned: Sequence[str] = (),
    unsent: str = "",
) -> dict[str, Any]:
    """Everything an explanation needs, as plain data; facets without a share are left out.

    Args:
        peers: those behind what was borrowed who allow being told apart, that is, lend text.
        reasoned: views in which graph reasoning corrected what is said.
        unsent: why soft tokens are not sent although they were trained.

    Shapes:
        routed (n_facets,)
    """
    facets = [facet for facet in persona.facets if routed[facet.facet] > 0]
    share = np.array([routed[facet.facet] for facet in facets])
    support = np.array([facet.support for facet in facets])
    before = np.array([facet.own_confidence for facet in facets])
    after = np.array([facet.confidence for facet in facets])
    abstained = np.array([bool(facet.abstained) for facet in facets])
    return {
        "user": query.user, "text": query.text, "at": query.at, "state": persona.state,
        "mode": persona.mode, "is_personalised": context.is_personalised,
        "branches": str(context.branches), "graph": _by_graph(context, reasoned, unsent),
        "choice": context.choice,
        "need": own_need(share, support),
        "worth": borrowing_worth(share, before, after, abstained),
        "facets": [_facet(f, float(routed[f.facet]), peers) for f in facets],
        "parts": [
            {"kind": part.kind, "tokens": part.tokens, "sources": list(part.sources),
             "reason": part.reason,
             "without": f"{_GONE[part.kind]}; its {part.tokens} tokens would be free for the rest"}
            for part in context.parts
        ],
        "sources": list(_sources(facets, context)),
        "evidence": [_evidence(e) for e in context.evidence],
        "warnings": list(context.warnings),
        "tokens": context.tokens, "budget_tokens": context.budget_tokens,
    }  # fmt: skip


def _by_graph(context: Context, reasoned: Sequence[str], unsent: str) -> str:
    """In which ways the graph branch spoke."""
    if not context.branches.graph:
        return "off"
    kinds = {part.kind for part in context.parts}
    ways = ["hedged text"] if kinds & {"tendencies", "borrowed"} else []
    if context.soft is not None:
        ways.append(f"{len(context.soft)} soft tokens")
    if ways and reasoned:
        ways.append(f"corrected by graph reasoning in {', '.join(reasoned)}")
    said = ", ".join(ways) or "on, and had nothing to say"
    return f"{said}; {unsent}" if unsent else said


def nameless(evidence: Evidence, borrower: str, secret: bytes) -> Evidence:
    """Evidence for its reader: the id of another user's item may hold that user's name."""
    if evidence.origin == "own":
        return evidence
    alias = pseudonym(secret, borrower, f"item {evidence.interaction_id}")
    return replace(evidence, interaction_id=alias.replace("peer", "item", 1))


def _facet(facet: FacetPersona, share: float, peers: Iterable[Peer]) -> dict[str, Any]:
    told_apart = [
        {"pseudonym": p.pseudonym, "alignment": round(p.alignment, 4), "weight": round(p.weight, 4)}
        for p in peers
        if p.facet == facet.facet
    ]
    return {
        **{name: getattr(facet, name) for name in _FACET_FIELDS},
        "share": round(share, 4),
        "tendencies": [_tendency(t) for t in facet.tendencies],
        "peers": told_apart,
    }


def _tendency(tendency: Tendency) -> dict[str, Any]:
    return {name: getattr(tendency, name) for name in Tendency.__slots__}


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "origin": evidence.origin, "author": evidence.author, "facet": evidence.facet,
        "score": evidence.score, "score_parts": dict(evidence.score_parts),
        "same_item": evidence.same_item,
    }  # fmt: skip


def _sources(facets: Sequence[FacetPersona], context: Context) -> Iterator[dict[str, Any]]:
    """What each source put into the context, and what would go without it.

    `source` is `instructions`, `own history`, `similar users` (statistics, all of them together),
    or the pseudonym of one who is quoted.
    """
    tokens = {part.kind: part.tokens for part in context.parts}
    if "instructions" in tokens:
        yield _source("instructions", ["instructions"], tokens, 0, _GONE["instructions"])
    n_own = sum(e.origin == "own" for e in context.evidence)
    own = [kind for kind in ("tendencies", "own") if kind in tokens]
    if own:
        lost = _counted(n_own, "own message") if n_own else "no own message"
        said = "own tendencies and " if "tendencies" in tokens else ""
        gone = f"{said}{lost} would go, and so would the peers found through them"
        yield _source("own history", own, tokens, n_own, gone)
    if "borrowed" in tokens:
        gone = "; ".join(_less_confident(facet) for facet in facets if facet.n_contributors)
        yield _source("similar users", ["borrowed"], tokens, 0, gone)
    yield from _quoted(context.evidence)


def _source(
    name: str, kinds: Sequence[str], tokens: dict[str, int], n_items: int, without: str
) -> dict[str, Any]:
    size = sum(tokens[kind] for kind in kinds)
    return {"source": name, "kinds": list(kinds), "tokens": size, "items": n_items,
            "without": without}  # fmt: skip


def _less_confident(facet: FacetPersona) -> str:
    return (
        f"confidence in {facet.name} would fall from {facet.confidence:.2f} to "
        f"{facet.own_confidence:.2f}"
    )


def _quoted(evidence: Iterable[Evidence]) -> Iterator[dict[str, Any]]:
    """Every other user who is quoted, under the pseudonym."""
    by_author: dict[str, list[Evidence]] = {}
    for item in evidence:
        if item.origin != "own":
            by_author.setdefault(item.author, []).append(item)
    for author, items in by_author.items():
        origins = {item.origin for item in items}
        kinds = [kind for kind, origin in _EXAMPLES.items() if origin in origins]
        without = f"{_counted(len(items), 'quoted message')} would go; the next best would follow"
        yield {"source": author, "kinds": kinds, "items": len(items), "without": without}


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
