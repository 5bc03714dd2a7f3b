"""The independent look after a user was forgotten: is anything of theirs left in any file?

It looks in two ways, neither of which shares code with what erases. Fitted states are read as what
they are, and the user's id and interaction ids are looked for as whole values. All files – the
database's own and everything below the folder of states – are searched for raw bytes that only this
user can have put there: keyed marks, hashes, and words. A word decides nothing by itself, since a
short id stands inside longer words and people say the same things: what somebody else still holds
is not a trace, and a hit counts only if nobody does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from copersona.erasing.byte_search import MIN_BYTES, Findings, Matcher, find_bytes
from copersona.erasing.remains import (
    Ask,
    Grave,
    Held,
    HeldAs,
    StateFiles,
    asking,
    graves_of,
    held_in_rows,
    held_in_store,
    rows_left,
    states_below,
)
from copersona.errors import StoreError
from copersona.method import corpus
from copersona.records import Interaction
from copersona.storage.erasure import ForgetCounts
from copersona.storage.schema import content_hash, id_hash
from copersona.storage.store import Store

Kind = Literal["mark", "words", "short", "name"]

_PIECE, _STRIDE = 200, 700
"""Characters of a long text that are one needle, and from one to the next: a database spreads a
text over pages of 4 kB, and every full page then holds a whole needle."""
_SHORT_BYTES = 24
_BUFFER_BYTES = 2**22
_SEARCHED = ("rows of the database, traces among them", "every fitted state that is kept, "
             "and whatever lies beside them")  # fmt: skip
_UNSEARCHED = ("backups, exports, logs and prompts that left this program",
               "what the disk or the file system keeps of erased blocks")  # fmt: skip
_SERVER_FILES = (
    "files of the PostgreSQL server: dead rows until a vacuum, its log, archives and replicas"
)
# Which needles are excused by which holding of somebody else.
_EXCUSES: Mapping[HeldAs, frozenset[Kind]] = {
    "words": frozenset({"mark", "words", "short", "name"}),
    "program": frozenset({"words", "short", "name"}),
    "trace": frozenset({"short", "name"}),
    "labels": frozenset({"name"}),
}


@dataclass(frozen=True, slots=True)
class Needle:
    """Bytes that tell the user.

    Attributes:
        kind: `mark` are hashes and whole fields, `words` are texts and `short` are short ones,
            `name` is the bare id.
    """

    kind: Kind
    data: bytes


def scan(
    store: Store,
    root: Path,
    user: str,
    history: Sequence[Interaction],
    *,
    said: Sequence[str] = (),
    namespace: str | None = None,
) -> tuple[tuple[str, ...], int]:
    """Files that still hold something of a forgotten user, and how many were read.

    What an SQLite file keeps in unused space is rewritten once and looked at again.

    Args:
        root: folder of fitted states.
        history: what the user had said, read before it was erased.
        said: their instructions.
        namespace: where they were forgotten; found from the tombstones where None.

    Raises:
        StoreError: the files could not be searched; whether anything is left is unknown.
    """
    database = _database_file(store)
    with _asking(store) as ask:
        graves = graves_of(ask, user)
    names = {namespace} if namespace else {grave.namespace for grave in graves}
    needles = needles_of(user, history, said, graves)
    places = [*_store_files(database), *([root] if root.exists() else [])]
    findings = _search(places, needles)
    hits = sorted({number for numbers in findings.found.values() for number in numbers})
    suspects = [needles[number] for number in hits]
    guilty = _unexcused(suspects, _held_by_others(store, root, user, history, graves))
    if guilty and database and _compacted(store):
        guilty_findings = _search(places, guilty)
        left = set(guilty_findings.found)
    else:
        left = _files_with(findings, needles, guilty)
    left.update(_listed(store, root, names, user, history))
    with _asking(store) as ask:
        tables = _rows_left(ask, user, graves, history)
    if tables:
        left.update([str(database)] if database else [f"table {name}" for name in tables])
    return tuple(sorted(left)), findings.n_read


def reach(store: Store) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `scan` looks at and what it cannot look at, in words."""
    if _database_file(store):
        return (*_SEARCHED, "the bytes of the database file and of its log"), _UNSEARCHED
    return _SEARCHED, (_SERVER_FILES, *_UNSEARCHED)


def counted(counts: ForgetCounts) -> dict[str, int]:
    """Removed rows per kind."""
    return {name: int(value) for name, value in asdict(counts).items() if name != "is_scrubbed"}


def needles_of(
    user: str, history: Sequence[Interaction], said: Sequence[str], graves: Iterable[Grave]
) -> list[Needle]:
    """All that could tell this user in raw bytes, each once."""
    found: dict[bytes, Kind] = {}
    for grave in graves:
        found[grave.mark + user.encode()] = "mark"
    for field in (f'"user":{_json(user)}', f'"user": {_json(user)}', f'"user": {json.dumps(user)}'):
        found[field.encode()] = "mark"
    for row in history:
        for text in (row.input_text, row.response_text):
            found[content_hash(text)] = "mark"
        found[id_hash(row.id)] = "mark"
    texts = {text: None for row in history for text in _texts_of(row)} | dict.fromkeys(said)
    for piece in (piece for text in texts for piece in _pieces(text)):
        for data in _spellings(piece):
            found.setdefault(data, "short" if len(data) < _SHORT_BYTES else "words")
    for data in _spellings(user):
        found[data] = "name"
    return [Needle(kind, data) for data, kind in found.items() if len(data) >= MIN_BYTES]


