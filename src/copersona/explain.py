"""What is kept of an answer so that it can be explained: the trace.

Knows records only. In aggregate mode there are no peers' items and so only counts of contributors.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.records import Context, Persona, Query
from copersona.routing import borrowing_worth, own_need

Array = NDArray[Any]


def trace_of(query: Query, persona: Persona, routed: Array, context: Context) -> dict[str, Any]:
    """Everything an explanation needs, as plain data.

    Shapes:
        routed (n_facets,)
    """
    facets = [
        {**asdict(facet), "share": round(float(routed[facet.facet]), 4),
         "tendencies": [asdict(t) for t in facet.tendencies]}
        for facet in persona.facets
    ]  # fmt: skip
    support = np.array([facet.support for facet in persona.facets])
    before = np.array([facet.own_confidence for facet in persona.facets])
    after = np.array([facet.confidence for facet in persona.facets])
    abstained = np.array([bool(facet.abstained) for facet in persona.facets])
    return {
        "user": query.user, "text": query.text, "at": query.at, "state": persona.state,
        "mode": persona.mode, "is_personalised": context.is_personalised,
        "need": own_need(routed, support),
        "worth": borrowing_worth(routed, before, after, abstained),
        "facets": facets,
        "parts": [
            {"kind": part.kind, "tokens": part.tokens, "sources": list(part.sources),
             "reason": part.reason,
             "without": f"these {part.tokens} tokens would go, the rest would stay"}
            for part in context.parts
        ],
        "evidence": [
            {"origin": e.origin, "author": e.author, "facet": e.facet, "score": e.score,
             "score_parts": dict(e.score_parts), "same_item": e.same_item}
            for e in context.evidence
        ],
        "tokens": context.tokens, "budget_tokens": context.budget_tokens,
    }  # fmt: skip
