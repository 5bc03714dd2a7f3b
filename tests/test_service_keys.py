"""Keys: what is kept of them, what they allow, and that they go when they are to go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from copersona.commands import cli
from copersona.errors import ConfigError, DataError, UnknownUserError
from copersona.service.keys import Keys
from copersona.storage.store import Store


def test_a_key_opens_its_namespace_with_its_scopes(store: Store) -> None:
    keys = Keys(store.keys)
    kept, text = keys.create("shop", ["read"])
    caller = keys.caller(text)
    assert caller
    assert (caller.key_id, caller.namespace, caller.mark) == (kept.id, "shop", None)
    assert (caller.has("read"), caller.has("write"), caller.has("admin")) == (True, False, False)
    assert keys.caller(keys.create("shop", ["admin"])[1]).has("write")  # type: ignore[union-attr]


def test_what_is_kept_opens_nothing_and_names_nobody(store: Store, tmp_path: Path) -> None:
    text = Keys(store.keys).create("shop", ["read"], user="ana-maria-of-the-hill")[1]
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert text.split("_", 2)[2].encode() not in files
    assert b"ana-maria-of-the-hill" not in files


def test_no_two_keys_are_alike(store: Store) -> None:
    made = {Keys(store.keys).create("shop", ["read"])[1] for _ in range(50)}
    assert len(made) == 50
    assert min(map(len, made)) > 50


def test_a_revoked_key_opens_nothing(store: Store) -> None:
    keys = Keys(store.keys)
    old, old_text = keys.create("shop", ["read"])
    _, new_text = keys.create("shop", ["read"])
    keys.revoke("shop", old.id)
    assert keys.caller(old_text) is None
    assert keys.caller(new_text)
    for namespace, key_id in (("shop", old.id), ("bank", keys.of("shop")[0].id)):
        with pytest.raises(UnknownUserError, match="no key"):
            keys.revoke(namespace, key_id)


def test_what_cannot_be_a_key_is_refused(store: Store) -> None:
    keys = Keys(store.keys)
    for scopes, user in (([], None), (["all"], None), (["admin"], "ana")):
        with pytest.raises(ConfigError):
            keys.create("shop", scopes, user=user)
    with pytest.raises(DataError):
        keys.create("shop", ["read"], user="a\0b")


def test_tokens_go_with_their_user_and_nobody_elses_do(store: Store) -> None:
    keys = Keys(store.keys)
    gone = keys.create("shop", ["read"], user="ana")[1]
    kept = [keys.create("bank", ["read"], user="ana")[1], keys.create("shop", ["read"])[1],
            keys.create("shop", ["read"], user="bo")[1]]  # fmt: skip
    store.forget("shop", "ana")
    assert keys.caller(gone) is None
    assert all(keys.caller(text) for text in kept)
    with pytest.raises(DataError, match="forgotten"):
        keys.create("shop", ["read"], user="ana")


def test_the_first_key_is_made_once_for_each_namespace(store: Store) -> None:
    keys = Keys(store.keys)
    keys.create("shop", ["read"])
    first = keys.first("shop")
    assert first
    assert keys.caller(first).has("admin")  # type: ignore[union-attr]
    assert keys.first("shop") is None
    assert keys.first("bank")


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        head = ["--store", str(tmp_path / "s.db"), "--namespace", "shop"]
        result = CliRunner().invoke(cli.app, [*head, "keys", *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    made = json.loads(run("create", "--scope", "read", "--user", "ana", "--json"))
    text = run("create").strip()
    listed = json.loads(run("list", "--json"))
    assert [(one["id"], one["scopes"], one["one_user"]) for one in listed] == [
        (made["id"], ["read"], True), (text.split("_")[1], ["read", "write"], False),
    ]  # fmt: skip
    assert made["key"] not in run("list")
    assert [one["id"] for one in json.loads(run("list", "--user", "ana", "--json"))] == [made["id"]]
    run("revoke", made["id"])
    assert len(json.loads(run("list", "--json"))) == 1
    unknown = ["--store", str(tmp_path / "s.db"), "keys", "revoke", made["id"]]
    assert CliRunner().invoke(cli.app, unknown).exit_code == 3
