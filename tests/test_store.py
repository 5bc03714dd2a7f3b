from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from copersona.errors import (
    DataError,
    ShapeError,
    StoreError,
    UnknownUserError,
)
from copersona.records import Consent, Interaction, RowOutcome
from copersona.storage import database, migrations, schema, trace_log
from copersona.storage.store import ForgetCounts, Store, content_hash

NOTHING = Consent(remember=False, learn=False, lend="no", train=False)
OFF = Consent(remember=False)


def said(user: str, text: str, id: str = "", **fields: Any) -> Interaction:
    return Interaction(user=user, response=text, id=id or f"{user}/{text}", **fields)


def statuses(outcomes: list[RowOutcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def put_vectors(store: Store, namespace: str, *texts: str, encoder: str = "enc") -> int:
    matrix = np.array([[len(text), 0.5, -2.0] for text in texts], dtype=np.float16)
    return store.put_embeddings(namespace, encoder, [content_hash(t) for t in texts], matrix)


# ── interactions ──────────────────────────────────────────────────────────────────────────────


FULL = Interaction(
    user="zoë 'x' \\ %s",
    input="Which tea?\nline two",
    response="the grün one \U0001f375",
    item="tea-7",
    rating=4.25,
    label="liked",
    at=1_700_000_000.123456,
    facet="drinks",
    thread="t-1",
    metadata={"tags": ["a", None, True], "deep": {"n": 12345678901234567890, "f": 0.1}},
    source="made-up.csv",
    id="id-é-1",
)


def test_every_field_comes_back_exactly(store: Store) -> None:
    bare = Interaction(user=FULL.user, input="only input", id="id-2")
    assert statuses(store.add("n", [FULL, bare])) == ["stored", "stored"]
    assert store.history("n", FULL.user) == [bare, FULL]
    assert store.interactions("n", ["id-2", "id-é-1", "none"]) == {"id-2": bare, "id-é-1": FULL}
    assert list(store.export("n")) == [bare, FULL]


def test_the_same_rows_twice_are_stored_once(store: Store) -> None:
    rows = [said("u", f"text {n}") for n in range(5)]
    store.add("n", rows)
    revision = store.revision("n")
    assert statuses(store.add("n", rows)) == ["duplicate"] * 5
    assert store.n_interactions("n") == 5
    assert store.revision("n") == revision


def test_one_outcome_per_row_in_a_mixed_batch(store: Store) -> None:
    store.add("n", [said("u", "old", id="1")])
    store.set_consent("n", "silent", OFF)
    store.forget("n", "gone")
    batch = [
        said("u", "new", id="2", source="f.csv"),
        said("u", "old", id="1"),
        said("u", "again", id="2"),
        said("silent", "x", id="3"),
        said("gone", "x", id="4"),
        Interaction(user="u", id="5"),
        Interaction(user="u", response="x"),
        said("u", "a\0b", id="6"),
        said("u", "\ud800", id="7"),
        said("v", "fine", id="8"),
    ]
    outcomes = store.add("n", batch)
    assert statuses(outcomes[:3]) == ["stored", "duplicate", "duplicate"]
    assert statuses(outcomes[3:]) == [*["rejected"] * 6, "stored"]
    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert [o.field for o in outcomes[3:9]] == [
        "user",
        "user",
        *["response", "id"],
        *["response"] * 2,
    ]
    assert "remember" in outcomes[3].reason
    assert "forgotten" in outcomes[4].reason
    assert outcomes[0].source == "f.csv"
    assert [row.id for row in store.history("n", "u")] == ["1", "2"]


def test_a_batch_longer_than_one_part(store: Store) -> None:
    rows = [said(f"u{n % 7}", f"text {n}", id=str(n)) for n in range(4_500)]
    outcomes = store.add("n", [*rows, rows[0]])
    assert statuses(outcomes) == ["stored"] * 4_500 + ["duplicate"]
    assert [outcome.index for outcome in outcomes] == list(range(4_501))
    assert len(store.interactions("n", [row.id for row in rows])) == 4_500


def test_an_empty_batch_and_an_unknown_namespace(store: Store) -> None:
    assert store.add("n", []) == []
    assert store.history("nowhere", "u") == []
    assert store.users("nowhere") == []
    assert list(store.columns("nowhere")) == []
    assert store.revision("nowhere") == 0
    with pytest.raises(DataError, match="needs a name"):
        store.add("", [said("u", "x")])


def test_history_is_in_time_order_and_cut_at_both_ends(store: Store) -> None:
    times = [30.0, None, 10.0, 20.0, 10.0, None]
    store.add("n", [said("u", f"t{n}", id=str(n), at=at) for n, at in enumerate(times)])

    def ids(**cut: Any) -> str:
        return "".join(row.id for row in store.history("n", "u", **cut))

    assert ids() == "152430"
    assert ids(before=20.0) == "1524"
    assert ids(limit=2) == "30"
    assert ids(before=30.0, limit=2) == "43"


def test_namespaces_never_see_each_other(store: Store) -> None:
    store.add("a", [said("u", "secret of a", id="1")])
    store.add("b", [said("u", "of b", id="1"), said("v", "x", id="2")])
    put_vectors(store, "a", "secret of a")
    store.put_trace("a", "u", "t", {})
    assert [row.response for row in store.history("b", "u")] == ["of b"]
    assert store.embeddings("b", "enc", [content_hash("secret of a")]) == {}
    store.set_consent("b", "u", Consent(lend="text"))
    assert store.consent("a", "u") == Consent()
    store.forget("b", "u")
    assert store.users("a") == ["u"]
    assert statuses(store.add("a", [said("u", "more", id="2")])) == ["stored"]
    with pytest.raises(UnknownUserError):
        store.trace("b", "t")


def test_columns_are_by_user_and_time_whoever_came_first(store: Store) -> None:
    store.add("n", [said("z", "last", at=1.0), said("a", "second", at=5.0)])
    store.add("n", [said("a", "first", at=2.0), Interaction(user="m", input="q", id="q")])
    batches = list(store.columns("n", batch_rows=3))
    assert [batch.num_rows for batch in batches] == [3, 1]
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [row["user"] for row in rows] == ["a", "a", "m", "z"]
    assert [row["response"] for row in rows] == ["first", "second", "", "last"]
    assert rows[2]["input_hash"] == rows[2]["response_hash"] == content_hash("q")
    assert batches[0].schema == batches[1].schema


def test_content_hash_ignores_unicode_composition() -> None:
    assert content_hash("é") == content_hash("e\u0301")
    assert content_hash("e") != content_hash("é")
    assert len(content_hash("x")) == 16


def test_counts_and_users_leave_out_who_said_nothing(store: Store) -> None:
    store.set_consent("n", "quiet", Consent(lend="no"))
    store.add("n", [said("b", "1"), said("a", "2"), said("a", "3")])
    assert store.users("n") == ["a", "b"]
    assert (store.n_users("n"), store.n_interactions("n")) == (2, 3)


def test_correct_changes_one_row_and_its_hashes(store: Store) -> None:
    store.add("n", [said("u", "tpyo", id="1", at=1.0), said("u", "other", id="2", at=2.0)])
    put_vectors(store, "n", "tpyo", "other")
    new = store.correct("n", "u", "1", response="typo", rating=2.0)
    assert new == said("u", "typo", id="1", at=1.0, rating=2.0)
    assert store.history("n", "u")[0] == new
    assert store.embeddings("n", "enc", [content_hash("tpyo")]) == {}
    assert put_vectors(store, "n", "typo") == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"id": "2"}, "id"), ({"nonsense": 1}, "nonsense"), ({"response": ""}, "response")],
)
def test_correct_refuses_what_is_not_to_be_changed(
    store: Store, changes: dict[str, Any], field: str
) -> None:
    store.add("n", [said("u", "x", id="1")])
    with pytest.raises(DataError) as caught:
        store.correct("n", "u", "1", **changes)
    assert caught.value.field == field
    assert store.history("n", "u") == [said("u", "x", id="1")]


