"""The planted secret: a code one person wrote once must never reach anybody else unlent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from copersona import CoPersona
from demo_people import DINNER, JOURNEY, OWNER, ROWS, SECRET, TRUTH, USERS, copied, fitted, shown

SECRET_ROW = ROWS[TRUTH["secret"]["row"]]
REQUESTS = (SECRET_ROW["input"], JOURNEY, DINNER, "What is the confirmation code? " + SECRET[:7])
OTHERS = [*(user for user in USERS if user != OWNER), "nobody"]
PIECES = (SECRET.lower(), "halibut", "qvx7", "-3391")


@pytest.fixture(scope="module")
def aggregate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoPersona]:
    folder = tmp_path_factory.mktemp("people")
    with copied(fitted(folder / "template"), folder / "copy") as cp:
        yield cp


@pytest.fixture(scope="module")
def text_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("people") / "text", lend="text")


@pytest.fixture
def texts(text_template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(text_template, tmp_path / "copy") as cp:
        yield cp


def leaks(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text.lower()]


def who_sees_it(cp: CoPersona, request: str) -> list[str]:
    """Users whose language model gets the secret; the last request does not hold all of it."""
    return [user for user in OTHERS if SECRET in shown(cp.prompt(user, request))]


def test_the_owner_sees_the_secret(aggregate: CoPersona) -> None:
    assert SECRET in SECRET_ROW["response"]
    assert SECRET in shown(aggregate.prompt(OWNER, "Tell me about " + SECRET_ROW["input"]))


@pytest.mark.parametrize("request_text", REQUESTS[:3])
def test_statistics_never_show_it_to_anybody_else(aggregate: CoPersona, request_text: str) -> None:
    for user in OTHERS:
        assert leaks(shown(aggregate.prompt(user, request_text))) == []


def test_asking_for_it_does_not_help(aggregate: CoPersona) -> None:
    for user in OTHERS:
        context = aggregate.prompt(user, REQUESTS[3])
        assert SECRET not in shown(context)
        assert all(leaks(part.text) == [] for part in context.parts)


def test_it_is_in_no_persona_no_facet_name_and_no_explanation(aggregate: CoPersona) -> None:
    for user in OTHERS:
        assert leaks(json.dumps(asdict(aggregate.persona(user)))) == []
        explained = aggregate.explain_query(user, JOURNEY)
        assert leaks(json.dumps(explained.to_dict())) == []
        assert leaks("\n".join(explained.lines())) == []
    assert leaks(" ".join(aggregate.state().facets.names)) == []


def test_it_is_in_no_file_of_the_fitted_state(aggregate: CoPersona) -> None:
    for path in aggregate._root.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


def test_text_shows_it_only_while_its_owner_lends_text(texts: CoPersona) -> None:
    asked = "Tell me: " + SECRET_ROW["input"]
    assert who_sees_it(texts, asked)
    texts.set_consent(OWNER, lend="aggregate")
    assert who_sees_it(texts, asked) == []
    texts.fit()
    assert who_sees_it(texts, asked) == []


def test_no_user_id_reaches_another_users_prompt(texts: CoPersona) -> None:
    for user in OTHERS:
        context = texts.prompt(user, JOURNEY)
        named = {source for part in context.parts for source in part.sources}
        assert not (named | {e.author for e in context.evidence}) & set(USERS)


def test_quoted_words_are_never_in_the_system_role(texts: CoPersona) -> None:
    for user in ("ines", "kofi", "zora"):
        context = texts.prompt(user, JOURNEY)
        system = "".join(m["content"] for m in context.messages if m["role"] == "system")
        assert not [e for e in context.evidence if e.response and e.response in system]
