"""Answers for one user: modes, hints, whose items may be read, and the context as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from copersona import CoPersona, Interaction
from copersona.answering.prompting import PromptConfig
from copersona.answering.retrieval import RetrievalConfig
from copersona.answering.serving import HINT, Answered, Desk
from copersona.language.generation import approximate_tokens
from copersona.records import Query
from demo_people import DINNER, JOURNEY, USERS, copied, fitted


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("people") / "aggregate")


@pytest.fixture(scope="module")
def quotable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("people") / "text", lend="text")


@pytest.fixture
def cp(statistics: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(statistics, tmp_path / "copy") as opened_copy:
        yield opened_copy


@pytest.fixture
def texts(quotable: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(quotable, tmp_path / "texts") as opened_copy:
        yield opened_copy


def desk_of(cp: CoPersona) -> Desk:
    return cp._desk(cp._required())


def answered(cp: CoPersona, user: str, text: str, retrieval: RetrievalConfig | None = None
             ) -> Answered:  # fmt: skip
    query = Query(user, text, at=time.time())
    retrieval = retrieval or RetrievalConfig()
    return desk_of(cp).answer(query, retrieval, PromptConfig(), approximate_tokens)


# ---- mode ---------------------------------------------------------------------------------------


def test_the_mode_says_what_of_others_may_be_used(cp: CoPersona, texts: CoPersona) -> None:
    assert cp.persona("ines").mode == "aggregate"
    assert texts.persona("ines").mode == "text"
    texts.set_consent("ines", learn=False)
    assert texts.persona("ines").mode == "own"


def test_with_nobody_left_who_lends_text_the_mode_is_aggregate(texts: CoPersona) -> None:
    for user in set(USERS) - {"ines"}:
        texts.set_consent(user, lend="aggregate")
    assert texts.persona("ines").mode == "aggregate"
    assert texts.persona("kofi").mode == "text"


# ---- own history --------------------------------------------------------------------------------


def test_own_history_is_read_at_once_and_equals_the_slow_way(cp: CoPersona) -> None:
    desk, history = desk_of(cp), cp.store.history("default", "ines")
    cp.add([Interaction("ines", "What is new?", "Nothing at all.")])
    history = cp.store.history("default", "ines")
    own, corpus = desk.own("ines"), desk.own_corpus(history)
    assert list(own.history) == history
    np.testing.assert_array_equal(own.corpus.inputs, corpus.inputs)
    np.testing.assert_array_equal(own.corpus.responses, corpus.responses)


def test_a_sparse_users_own_messages_are_shown_among_many_more_relevant(texts: CoPersona) -> None:
    context = answered(texts, "ines", JOURNEY).context
    origins = [e.origin for e in context.evidence]
    assert origins.count("own") == 4
    assert set(origins) > {"own"}
    assert {"own", "peers"} <= {p.kind for p in context.parts}


def test_an_empty_facet_is_described_from_others_where_they_say_enough(cp: CoPersona) -> None:
    rows = [Interaction("ned", f"Which dish number {n} do you cook?", "Rice! " * 3)
            for n in range(9)]  # fmt: skip
    cp.add(rows)
    empty = [facet for facet in cp.persona("ned").facets if facet.support == 0]
    hinted = [f for f in empty if any(t.contributors == 0 for t in f.tendencies)]
    assert hinted
    view = desk_of(cp).view("ned", desk_of(cp).own("ned").corpus)
    assert all(view.facets[f.facet].own_confidence.max() >= HINT for f in hinted)
    silent = [f for f in empty if view.facets[f.facet].own_confidence.max() < HINT]
    assert all(t.contributors for f in silent for t in f.tendencies)


# ---- others' items ------------------------------------------------------------------------------


def test_who_is_quoted_is_told_to_the_trace_by_id_and_to_the_reader_by_pseudonym(
    texts: CoPersona,
) -> None:
    done = answered(texts, "ines", JOURNEY)
    shown = [e for e in done.context.evidence if e.origin != "own"]
    authors = {i.user for i in texts.store.interactions(
        "default", [e.interaction_id for e in shown]).values()}  # fmt: skip
    assert done.quoted == authors
    assert "ines" not in authors
    assert all(peer.pseudonym.startswith("peer-") for peer in done.peers)
    assert {p.facet for p in done.peers} <= set(np.flatnonzero(done.routed).tolist())


def test_peers_are_told_apart_only_where_they_lend_text(cp: CoPersona, texts: CoPersona) -> None:
    assert answered(cp, "ines", JOURNEY).peers == ()
    before = answered(texts, "ines", JOURNEY).peers
    for user in USERS[:30]:
        texts.set_consent(user, lend="aggregate")
    after = answered(texts, "ines", JOURNEY).peers
    assert 0 < len(after) < len(before)


def test_who_withdraws_leaves_their_place_to_the_next(texts: CoPersona) -> None:
    config = RetrievalConfig(origins=frozenset({"population", "peer"}), per_peer=None)
    first = answered(texts, "ines", JOURNEY, config)
    for author in first.quoted:
        texts.set_consent(author, lend="aggregate")
    second = answered(texts, "ines", JOURNEY, config)
    assert len(second.context.evidence) == len(first.context.evidence)
    assert not second.quoted & first.quoted


def test_the_context_of_the_desk_holds_routed_facets_only(cp: CoPersona) -> None:
    done = answered(cp, "kofi", DINNER)
    assert [f.facet for f in done.persona.facets] == np.flatnonzero(done.routed).tolist()
    assert done.context.is_personalised
    assert done.quoted == frozenset()