def test_remove_erases_one_row(store: Store) -> None:
    store.add("n", [said("u", "a", id="1"), said("u", "b", id="2")])
    put_vectors(store, "n", "a", "b")
    store.remove("n", "u", "1")
    assert [row.id for row in store.history("n", "u")] == ["2"]
    assert store.embeddings("n", "enc", [content_hash("a"), content_hash("b")]).keys() == {
        content_hash("b")
    }


def test_a_foreign_id_looks_like_an_unknown_one(store: Store) -> None:
    store.add("n", [said("u", "a", id="1"), said("v", "b", id="2")])
    messages = set()
    for user, interaction_id in [("v", "1"), ("v", "unknown"), ("nobody", "1"), ("\ud800", "1")]:
        with pytest.raises(UnknownUserError) as caught:
            store.remove("n", user, interaction_id)
        messages.add(str(caught.value))
        with pytest.raises(UnknownUserError) as caught:
            store.correct("n", user, interaction_id, response="mine now")
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert store.n_interactions("n") == 2


def test_expire_erases_by_age_and_keeps_the_undated(store: Store) -> None:
    store.add("n", [said("u", "old", at=1.0), said("u", "new", at=9.0), said("v", "undated")])
    store.add("other", [said("u", "old", at=1.0)])
    put_vectors(store, "n", "old", "new")
    assert store.expire("n", older_than=9.0) == 1
    assert [row.response for row in store.export("n")] == ["new", "undated"]
    assert store.n_interactions("other") == 1
    assert store.integrity() == []
    assert store.expire("n", older_than=9.0) == 0


