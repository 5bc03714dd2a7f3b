"""Traces: facets, sources, peers and what would go, and nothing that names anybody."""

import json

import numpy as np
import pytest

from copersona.answering.explain import trace_of
from copersona.answering.prompting import PromptConfig, render
from copersona.records import Evidence, FacetPersona, Peer, Persona, Query, Tendency
from copersona.reports import Explanation

QUERY = Query("ann", "Review this kettle.", at=5.0)
ROUTED = np.array([0.75, 0.25, 0.0])
OWN = Tendency("style", "length", -1.0, 0, "shorter messages")
LENT = Tendency("style", "emoji", 1.0, 4, "more emoji")
PEERS = (Peer("peer-a", 0, 0.51234, 0.25), Peer("peer-b", 1, 0.4, 0.5))


def facet(number, **fields):
    values = {"name": f"topic {number}", "support": 2.0, "own_confidence": 0.2, "confidence": 0.5,
              "n_contributors": 4, "agreement": 0.7, "abstained": "",
              "tendencies": (OWN, LENT)}  # fmt: skip
    return FacetPersona(number, **{**values, **fields})


ALONE = facet(1, support=0.0, confidence=0.2, n_contributors=0, agreement=0.0,
              abstained="only 1 effective peer", tendencies=())  # fmt: skip


def evidence(origin, key):
    author = "you" if origin == "own" else f"peer-{key}"
    parts = {"relevance": 0.75, "own": 0.25}
    return Evidence(origin, author, f"id-{key}", "a kettle", f"said {key}", 0, 1.0, parts)


def traced(found=(), mode="text", peers=()):
    facets = (facet(0), ALONE, facet(2))
    persona = Persona("ann", facets, ("Metric units.",), 3, mode, "v1")
    context = render(QUERY, persona, found, ROUTED, PromptConfig(), len)
    return trace_of(QUERY, persona, ROUTED, context, peers)


def quoting():
    return [evidence("own", "1"), evidence("peer", "a"), evidence("peer", "a2"),
            evidence("population", "c")]  # fmt: skip


def test_routed_facets_tell_support_borrowing_and_why_not():
    detail = traced()
    assert [f["facet"] for f in detail["facets"]] == [0, 1]
    first, second = detail["facets"]
    assert (first["share"], first["support"], first["n_contributors"]) == (0.75, 2.0, 4)
    assert (first["own_confidence"], first["confidence"]) == (0.2, 0.5)
    assert second["abstained"] == "only 1 effective peer"
    assert detail["need"] == pytest.approx(0.75 * 0.5 + 0.25)
    assert detail["worth"] == pytest.approx(0.75 * 0.3)
    assert [t["statement"] for t in first["tendencies"]] == ["shorter messages", "more emoji"]


def test_every_source_tells_its_tokens_and_what_would_go():
    detail = traced(quoting())
    tokens = {part["kind"]: part["tokens"] for part in detail["parts"]}
    sources = {source["source"]: source for source in detail["sources"]}
    assert list(sources) == ["instructions", "own history", "similar users", "peer-a", "peer-a2",
                             "peer-c"]  # fmt: skip
    assert sources["own history"]["tokens"] == tokens["tendencies"] + tokens["own"]
    assert "own tendencies and 1 own message would go" in sources["own history"]["without"]
    assert (
        "confidence in topic 0 would fall from 0.50 to 0.20"
        in (sources["similar users"]["without"])
    )
    assert sources["peer-c"]["kinds"] == ["population"]
    assert sources["peer-c"]["without"].startswith("1 quoted message would go")
    assert all(part["without"] for part in detail["parts"])


def test_where_statistics_are_lent_there_are_counts_and_no_single_source():
    detail = traced(quoting(), mode="aggregate")
    assert [s["source"] for s in detail["sources"]] == ["instructions", "own history",
                                                        "similar users"]  # fmt: skip
    assert all(f["peers"] == [] for f in detail["facets"])
    assert {e["origin"] for e in detail["evidence"]} == {"own"}
    assert "peer-" not in json.dumps(detail)


def test_peers_who_may_be_told_apart_stand_at_their_facet():
    first, second = traced(peers=PEERS)["facets"]
    assert first["peers"] == [{"pseudonym": "peer-a", "alignment": 0.5123, "weight": 0.25}]
    assert [p["pseudonym"] for p in second["peers"]] == ["peer-b"]


def test_a_trace_is_plain_data_without_anybodys_words_or_ids():
    text = json.dumps(traced(quoting(), peers=PEERS))
    assert "said a" not in text
    assert "id-a" not in text
    assert json.loads(text)["evidence"][0]["score_parts"] == {"relevance": 0.75, "own": 0.25}


def test_without_anything_to_say_there_are_no_sources():
    persona = Persona("ann", (), (), 0, "own", "v1")
    context = render(QUERY, persona, (), ROUTED, PromptConfig(), len)
    detail = trace_of(QUERY, persona, ROUTED, context)
    assert (detail["sources"], detail["parts"], detail["facets"]) == ([], [], [])
    assert not detail["is_personalised"]


def test_the_report_reads_a_trace():
    lines = "\n".join(Explanation("t1", traced(quoting())).lines())
    assert "topic 0" in lines
    assert "only 1 effective peer" in lines
    assert all(part["reason"] in lines for part in traced(quoting())["parts"])
