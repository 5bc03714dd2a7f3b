"""An example of every body, for the OpenAPI document; a test holds them to their schemas."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from copersona.service import answers, requests

_CONSENT = {"remember": True, "learn": True, "lend": "aggregate", "train": False}
_TRACE, _KEY, _MARK = "8c1f0e3f6c0c9f1f", "3f6c0c9f1f0e", "9d0c2be27b1f8a44"
_STATE = "000001-3dc7e9ad"
_SAID = {"input": "How did the sourdough turn out?", "response": "78 % hydration. 240 °C."}
_TENDENCY = {"view": "style", "name": "length", "value": -0.69, "contributors": 0,
             "statement": "far shorter messages (about 6 words)"}  # fmt: skip
_FACET = {"facet": 0, "name": "bread", "support": 1.0, "own_confidence": 0.23, "confidence": 0.41,
          "n_contributors": 4, "agreement": 0.8, "abstained": "",
          "tendencies": [_TENDENCY]}  # fmt: skip
_SHARE = {"value": 5.0, "share": 1.0, "own": 0.7, "borrowed": 0.2, "prior": 0.1, "contributors": 4}
_USAGE = {"key_id": _KEY, "user": _MARK, "model": "gpt-4o-mini", "day": "2026-05-31", "requests": 2,
          "estimated": 0, "prompt_tokens": 640, "completion_tokens": 210, "added_tokens": 480,
          "cost": 0.000222}  # fmt: skip
_JOB = {"id": _TRACE, "kind": "fit", "options": {}, "state": "running", "stage": "graph", "done": 2,
        "total": 5, "created_at": 1780000000.0, "started_at": 1780000001.0, "ended_at": None,
        "attempts": 1, "result": None, "error": None}  # fmt: skip
_ROW: dict[str, Any] = {
    "id": "42", **_SAID, "item": None, "rating": 5.0, "label": None, "at": 1780000000.0,
    "facet": None, "thread": None, "metadata": {}, "source": None,
}  # fmt: skip
_LINE = {"at": 1780000000.123, "key_id": _KEY, "action": "context", "marks": [_MARK],
         "is_allowed": True}  # fmt: skip
_MESSAGE = {"role": "user", "content": "Plan two days in Porto"}
_PART = {"kind": "instructions", "text": "- Always metric units.", "tokens": 27, "sources": ["you"],
         "reason": "the user said so outright"}  # fmt: skip

_CHAT = {"model": "gpt-4o-mini", "user": "ana", "messages": [_MESSAGE]}
_OF: dict[type[BaseModel], dict[str, Any]] = {
    requests.NewInteractions: {
        "interactions": [{"user": "ana", **_SAID, "rating": 5, "at": "2026-05-31T12:00:00Z"}]
    },
    requests.ConsentChange: {"lend": "no"},
    requests.NewInstruction: {"text": "Always metric units."},
    requests.NewAlias: {"alias": "ana-phone"},
    requests.MergeRequest: {"from": "ana-tablet"},
    requests.NewFeedback: {"trace_id": _TRACE, "verdict": "edit", "edited": "Two days, on foot."},
    requests.NewJob: {"kind": "train", "options": {"graph": True}},
    requests.VoteRequest: {"user": "ana", "text": "A kettle for two"},
    requests.ContextRequest: {"user": "ana", "text": _MESSAGE["content"], "budget_tokens": 800},
    answers.Outcomes: {
        "stored": 1, "duplicates": 0, "rejected": 0,
        "outcomes": [{"index": 0, "status": "stored", "id": "42", "reason": "", "field": None}],
    },
    answers.PersonaAnswer: {
        "user": "ana", "facets": [_FACET], "instructions": ["Always metric units."],
        "n_interactions": 1, "mode": "aggregate", "state": _STATE,
    },
    answers.ConsentAnswer: _CONSENT,
    answers.ExportAnswer: {
        "user": "ana", "consent": _CONSENT, "instructions": ["Always metric units."],
        "interactions": [_ROW],
        "traces": {_TRACE: {"user": "ana", "text": _MESSAGE["content"]}}, "aliases": ["ana-phone"],
        "feedback": {_TRACE: {"verdict": "accept", "note": ""}}, "usage": [_USAGE],
    },
    answers.ReceiptAnswer: {
        "removed": {"interactions": 1, "instructions": 1}, "state": _STATE, "states_removed": [],
        "not_unlearnt": ["baseline: facet means"], "traces_found": [], "scanned": 13,
        "searched": ["every fitted state that is kept"], "unsearched": ["logs"],
        "backups": [{"id": "1f0c9a3e77d2", "age_days": 3.5, "is_noted": True}],
    },
    answers.AliasesAnswer: {"user": "ana", "aliases": ["ana-phone"]},
    answers.MergedAnswer: {
        "user": "ana", "interactions": 12, "instructions": 1, "aliases": 0, "traces": 3,
        "consent": _CONSENT,
    },
    answers.FeedbackAnswer: {"trace_id": _TRACE, "verdict": "edit", "stored": True},
    answers.ContextAnswer: {
        "messages": [{"role": "system", "content": _PART["text"]}, _MESSAGE], "parts": [_PART],
        "tokens": 27, "budget_tokens": 800, "is_personalised": True, "trace_id": _TRACE,
        "branches": "text,graph", "choice": "", "warnings": [],
    },
    answers.VoteAnswer: {
        "user": "ana", "labels": [], "ratings": [_SHARE], "expected_rating": 5.0,
        "median_rating": 5.0, "n_own": 5, "worth": 0.2, "state": _STATE,
    },
    answers.ExplanationAnswer: {
        "trace_id": _TRACE, "said": ["part instructions (27 tokens): the user said so outright"],
        "detail": {"user": "ana", "mode": "aggregate", "need": 0.67},
    },
    answers.UsagesAnswer: {"usage": [_USAGE]},
    answers.JobAnswer: _JOB,
    answers.JobsAnswer: {"jobs": [_JOB]},
    answers.AuditAnswer: {"lines": [_LINE]},
    answers.Health: {"status": "ok"},
}  # fmt: skip


def add_examples(document: dict[str, Any]) -> None:
    """Put the examples into a document."""
    schemas = document["components"]["schemas"]
    for body, example in _OF.items():
        schemas[body.__name__]["examples"] = [example]
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    chat["application/json"]["schema"] = {**chat["application/json"]["schema"], "examples": [_CHAT]}