# ── what users allow and say outright ─────────────────────────────────────────────────────────


def test_consent_is_the_default_until_the_user_says_otherwise(store: Store) -> None:
    store.add("n", [said("u", "x")])
    assert store.consent("n", "u") == store.consent("n", "nobody") == Consent()
    store.set_consent("n", "u", Consent(lend="text", train=True))
    store.set_consent("n", "same", Consent())
    assert store.consent("n", "u") == Consent(lend="text", train=True)
    assert store.consents("n") == {"u": Consent(lend="text", train=True)}


def test_another_default_consent(url: str) -> None:
    with Store.open(url, default_consent=OFF) as store:
        store.set_consent("n", "yes", Consent())
        outcomes = store.add("n", [said("unasked", "x"), said("yes", "y")])
        assert statuses(outcomes) == ["rejected", "stored"]
        assert store.consent("n", "unasked") == OFF
        assert store.consents("n") == {"yes": Consent()}


def test_remember_off_erases_what_is_there(store: Store) -> None:
    store.add("n", [said("u", "mine"), said("v", "theirs")])
    put_vectors(store, "n", "mine", "theirs")
    store.add_instruction("n", "u", "always metric")
    store.put_trace("n", "v", "t", {}, quotes=["u"])
    store.set_consent("n", "u", OFF)
    assert store.history("n", "u") == []
    assert store.instructions("n", "u") == ()
    assert store.embeddings("n", "enc", [content_hash("mine")]) == {}
    assert store.put_trace("n", "u", "t2", {}) is False
    with pytest.raises(UnknownUserError):
        store.trace("n", "t")
    with pytest.raises(DataError, match="remember"):
        store.add_instruction("n", "u", "x")
    assert [row.user for row in store.export("n")] == ["v"]
    assert store.consent("n", "u") == OFF


def test_instructions_in_order_and_once(store: Store) -> None:
    for text in ("metric", "short", "metric"):
        store.add_instruction("n", "u", text)
    assert store.instructions("n", "u") == ("metric", "short")
    store.remove_instruction("n", "u", "metric")
    assert store.instructions("n", "u") == ("short",)
    for user in ("u", "nobody"):
        with pytest.raises(UnknownUserError):
            store.remove_instruction("n", user, "metric")
    with pytest.raises(DataError):
        store.add_instruction("n", "u", "  ")


def test_an_id_that_no_row_could_have_is_refused(store: Store) -> None:
    for user in ("", "a\0b", "\ud800", "x" * 600):
        with pytest.raises(DataError):
            store.set_consent("n", user, Consent())


# ── embeddings and traces ─────────────────────────────────────────────────────────────────────