def _texts_of(row: Interaction) -> Iterator[str]:
    yield from (row.id, row.input, row.response)
    yield from (text for text in (row.item, row.label, row.facet, row.thread) if text)
    yield from _strings(dict(row.metadata))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= _PIECE:
        yield text
        return
    for start in range(0, len(text) - _PIECE, _STRIDE):
        yield text[start : start + _PIECE]
    yield text[-_PIECE:]


def _spellings(text: str) -> set[bytes]:
    """As written, and as JSON writes it, with and without escapes for what is not ASCII."""
    return {spelt.encode("utf-8", "surrogatepass")
            for spelt in (text, _json(text)[1:-1], json.dumps(text)[1:-1])}  # fmt: skip


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# ---- where to look ------------------------------------------------------------------------------


def _database_file(store: Store) -> Path | None:
    name = sa.make_url(store.url).database
    return Path(name) if store.dialect == "sqlite" and name else None


@contextmanager
def _asking(store: Store) -> Iterator[Ask]:
    database = _database_file(store)
    if database:
        with asking(database) as ask:
            yield ask
    else:
        yield store.ask


def _store_files(database: Path | None) -> list[Path]:
    """The database and its logs; the file beside them that ends in `-shm` holds page numbers."""
    if database is None:
        return []
    logs = [database.with_name(database.name + end) for end in ("-wal", "-journal")]
    return [database, *(path for path in logs if path.exists())]


def _search(places: Sequence[Path], needles: Sequence[Needle]) -> Findings:
    try:
        return find_bytes(places, [needle.data for needle in needles])
    except OSError as error:
        message = f"the user was erased, but nobody could look for what is left: {error}"
        raise StoreError(message) from error


def _compacted(store: Store) -> bool:
    try:
        store.compact()
    except StoreError:  # held up by others: what was found stays found
        return False
    return True


def _files_with(
    findings: Findings, needles: Sequence[Needle], guilty: Collection[Needle]
) -> set[str]:
    wanted = set(guilty)
    return {
        path
        for path, numbers in findings.found.items()
        if any(needles[number] in wanted for number in numbers)
    }


# ---- whose it is --------------------------------------------------------------------------------


def _held_by_others(
    store: Store,
    root: Path,
    user: str,
    history: Sequence[Interaction],
    graves: Sequence[Grave],
) -> Iterator[Held]:
    ids = {row.id for row in history}
    database = _database_file(store)
    names = set()
    for state in states_below(root):
        names.add(state.namespace)
        yield from state.held(user, ids)
    if database:
        yield from held_in_store(database, graves, {id_hash(one) for one in ids})
        return
    for name in sorted(names):
        yield from held_in_rows(store.export(name))


def _unexcused(suspects: Sequence[Needle], held: Iterator[Held]) -> list[Needle]:
    """The needles that nobody else holds.

    All is read, also when none is left: how long a look takes must not tell what others hold.
    """
    guilty = set(range(len(suspects)))
    matcher = Matcher([needle.data for needle in suspects])
    buffers: dict[HeldAs, list[bytes]] = {}
    sizes: dict[HeldAs, int] = {}

    def judge(kind: HeldAs) -> None:
        # 0xff stands in no text, so that nothing is found across two holdings.
        excused = matcher.found_in(b"\xff".join(buffers.pop(kind)))
        guilty.difference_update(n for n in excused if suspects[n].kind in _EXCUSES[kind])
        sizes[kind] = 0

    for one in held:
        buffers.setdefault(one.kind, []).append(one.data)
        sizes[one.kind] = sizes.get(one.kind, 0) + len(one.data)
        if sizes[one.kind] > _BUFFER_BYTES:
            judge(one.kind)
    for kind in list(buffers):
        judge(kind)
    return [suspects[number] for number in sorted(guilty)]


def _listed(
    store: Store,
    root: Path,
    names: Collection[str],
    user: str,
    history: Sequence[Interaction],
) -> Iterator[str]:
    """Files of fitted states that list the user or their interactions."""
    for state in states_below(root):
        if state.namespace not in names if names else _is_somebody(store, state, user):
            continue
        yield from state.listing_user(user)
        kept = store.interactions(state.namespace, [row.id for row in history])
        ids = {row.id for row in history} - kept.keys()
        yield from state.listing_ids(ids, {corpus.id_hash(one) for one in ids})


def _rows_left(
    ask: Ask, user: str, graves: Sequence[Grave], history: Sequence[Interaction]
) -> list[str]:
    ids = {id_hash(row.id) for row in history}
    texts = {content_hash(t) for row in history for t in (row.input_text, row.response_text)}
    return rows_left(ask, user, graves, ids, texts)


def _is_somebody(store: Store, state: StateFiles, user: str) -> bool:
    return store.user_revision(state.namespace, user) > 0
