"""One person under several ids, and what they say of answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from copersona import Consent, CoPersona, Interaction
from copersona.answering.trust import BOUND, shifts
from copersona.errors import DataError, UnknownUserError
from copersona.records import Evidence
from service_people import ANA, BANK, BO, SECRETS, SHOP, check_problem, opened, served, stocked

PHONE, TEXT = "ana's phone", "kitchen tool: kettle"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = stocked(tmp_path_factory.mktemp("people") / "x")
    with opened(folder, SHOP) as engine:
        for user in engine.store.users(SHOP):
            engine.set_consent(user, lend="text")
        engine.fit()
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "x"))


@pytest.fixture
def shop(folder: Path) -> Iterator[CoPersona]:
    with opened(folder, SHOP) as engine:
        yield engine


def said(engine: CoPersona, user: str) -> list[str]:
    return [row.response for row in engine.export_user(user).interactions]


# ── aliases ───────────────────────────────────────────────────────────────────────────────────


def test_every_verb_with_an_alias_is_about_the_user(shop: CoPersona) -> None:
    shop.alias(ANA, PHONE)
    assert shop.add([Interaction(PHONE, response="From the phone.")])[0].status == "stored"
    shop.instruct(PHONE, "Be brief.")
    shop.set_consent(PHONE, train=True)
    assert said(shop, ANA)[0] == "From the phone."
    assert shop.consent(ANA).train
    assert shop.persona(PHONE) == shop.persona(ANA)
    assert shop.vote(PHONE, TEXT) == shop.vote(ANA, TEXT)
    assert shop.choose(PHONE, TEXT, ["a", "b"]) == shop.choose(ANA, TEXT, ["a", "b"])
    trace = shop.prompt(PHONE, TEXT).trace_id
    assert shop.store.trace(SHOP, trace)[0] == ANA
    assert shop.export_user(PHONE) == shop.export_user(ANA)
    assert shop.export_user(ANA).aliases == shop.aliases(PHONE) == (PHONE,)
    assert PHONE not in shop.store.users(SHOP)
    assert shop.explain_query(PHONE, TEXT).detail["user"] == ANA
    shop.remove(PHONE, shop.store.history(SHOP, ANA)[0].id)
    assert "From the phone." not in said(shop, ANA)


def test_users_are_never_peers_of_their_own(shop: CoPersona) -> None:
    shop.alias(ANA, PHONE)
    for name in (ANA, PHONE):
        evidence = shop.prompt(name, "garden tool: rake").evidence
        others = [one.response for one in evidence if one.origin != "own"]
        assert others
        assert not [text for text in others if SECRETS[SHOP] in text]


def test_an_id_has_one_meaning(shop: CoPersona) -> None:
    shop.alias(ANA, PHONE)
    shop.alias(PHONE, PHONE)  # said twice, also by that name
    for user, alias in ((BO, PHONE), (ANA, BO), (BO, ANA), (ANA, ANA)):
        with pytest.raises(DataError):
            shop.alias(user, alias)
    shop.set_consent("shy", lend="no")
    with pytest.raises(DataError):
        shop.alias(ANA, "shy")
    shop.prompt("passer-by", TEXT)  # only asked something
    shop.alias(ANA, "passer-by")
    assert shop.aliases(ANA) == (PHONE, "passer-by")
    assert shop.store.introduce(SHOP, [PHONE], Consent(lend="text")) == 0
    assert shop.doctor() == []


def test_what_was_said_under_an_alias_stays_when_it_is_taken_away(shop: CoPersona) -> None:
    shop.alias(ANA, PHONE)
    shop.add([Interaction(PHONE, response="From the phone.")])
    shop.unalias(ANA, PHONE)
    assert "From the phone." in said(shop, ANA)
    assert said(shop, PHONE) == []
    with pytest.raises(UnknownUserError):
        shop.unalias(ANA, PHONE)


def test_forgetting_buries_every_name(shop: CoPersona) -> None:
    shop.alias(ANA, PHONE)
    receipt = shop.forget(PHONE)
    assert receipt.traces_found == ()
    for name in (ANA, PHONE):
        assert shop.add([Interaction(name, response="Back.")])[0].status == "rejected"
        assert shop.export_user(name).interactions == ()
        with pytest.raises(DataError):
            shop.alias(BO, name)
        with pytest.raises(DataError):
            shop.merge(BO, name)
    shop.readmit(PHONE)
    assert shop.add([Interaction(PHONE, response="Back.")])[0].status == "stored"
    assert said(shop, ANA) == []


def test_aliases_of_two_namespaces_know_nothing_of_each_other(folder: Path) -> None:
    with opened(folder, SHOP) as shop, opened(folder, BANK) as bank:
        shop.alias(ANA, PHONE)
        assert bank.aliases(ANA) == ()
        assert bank.name(PHONE) == PHONE
        bank.alias(BO, PHONE)
        assert (shop.name(PHONE), bank.name(PHONE)) == (ANA, BO)


# ── merging ───────────────────────────────────────────────────────────────────────────────────


def test_merging_moves_everything_and_masks_the_old_row_at_once(folder: Path) -> None:
    with opened(folder, SHOP) as shop, opened(folder, SHOP) as elsewhere:
        shop.instruct(ANA, "Be brief.")
        shop.instruct(BO, "Be brief.")
        shop.alias(ANA, PHONE)
        n_ana, n_bo = len(said(shop, ANA)), len(said(shop, BO))
        elsewhere.prompt("user0", TEXT)
        merged = shop.merge(BO, ANA)
        assert (merged.user, merged.interactions, merged.instructions, merged.aliases) == (
            BO, n_ana, 0, 1,
        )  # fmt: skip
        assert shop.aliases(BO) == (PHONE, ANA)
        assert len(said(shop, PHONE)) == n_ana + n_bo
        assert ANA in shop.state().lenders
        for engine in (shop, elsewhere):
            assert not engine.policy().lends(ANA)
            texts = [one.response for one in engine.prompt("user0", TEXT).evidence]
            assert not [text for text in texts if SECRETS[SHOP] in text]
        mine = shop.prompt(BO, TEXT).evidence
        assert not [one for one in mine if one.origin != "own" and SECRETS[SHOP] in one.response]
        shop.fit()
        assert ANA not in shop.state().lenders
        assert shop.forget(ANA).traces_found == ()


def test_the_stricter_consent_holds(shop: CoPersona) -> None:
    shop.set_consent(ANA, lend="no", train=True)
    shop.set_consent(BO, learn=False)
    assert shop.merge(BO, ANA).consent == shop.consent(BO) == Consent(learn=False, lend="no")


def test_who_is_not_to_be_remembered_is_not_merged(shop: CoPersona) -> None:
    shop.set_consent(BO, remember=False)
    for into, other in ((ANA, BO), (BO, ANA), (ANA, ANA)):
        with pytest.raises(DataError):
            shop.merge(into, other)
    assert len(said(shop, ANA)) == 6


def test_merging_nobody_makes_an_alias(shop: CoPersona) -> None:
    assert shop.merge(ANA, "guest").interactions == 0
    assert shop.aliases(ANA) == ("guest",)


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────


def test_a_token_works_under_every_name_of_its_user_and_learns_of_no_other(folder: Path) -> None:
    with served(folder) as service, service.client(service.key("admin")) as admin:
        old = service.key(user="tablet")
        sent = [admin.post(f"/v1/users/{ANA}/aliases", json={"alias": name})
                for name in (PHONE, "tablet")]  # fmt: skip
        assert [one.status_code for one in sent] == [204, 204]
        for name in (ANA, PHONE):
            with service.client(service.key(user=name)) as token:
                answers = [token.get(f"/v1/users/{one}/export") for one in (ANA, PHONE)]
                assert {one.status_code for one in answers} == {200}
                assert answers[0].json()["aliases"] == [PHONE, "tablet"]
        with service.client(old) as voided:
            assert voided.get(f"/v1/users/{ANA}").status_code == 401
        with service.client(service.key(user=BO)) as other:
            names = (PHONE, ANA, "nobody")
            refused = [other.get(f"/v1/users/{name}") for name in names]
            refused += [other.post(f"/v1/users/{BO}/aliases", json={"alias": n}) for n in names]
        assert {one.status_code for one in refused} == {403}
        assert len({check_problem(one, 403)["detail"] for one in refused}) == 1
        taken: httpx2.Response = admin.post(f"/v1/users/{BO}/aliases", json={"alias": ANA})
        check_problem(taken, 422)


# ── feedback ──────────────────────────────────────────────────────────────────────────────────


RAKE = "garden tool: rake"


def shown(engine: CoPersona, user: str, text: str = RAKE) -> dict[str, Evidence]:
    return {one.response: one for one in engine.prompt(user, text, at=2e9).evidence}


def judged(engine: CoPersona, user: str, verdict: str, times: int) -> list[str]:
    traces = [engine.prompt(user, RAKE, at=2e9).trace_id for _ in range(times)]
    for trace in traces:
        assert engine.feedback(trace, verdict) is False
    return traces


def test_rejected_examples_go_down_for_this_user_only(shop: CoPersona) -> None:
    before = {user: shown(shop, user) for user in (ANA, BO)}
    judged(shop, ANA, "reject", 12)
    after = shown(shop, ANA)
    assert list(after) != list(before[ANA])
    assert all(after[text].score < one.score for text, one in before[ANA].items() if text in after)
    assert shown(shop, BO) == before[BO]


def test_accepted_examples_go_up_and_a_later_word_counts(shop: CoPersona) -> None:
    before = shown(shop, ANA)
    trace = judged(shop, ANA, "reject", 1)[0]
    shop.feedback(trace, "accept", note="On second thoughts.")
    after = shown(shop, ANA)
    assert all(after[text].score > one.score for text, one in before.items() if text in after)
    assert shop.export_user(ANA).feedback == {
        trace: {"verdict": "accept", "note": "On second thoughts."}
    }


def test_no_number_of_verdicts_moves_a_score_beyond_the_bound(shop: CoPersona) -> None:
    assert all(abs(one) < BOUND for one in shifts({"a": (10**6, 0), "b": (0, 10**6)}).values())
    assert shifts({"a": (3, 3)}) == {"a": 0}
    before = shown(shop, ANA)
    judged(shop, ANA, "reject", 40)
    after = shown(shop, ANA)
    shift = [one.score_parts["feedback"] for one in after.values() if "feedback" in one.score_parts]
    assert shift
    assert all(-BOUND < one < 0 for one in shift)
    for text in before.keys() & after.keys():
        assert abs(before[text].score - after[text].score) < BOUND


def test_an_edited_answer_is_the_users_own_words_once(shop: CoPersona) -> None:
    trace = shop.prompt(ANA, RAKE).trace_id
    assert shop.feedback(trace, "edit", edited="A steel rake, please.")
    for _ in range(3):
        assert shop.feedback(trace, "edit", edited="A wooden rake, please.")
    kept = [row for row in shop.store.history(SHOP, ANA) if row.source == "feedback"]
    assert [(row.input, row.response) for row in kept] == [(RAKE, "A wooden rake, please.")]
    assert "A wooden rake, please." in shown(shop, ANA, "garden tool: rake and hose")
    shop.feedback(trace, "reject")
    assert "A wooden rake, please." not in said(shop, ANA)


def test_an_answer_is_taken_in_where_it_was_accepted_only(shop: CoPersona) -> None:
    trace = shop.prompt(ANA, RAKE).trace_id
    assert not shop.feedback(trace, "accept")
    assert shop.feedback(trace, "accept", answer="Oak, ash or steel.")
    assert [row.response for row in shop.store.history(SHOP, ANA) if row.source == "accepted"] == [
        "Oak, ash or steel."
    ]
    for wrong in ({"verdict": "reject", "answer": "x"}, {"verdict": "edit"}, {"verdict": "maybe"},
                  {"verdict": "accept", "edited": "x"}):  # fmt: skip
        with pytest.raises(DataError):
            shop.feedback(trace, **wrong)
    with pytest.raises(UnknownUserError):
        shop.feedback("0" * 16, "accept")


def verdicts_of(shop: CoPersona, user: str) -> Mapping[str, tuple[int, int]]:
    return shop.store.remembered(SHOP, user, encoder="static").verdicts


def test_verdicts_go_with_their_user_and_with_what_they_are_about(shop: CoPersona) -> None:
    judged(shop, BO, "reject", 2)
    counts = verdicts_of(shop, BO)
    of_ana = {row.id for row in shop.store.history(SHOP, ANA)}
    assert of_ana & counts.keys()
    shop.forget(ANA)
    assert not of_ana & verdicts_of(shop, BO).keys()
    trace = shop.prompt(BO, RAKE).trace_id
    shop.feedback(trace, "reject", note="Nothing of that is my vermilion style.")
    assert shop.forget(BO).traces_found == ()
    shop.readmit(BO)
    assert shop.export_user(BO).feedback == {}
    assert verdicts_of(shop, BO) == {}


def test_verdicts_over_http_are_the_users_own(folder: Path) -> None:
    with served(folder) as service, service.client(service.key(user=ANA)) as token:
        trace = token.post("/v1/context", json={"user": ANA, "text": RAKE}).json()["trace_id"]
        edit = {"trace_id": trace, "verdict": "edit", "edited": "Steel, please."}
        with service.client(service.key(user=BO)) as other:
            check_problem(other.post("/v1/feedback", json=edit), 404)
        answer = token.post("/v1/feedback", json=edit)
        assert answer.json() == {"trace_id": trace, "verdict": "edit", "stored": True}
        exported = token.get(f"/v1/users/{ANA}/export").json()
        assert exported["feedback"] == {trace: {"verdict": "edit", "note": ""}}
        check_problem(token.post("/v1/feedback", json={**edit, "verdict": "accept"}), 422)