def test_embeddings_are_kept_by_encoder_and_text(store: Store) -> None:
    store.add("n", [said("u", "abc"), said("v", "abc", id="2"), said("v", "de")])
    hashes = [content_hash(text) for text in ("abc", "de", "unknown")]
    assert put_vectors(store, "n", "abc", "de", "abc") == 2
    assert put_vectors(store, "n", "abc") == 0
    found = store.embeddings("n", "enc", hashes)
    assert found.keys() == set(hashes[:2])
    assert found[hashes[0]].dtype == np.float16
    np.testing.assert_array_equal(found[hashes[0]], np.array([3, 0.5, -2], np.float16))
    assert store.embeddings("n", "another", hashes) == {}


def test_no_embedding_of_a_text_nobody_stored(store: Store) -> None:
    store.add("n", [said("u", "stored")])
    assert put_vectors(store, "n", "stored", "only asked") == 1
    store.forget("n", "u")
    assert put_vectors(store, "n", "stored") == 0


def test_embeddings_of_the_wrong_shape_are_refused(store: Store) -> None:
    for matrix in (np.zeros((2, 3), np.float16), np.zeros(3, np.float16)):
        with pytest.raises(ShapeError, match="1 hashes"):
            store.put_embeddings("n", "enc", [content_hash("x")], matrix)


def test_traces_come_back_and_go_with_whom_they_quote(store: Store) -> None:
    store.add("n", [said("u", "x"), said("peer", "quoted")])
    assert store.put_trace("n", "u", "t1", {"query": "tea?", "parts": [1, 2]})
    assert store.put_trace("n", "u", "t2", {"evidence": "quoted"}, quotes=["peer", "u"])
    assert store.trace("n", "t1") == ("u", {"query": "tea?", "parts": [1, 2]})
    assert store.forget("n", "peer").traces == 1
    assert store.trace("n", "t1")[0] == "u"
    with pytest.raises(UnknownUserError):
        store.trace("n", "t2")
    with pytest.raises(StoreError):
        store.put_trace("n", "u", "t1", {})


