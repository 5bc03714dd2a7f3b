"""Counts of what chats took, in a real database."""

from __future__ import annotations

from dataclasses import replace

from copersona.records import Consent
from copersona.storage.store import Store
from copersona.storage.usage_log import MAX_MODEL_CHARACTERS, Usage

ONE = Usage("k1", "m", "2026-05-31", 10, 3, 2, 0)


def test_equal_ones_are_added_up_and_others_are_not(store: Store) -> None:
    others = [replace(ONE, key_id="k2"), replace(ONE, model="n"), replace(ONE, day="2026-06-01")]
    for one in (ONE, *others, replace(ONE, estimated=1)):
        store.usage.add("shop", "ana", one)
    store.usage.add("shop", None, ONE)
    store.usage.add("shop", None, ONE)
    store.usage.add("bank", "ana", ONE)
    first, *rest = store.usage.since("shop", "")
    (mark,) = store.keys.marks("shop", ["ana"])
    assert first == replace(ONE, prompt_tokens=20, completion_tokens=6, added_tokens=4,
                            estimated=1, requests=2, mark=mark)  # fmt: skip
    assert [(row.key_id, row.model, row.requests) for row in rest] == [
        ("k2", "m", 1), ("k1", "n", 1), ("k1", "m", 2), ("k1", "m", 1),
    ]  # fmt: skip
    assert len(store.usage.since("shop", "2026-06-01")) == 1
    assert len(store.usage.of_user("shop", "ana")) == 4


def test_of_whom_nothing_may_be_kept_only_the_counts_are(store: Store) -> None:
    store.set_consent("shop", "ana", Consent(remember=False))
    store.forget("shop", "bo")
    for user in ("ana", "bo"):
        store.usage.add("shop", user, ONE)
    (row,) = store.usage.since("shop", "")
    assert (row.mark, row.requests) == (None, 2)
    assert store.integrity() == []


def test_rows_go_with_their_user_and_nobody_elses_do(store: Store) -> None:
    for namespace, user in (("shop", "ana"), ("shop", "bo"), ("bank", "ana")):
        store.usage.add(namespace, user, ONE)
    store.forget("shop", "ana")
    assert [row.mark for row in store.usage.since("shop", "")] == store.keys.marks("shop", ["bo"])
    assert len(store.usage.since("bank", "")) == 1


def test_rows_move_with_a_user_who_is_merged_and_equal_ones_become_one(store: Store) -> None:
    bos = replace(ONE, model="n", estimated=1)
    for user, one in (("ana", ONE), ("bo", ONE), ("bo", bos), ("eve", ONE)):
        store.usage.add("shop", user, one)
    store.usage.add("bank", "bo", ONE)
    store.aliases.merge("shop", "ana", "bo")
    store.aliases.add("shop", "ana", "eve")  # who only asked
    ana, eve, bo = store.keys.marks("shop", ["ana", "eve", "bo"])
    assert ana == eve == bo
    three = replace(ONE, prompt_tokens=30, completion_tokens=9, added_tokens=6, requests=3)
    both = [replace(three, mark=ana), replace(bos, mark=ana)]
    assert store.usage.since("shop", "") == store.usage.of_user("shop", "ana") == both
    store.usage.add("shop", "bo", bos)
    assert [row.requests for row in store.usage.of_user("shop", "ana")] == [3, 2]
    assert len(store.usage.of_user("bank", "bo")) == 1
    assert all(type(row.prompt_tokens) is int for row in both)


def test_a_name_of_a_model_is_kept_within_bounds(store: Store) -> None:
    for length in (300, 400):
        store.usage.add("shop", None, replace(ONE, model="m" * length))
    assert [len(row.model) for row in store.usage.since("shop", "")] == [MAX_MODEL_CHARACTERS]
