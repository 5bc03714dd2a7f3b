"""The embedding cache: every text once, and the first reading equal to every later one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona.answering.vectors import VectorCache
from copersona.errors import BackendError
from copersona.language.encoders import open_encoder
from copersona.records import Interaction
from copersona.storage.store import Store, content_hash

TEXTS = ["a red kite", "the blue whale", "", "a red kite", "wholly other words"]


class CountingEncoder:
    """The hashing encoder, noting what it was asked; fails after so many texts."""

    def __init__(self, fail_after: int = 10**9) -> None:
        self._encoder = open_encoder("hashing")
        self.name, self.dim = self._encoder.name, self._encoder.dim
        self.seen: list[str] = []
        self.fail_after = fail_after

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.seen) + len(texts) > self.fail_after:
            raise BackendError("out of breath")
        self.seen += texts
        return self._encoder.encode(texts)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        texts = [*TEXTS, *(f"text number {n}" for n in range(2000))]
        rows = [Interaction("ana", "", t, id=str(n)) for n, t in enumerate(texts) if t]
        opened.add("n", rows)
        yield opened


def cache_of(store: Store, encoder: Any) -> VectorCache:
    return VectorCache(store, "n", encoder)


def test_one_row_per_text_of_length_1_or_0(store: Store) -> None:
    vectors = cache_of(store, open_encoder("hashing")).vectors(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 1], atol=2e-3)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert not np.array_equal(vectors[0], vectors[1])


def test_no_texts_are_no_rows(store: Store) -> None:
    encoder = open_encoder("hashing")
    assert cache_of(store, encoder).vectors([]).shape == (0, encoder.dim)


def test_a_text_is_encoded_once(store: Store) -> None:
    first = CountingEncoder()
    vectors = cache_of(store, first).vectors([t for t in TEXTS if t])
    assert sorted(first.seen) == sorted({t for t in TEXTS if t})
    later = CountingEncoder()
    again = cache_of(store, later).vectors([t for t in TEXTS if t])
    assert later.seen == []
    np.testing.assert_array_equal(again, vectors)


def test_a_text_nobody_stored_is_not_kept(store: Store) -> None:
    encoder = CountingEncoder()
    cache = cache_of(store, encoder)
    np.testing.assert_array_equal(cache.vectors(["passing by"]), cache.vectors(["passing by"]))
    assert encoder.seen == ["passing by", "passing by"]


def test_an_interrupted_run_does_not_start_over(store: Store) -> None:
    texts = [f"text number {n}" for n in range(2000)]
    broken = CountingEncoder(fail_after=1500)
    with pytest.raises(BackendError, match="out of breath"):
        cache_of(store, broken).vectors(texts)
    assert broken.seen
    rest = CountingEncoder()
    cache_of(store, rest).vectors(texts)
    assert sorted(rest.seen + broken.seen) == sorted(texts)


def test_progress_reaches_the_number_of_new_texts(store: Store) -> None:
    reports: list[tuple[int, int]] = []
    cache = cache_of(store, open_encoder("hashing"))
    cache.vectors(TEXTS[:2], lambda done, total: reports.append((done, total)))
    assert reports[-1] == (2, 2)


def test_namespaces_do_not_share_vectors(store: Store) -> None:
    cache_of(store, CountingEncoder()).vectors(TEXTS[:2])
    store.add("other", [Interaction("bo", "", TEXTS[0], id="x")])
    encoder = CountingEncoder()
    VectorCache(store, "other", encoder).vectors(TEXTS[:1])
    assert encoder.seen == TEXTS[:1]


def test_what_is_at_hand_is_not_encoded_again(store: Store) -> None:
    encoder = CountingEncoder()
    cache = cache_of(store, encoder)
    full = cache.vectors(TEXTS[:3])
    encoder.seen.clear()
    known = [full[0].astype(np.float16), None, full[2].astype(np.float16)]
    np.testing.assert_array_equal(cache.completed(TEXTS[:3], known), full)
    assert encoder.seen == []
    other = CountingEncoder()
    fresh = [None, full[1]]
    assert cache_of(store, other).completed(["never stored", TEXTS[1]], fresh).shape == (2, 256)
    assert other.seen == ["never stored"]
    assert cache.completed([], []).shape == (0, 256)


def test_a_request_is_encoded_as_the_cache_would_and_not_kept(store: Store) -> None:
    encoder = CountingEncoder()
    cache = cache_of(store, encoder)
    np.testing.assert_array_equal(cache.of_request(TEXTS[1]), cache.vectors(TEXTS[1:2])[0])
    assert cache.of_request("just asking").dtype == np.float32
    assert store.embeddings("n", encoder.name, [content_hash("just asking")]) == {}


# ---- a user in one snapshot ----------------------------------------------------------------------


def remembering(path: Path) -> Store:
    store = Store.open(path / "few.db")
    rows = [
        Interaction("bo", "how?", "so", at=20.0, id="b"),
        Interaction("bo", "why?", "", at=None, id="a"),
        Interaction("bo", "when?", "later", at=30.0, id="c"),
        Interaction("cy", "how?", "not so", at=10.0, id="d"),
    ]
    store.add("n", rows)
    store.add_instruction("n", "bo", "metric units")
    store.add_instruction("n", "bo", "no jokes")
    return store


def test_one_snapshot_equals_the_single_reads(tmp_path: Path) -> None:
    with remembering(tmp_path) as store:
        for before in (None, 30.0, 20.0):
            kept = store.remembered("n", "bo", encoder="e", before=before)
            assert list(kept.history) == store.history("n", "bo", before=before)
            assert kept.instructions == ("metric units", "no jokes")
            assert set(kept.inputs) == set(kept.responses) == {None}
        assert store.remembered("n", "nobody", encoder="e").history == ()
        assert store.remembered("other", "bo", encoder="e").instructions == ()


def test_one_snapshot_brings_the_vectors_of_its_encoder_alone(tmp_path: Path) -> None:
    with remembering(tmp_path) as store:
        encoder = open_encoder("hashing")
        cache = VectorCache(store, "n", encoder)
        expected = cache.vectors(["why?", "how?", "when?", "so"])
        kept = store.remembered("n", "bo", encoder=encoder.name)
        for row, wanted in zip(kept.inputs, expected[:3], strict=True):
            np.testing.assert_array_equal(row, wanted)
        assert [row is None for row in kept.responses] == [False, False, True]
        np.testing.assert_array_equal(kept.responses[1], expected[3])
        assert set(store.remembered("n", "bo", encoder="another").inputs) == {None}