def test_only_the_newest_traces_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_log, "MAX_TRACES", 3)
    store.put_trace("other", "u", "0", {})
    for number in range(5):
        store.put_trace("n", "u", str(number), {"number": number})
    assert [store.trace("n", str(n))[1]["number"] for n in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(UnknownUserError):
        store.trace("n", "1")
    assert store.trace("other", "0") == ("u", {})


# ── revisions ─────────────────────────────────────────────────────────────────────────────────


def test_every_change_moves_the_revisions(url: str, store: Store) -> None:
    changes = [
        lambda: store.add("n", [said("u", "x", id="1", at=1.0), said("u", "y", id="2")]),
        lambda: store.correct("n", "u", "1", rating=1.0),
        lambda: store.add_instruction("n", "u", "metric"),
        lambda: store.remove_instruction("n", "u", "metric"),
        lambda: store.set_consent("n", "u", Consent(lend="no")),
        lambda: store.remove("n", "u", "2"),
        lambda: store.expire("n", older_than=5.0),
    ]
    store.add("n", [said("v", "z")])
    untouched = store.user_revision("n", "v")
    with Store.open(url) as other_process:
        for change in changes:
            before = (other_process.revision("n"), other_process.user_revision("n", "u"))
            change()
            after = (other_process.revision("n"), other_process.user_revision("n", "u"))
            assert after[0] > before[0]
            assert after[1] > before[1]
        assert other_process.user_revision("n", "v") == untouched


def test_a_user_revision_never_comes_back(store: Store) -> None:
    store.add("n", [said("u", "x")])
    first = store.user_revision("n", "u")
    store.forget("n", "u")
    assert store.user_revision("n", "u") == 0
    store.readmit("n", "u")
    store.add("n", [said("u", "x")])
    assert store.user_revision("n", "u") > first


# ── forgetting ────────────────────────────────────────────────────────────────────────────────


def test_forget_counts_what_went_and_refuses_until_readmitted(store: Store) -> None:
    store.add("n", [said("u", "a", id="1"), said("u", "shared", id="2"), said("v", "shared")])
    put_vectors(store, "n", "a", "shared")
    store.set_consent("n", "u", Consent(lend="text"))
    store.add_instruction("n", "u", "metric")
    store.put_trace("n", "u", "t", {})
    counts = store.forget("n", "u")
    is_scrubbed = store.dialect == "sqlite"
    assert counts == ForgetCounts(2, 1, 1, 1, 1, is_scrubbed=is_scrubbed)
    assert store.consent("n", "u") == NOTHING
    assert statuses(store.add("n", [said("u", "back")])) == ["rejected"]
    with pytest.raises(DataError, match="readmit"):
        store.set_consent("n", "u", Consent())
    assert not store.put_trace("n", "u", "t", {})
    store.readmit("n", "u")
    assert store.consent("n", "u") == Consent()
    assert statuses(store.add("n", [said("u", "back")])) == ["stored"]


def test_forgetting_an_unknown_user_keeps_them_out(store: Store) -> None:
    assert store.forget("n", "stranger").interactions == 0
    assert store.forget("n", "stranger").interactions == 0
    assert statuses(store.add("n", [said("stranger", "hello")])) == ["rejected"]


def test_a_shared_text_keeps_its_embedding(store: Store) -> None:
    shared = content_hash("shared")
    store.add("n", [said("u", "shared"), Interaction(user="v", input="shared", id="v")])
    put_vectors(store, "n", "shared")
    assert store.forget("n", "u").embeddings == 0
    assert shared in store.embeddings("n", "enc", [shared])
    assert store.forget("n", "v").embeddings == 1
    assert store.embeddings("n", "enc", [shared]) == {}


def test_compact_keeps_what_is_there(store: Store) -> None:
    store.add("n", [said("u", f"text {n}") for n in range(50)])
    before = list(store.export("n"))
    store.compact()
    assert list(store.export("n")) == before
    assert store.integrity() == []


# ── one database, many callers ───────────────────────────────────────────────────────────────


def test_an_empty_database_reaches_head_without_drift(url: str, store: Store) -> None:
    engine = store._database._engine
    with engine.connect() as connection:
        assert not migrations.needs_upgrade(connection)
        options = {"version_table": migrations.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    store.add("n", [said("u", "x")])
    with Store.open(url, create=False) as again:
        assert again.users("n") == ["u"]


def test_many_threads_share_one_store(store: Store) -> None:
    def work(number: int) -> int:
        for turn in range(5):
            store.add("n", [said(f"u{number}", f"text {turn}")])
        return len(store.history("n", f"u{number}"))

    with ThreadPoolExecutor(max_workers=12) as pool:
        assert list(pool.map(work, range(12))) == [5] * 12
    assert store.n_interactions("n") == 60


def test_users_are_introduced_once_and_keep_their_word(store: Store) -> None:
    public = Consent(lend="text", train=True)
    store.set_consent("ns", "ana", Consent(lend="no"))
    store.add("ns", [Interaction(user="gone", input="hello", response="there")])
    store.forget("ns", "gone")
    assert store.introduce("ns", ["ana", "bo", "bo", "gone", "", "cy"], public) == 2
    assert store.introduce("ns", ["bo", "cy"], Consent(lend="no")) == 0
    assert store.consents("ns") == {"ana": Consent(lend="no"), "bo": public, "cy": public}


def test_every_store_has_keys_of_its_own(store: Store, tmp_path: Path) -> None:
    """So that marks and pseudonyms of one tell nothing about those of another."""
    with Store.open(tmp_path / "another.db") as another:
        kept = [
            (one.keys.marks("shop", ["ana"])[0], one.pseudonym_key("shop"))
            for one in (store, another)
        ]
    assert kept[0][0] != kept[1][0]
    assert kept[0][1] != kept[1][1]


def test_a_writer_who_waits_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, where only one may write: the other one ends with an error, and writes later."""
    monkeypatch.setattr(database, "_WAIT_MS", 50)
    with Store.open(tmp_path / "one.db") as store, ThreadPoolExecutor() as pool:
        with store._database.writing():
            waiting = pool.submit(store.add_instruction, "shop", "ana", "Be brief.")
            with pytest.raises(StoreError, match="another writer"):
                waiting.result(timeout=30)
        store.add_instruction("shop", "ana", "Be brief.")
        assert store.instructions("shop", "ana") == ("Be brief.",)
