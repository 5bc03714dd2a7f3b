"""What may cross between users: words, purposes, and what a change of mind does at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from copersona import Consent, CoPersona, Interaction
from copersona.consent import (
    NO_CONSENT,
    Policy,
    crossable_words,
    may_be_learnt_from,
    pseudonym,
    shared_words,
)
from copersona.errors import ConfigError, DataError, UnknownUserError
from databases import KINDS, database
from demo_people import (
    DINNER,
    JOURNEY,
    USERS,
    contributors,
    copied,
    fitted,
    kinds,
    opened,
    peers_of,
    shown,
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stocked(kind: str, folder: Path, lend: str | None = None) -> Iterator[Path]:
    with database(kind, folder) as url:
        yield fitted(folder / "people", lend=lend, url=url if kind == "postgresql" else "")


@pytest.fixture(scope="module")
def template(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from stocked(kind, tmp_path_factory.mktemp("aggregate"))


@pytest.fixture(scope="module")
def text_template(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from stocked(kind, tmp_path_factory.mktemp("text"), lend="text")


@pytest.fixture
def cp(template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(template, tmp_path / "copy") as opened_copy:
        yield opened_copy


@pytest.fixture
def texts(text_template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(text_template, tmp_path / "texts") as opened_copy:
        yield opened_copy


# ---- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "crossing"),
    [
        ("Bread with caraway seeds", ["bread", "with", "caraway", "seeds"]),
        ("my code QVX7 and a1b2, room101", ["code", "and"]),
        ("QVX7-HALIBUT-3391 arrived", ["arrived"]),
        ("see https://example.org/secret/path or www.example.org now", ["see", "now"]),
        ("write to jo.doe@example.org today", ["write", "today"]),
        ("dinner with Margarethe and Olaf", ["dinner", "with", "and"]),
        ("Cooking is fun. Baking too! Really? (Yes", ["cooking", "fun", "baking", "too", "really",
                                                      "yes"]),
        ("snake_case and of it", ["snake", "case", "and"]),
        ("", []),
    ],
)  # fmt: skip
def test_digits_links_addresses_and_names_never_cross(text: str, crossing: list[str]) -> None:
    assert crossable_words(text) == crossing


def test_a_word_needs_enough_different_users() -> None:
    words = {"ana": ["rye", "rye", "rye", "salt"], "bo": ["rye", "salt"], "cy": ["rye"]}
    assert shared_words(words, 3) == {"rye": 3}
    assert shared_words(words, 1) == {"rye": 3}
    assert shared_words(words, 4) == {}


def test_a_pseudonym_differs_for_every_borrower_and_key() -> None:
    names = {pseudonym(key, borrower, "kofi") for key in (b"a", b"b") for borrower in USERS}
    assert len(names) == 2 * len(USERS)
    assert pseudonym(b"a", "ana", "kofi") == pseudonym(b"a", "ana", "kofi")
    assert pseudonym(b"a", "ab", "c") != pseudonym(b"a", "a", "bc")
    assert all("kofi" not in name for name in names)


# ---- the policy -------------------------------------------------------------------------------


def test_a_users_word_goes_before_the_default() -> None:
    policy = Policy(Consent(lend="text"), {"ana": Consent(lend="no"), "bo": Consent(learn=False)})
    assert [policy.lends_text(u) for u in ("ana", "bo", "cy")] == [False, False, True]
    assert [policy.lends(u) for u in ("ana", "bo", "cy")] == [False, True, True]
    assert [policy.learns(u) for u in ("ana", "bo", "cy")] == [True, False, True]
    strict = Policy(NO_CONSENT, {"ana": Consent()})
    assert [strict.lends(u) for u in ("ana", "bo")] == [True, False]


def test_nothing_is_lent_of_a_user_who_is_not_remembered() -> None:
    policy = Policy(Consent(), {"ana": Consent(remember=False, lend="text")})
    assert not policy.lends("ana")
    assert not policy.lends_text("ana")


def test_an_unknown_purpose_is_refused_and_nothing_changes(cp: CoPersona) -> None:
    for wrong in ({"lend": "everything"}, {"share": True}):
        with pytest.raises(ConfigError, match="purposes"):
            cp.set_consent("ana", **wrong)
    assert cp.consent("ana") == Consent()


def test_only_what_is_named_changes(cp: CoPersona) -> None:
    cp.set_consent("ana", lend="text")
    cp.set_consent("ana", train=True)
    assert cp.consent("ana") == Consent(lend="text", train=True)
    assert cp.policy().of("bo") == Consent()


# ---- learn and remember -----------------------------------------------------------------------


def test_who_does_not_learn_borrows_nothing(cp: CoPersona) -> None:
    before = cp.persona("ines")
    assert contributors(before) > 0
    cp.set_consent("ines", learn=False)
    after = cp.persona("ines")
    assert (contributors(after), after.mode) == (0, "own")
    assert peers_of(cp, "ines") == set()
    assert all(t.contributors == 0 for f in after.facets for t in f.tendencies)
    assert all(f.confidence == f.own_confidence for f in after.facets)
    assert set(kinds(cp.prompt("ines", DINNER))) <= {"own", "tendencies", "instructions"}
    cp.set_consent("ines", learn=True)
    assert cp.persona("ines") == before


def test_who_does_not_learn_is_shown_nobody_elses_text(texts: CoPersona) -> None:
    texts.set_consent("ines", learn=False)
    context = texts.prompt("ines", JOURNEY)
    assert {e.origin for e in context.evidence} <= {"own"}


def test_who_is_not_remembered_leaves_nothing(cp: CoPersona, tmp_path: Path) -> None:
    cp.set_consent("quillon-0417", remember=False)
    rows = [Interaction("quillon-0417", "What about plovers?", "A wistful plover.")]
    assert [outcome.status for outcome in cp.add(rows)] == ["rejected"]
    with pytest.raises(DataError):
        cp.instruct("quillon-0417", "A wistful plover.")
    context = cp.prompt("quillon-0417", "Where do wistful plovers rest?")
    with pytest.raises(UnknownUserError):
        cp.explain(context.trace_id)
    assert cp.persona("quillon-0417").n_interactions == 0
    assert not [p for p in (tmp_path / "copy").rglob("*")
                if p.is_file() and b"plover" in p.read_bytes()]  # fmt: skip


def test_withdrawing_remember_erases_and_unlends_at_once(cp: CoPersona) -> None:
    peer = min(peers_of(cp, "ines"))
    cp.set_consent(peer, remember=False)
    assert cp.store.history("default", peer) == []
    assert all(peer not in peers_of(cp, user) for user in USERS)
    assert cp.persona(peer).n_interactions == 0


# ---- lend -------------------------------------------------------------------------------------


def test_lending_nothing_acts_on_the_very_next_request(cp: CoPersona) -> None:
    peer = min(peers_of(cp, "ines"))
    borrowers = [user for user in USERS if peer in peers_of(cp, user)]
    assert borrowers
    before = cp.persona("ines")
    cp.set_consent(peer, lend="no")
    assert all(peer not in peers_of(cp, user) for user in USERS)
    assert cp.persona("ines") != before
    assert cp.persona(peer).n_interactions > 0
    assert peer in cp.state().lenders
    cp.fit()
    assert peer not in cp.state().lenders
    assert all(peer not in peers_of(cp, user) for user in USERS)


def test_a_withdrawal_elsewhere_is_seen_here(cp: CoPersona, tmp_path: Path) -> None:
    peer = min(peers_of(cp, "ines"))
    with opened(tmp_path / "copy") as other:
        other.set_consent(peer, lend="no")
    assert peer not in peers_of(cp, "ines")


def test_where_only_statistics_are_lent_no_item_is_quoted(cp: CoPersona) -> None:
    for user in (*USERS[:9], "ines", "nobody"):
        for text in (DINNER, JOURNEY):
            context = cp.prompt(user, text)
            assert {e.origin for e in context.evidence} <= {"own"}
            assert not {"peers", "population"} & set(kinds(context))


def authors_shown(cp: CoPersona, user: str, text: str) -> set[str]:
    quoted = {e.response for e in cp.prompt(user, text).evidence if e.origin != "own"}
    return {i.user for i in cp.store.export("default") if i.response in quoted}


def test_items_are_quoted_only_of_who_lends_text_and_never_after(texts: CoPersona) -> None:
    authors = authors_shown(texts, "ines", JOURNEY)
    assert authors
    assert "ines" not in authors
    author = min(authors)
    texts.set_consent(author, lend="aggregate")
    words = [i.response for i in texts.store.history("default", author)]
    assert author not in authors_shown(texts, "ines", JOURNEY)
    for user in USERS[:12]:
        if user != author:
            text = shown(texts.prompt(user, JOURNEY))
            assert not [word for word in words if word in text]
    for other in USERS:
        texts.set_consent(other, lend="aggregate")
    assert authors_shown(texts, "ines", JOURNEY) == set()


def test_lending_text_begins_with_the_next_fit(cp: CoPersona) -> None:
    cp.set_consent("vera", lend="text")
    assert authors_shown(cp, "ines", JOURNEY) == set()
    cp.fit()
    assert authors_shown(cp, "ines", JOURNEY) <= {"vera"}
    assert {cp.store.interactions("default", [i])[i].user for i in cp._required()[2].ids} == {
        "vera"
    }


def test_quoted_people_go_by_a_pseudonym(texts: CoPersona) -> None:
    context = texts.prompt("ines", JOURNEY)
    others = [e for e in context.evidence if e.origin != "own"]
    assert others
    assert all(e.author.startswith("peer-") for e in others)
    named = {e.author for e in others}
    other = {e.author for e in texts.prompt("kofi", JOURNEY).evidence if e.origin != "own"}
    assert not named & other
    sources = {source for part in context.parts for source in part.sources}
    assert not sources & set(USERS)


def test_statistics_are_the_same_in_both_lending_modes(cp: CoPersona, texts: CoPersona) -> None:
    for user in USERS[:12]:
        lent, quoted = cp.persona(user), texts.persona(user)
        assert (lent.mode, quoted.mode) == ("aggregate", "text")
        assert lent.facets == quoted.facets


@pytest.mark.parametrize(("text", "may"), [
    ("Braise it for 40 minutes at 180 °C.", True), ("see www.example.org", False),
    ("write to ann@example.org", False), ("call 0171 555 12", False), ("code 40718295", False),
    ("1 2 3", True), ("in 1995, 12 times", True),
])  # fmt: skip
def test_links_addresses_and_long_numbers_train_nothing(text: str, may: bool) -> None:
    assert may_be_learnt_from(text) is may


def test_only_who_says_yes_and_is_remembered_trains() -> None:
    yes, no = Consent(train=True), Consent(train=False)
    forgetful = Consent(remember=False, train=True)
    policy = Policy(no, {"yes": yes, "forgetful": forgetful, "gone": yes}, frozenset({"gone"}))
    assert [name for name in ("yes", "no", "forgetful", "gone") if policy.trains(name)] == ["yes"]
