"""Records that hold many interactions, flattened to one row each: chats and benchmark questions.

A shape is recognised by the keys of its records. Each flattener yields plain rows whose keys are
the field names of an interaction, so that one mapper turns every format into interactions. In
chats only the user's own messages are answers; what an assistant wrote is only ever what was
answered, and what a memory product derived with a model is nobody's own words unless it is accepted
as such. This module knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from copersona.errors import DataError
from copersona.reading.columns import ColumnMap, Row, is_own_export
from copersona.reading.containers import Flaw

Shape = Literal[
    "table", "export", "lamp", "pgraphrag", "openai", "messages", "sharegpt", "mem0", "zep"
]

# The columns of a flattened row: every field is its own column.
FLAT_COLUMNS = ColumnMap(
    user="user",
    input="input",
    response="response",
    item="item",
    rating="rating",
    label="label",
    at="at",
    thread="thread",
)
CHATS: frozenset[Shape] = frozenset({"openai", "messages", "sharegpt", "zep"})

_OWNER_KEYS = ("user_id", "userId", "user", "reviewerId", "author")
_THREAD_KEYS = ("conversation_id", "thread", "thread_id", "session_id", "id")
_USER_ROLES = frozenset({"user", "human"})
_OTHER_ROLES = frozenset({"assistant", "gpt", "chatgpt", "bot", "model", "bard", "bing"})
# Beside its text, a memory of mem0 has one of these; an entry of a memory's history all of those.
_MEMORY_KEYS = frozenset({"hash", "user_id", "agent_id", "run_id", "categories"})
_MEMORY_CHANGE = frozenset({"old_memory", "new_memory", "event"})
_FACT_LISTS = ("facts", "relevant_facts", "edges")
_DERIVED = "{} derived this with a model: not the user's own words, unless accepted as such"
# What one entry of a LaMP or LongLaMP history holds, told by a key only that task has.
_LAMP_ENTRIES: tuple[tuple[str, dict[str, str]], ...] = (
    ("abstract", {"input": "abstract", "response": "title"}),
    ("reviewText", {"input": "description", "response": "reviewText", "rating": "overall"}),
    ("tag", {"input": "description", "label": "tag"}),
    ("content", {"input": "summary", "response": "content"}),
    ("score", {"response": "text", "rating": "score"}),
    ("title", {"input": "text", "response": "title", "label": "category"}),
    ("text", {"response": "text"}),
)
_ABSTRACT_WRITING = {"input": "title", "response": "abstract"}
_REVIEW_KEYS = {
    "title": ("review_title", "reviewTitle", "title"),
    "text": ("review_text", "reviewText", "text"),
    "rating": ("overall_rating", "reviewRating", "rating", "overall"),
    "item": ("product_id", "pid", "item_id", "asin", "hotel_id"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a record itself does not say.

    Attributes:
        user: whose words these are where the record has no user id.
        thread: name of the conversation where it has none of its own.
        golds: the answers of a LaMP outputs file, by question id.
        accepts_derived: whether what a model derived counts as the user's own words.
    """

    user: str = ""
    thread: str = ""
    golds: Mapping[str, object] = field(default_factory=dict)
    accepts_derived: bool = False


def detect_shape(record: Row) -> Shape:
    """The shape of the records that look like this one; `table` where it is flat."""
    if is_own_export(record):
        return "export"
    if isinstance(record.get("mapping"), Mapping):
        return "openai"
    if _is_of_mem0(record):
        return "mem0"
    if _is_of_zep(record):
        return "zep"
    if _is_list_of_objects(record.get("messages")):
        return "messages"
    if _is_list_of_objects(record.get("conversations")):
        return "sharegpt"
    if isinstance(record.get("profile"), list):
        return "lamp" if "input" in record else "pgraphrag"
    return "table"


def flatten(shape: Shape, record: Row, setting: Setting) -> Iterator[Row | Flaw]:
    """The rows of one record, in its order, and what of it cannot be one.

    Raises:
        DataError: the record does not have the shape, or nobody's words it holds.
    """
    return _FLATTENERS[shape](record, setting)


def has_owner(record: Row) -> bool:
    """True where the record itself says whose it is."""
    return any(record.get(key) for key in _OWNER_KEYS)


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, Mapping) for part in value)


def _table(record: Row, setting: Setting) -> Iterator[Row]:
    yield record


def _lamp(record: Row, setting: Setting) -> Iterator[Row]:
    user = _first(record, (*_OWNER_KEYS, "name", "id"))
    entries = _entries(record, "profile")
    kinds = [_lamp_fields(entry, is_long="output" in record) for entry in entries]
    for entry, kind in zip(entries, kinds, strict=True):
        row = {name: entry.get(key) for name, key in kind.items()}
        rest = {key: value for key, value in entry.items() if key not in kind.values()}
        yield row | {"user": user, "at": entry.get("date"), "metadata": rest}
    question = record.get("id")
    asked = str(question) if isinstance(question, str | int) else ""
    gold = record.get("output", setting.golds.get(asked))
    if gold is not None:
        yield _lamp_answer(record, gold, kinds) | {"user": user}


def _lamp_fields(entry: Row, *, is_long: bool) -> dict[str, str]:
    for marker, names in _LAMP_ENTRIES:
        if marker in entry:
            known = _ABSTRACT_WRITING if is_long and marker == "abstract" else names
            return {name: key for name, key in known.items() if key in entry}
    return {}


def _lamp_answer(record: Row, gold: object, kinds: list[dict[str, str]]) -> dict[str, object]:
    """The question itself, answered: the newest thing known of this user."""
    own = kinds[0] if kinds and "output" not in record else {}
    predicted = next((name for name in ("rating", "label") if name in own), "response")
    role = {"role": "question", "question": record.get("id")}
    return {"input": record.get("input"), predicted: gold, "metadata": role}


def _pgraphrag(record: Row, setting: Setting) -> Iterator[Row]:
    user = _first(record, (*_OWNER_KEYS, "id"))
    for entry in _entries(record, "profile"):
        review = {name: _first(entry, keys) for name, keys in _REVIEW_KEYS.items()}
        yield {
            "user": user,
            "response": _content_text([review["title"], review["text"]]),
            "rating": review["rating"],
            "item": review["item"],
            "metadata": {"title": review["title"]},
        }


def _openai(record: Row, setting: Setting) -> Iterator[Row]:
    mapping = record.get("mapping")
    if not isinstance(mapping, Mapping):
        raise DataError("must be an object", field="mapping")
    turns: list[_Turn] = []
    for node in _branch(mapping, record.get("current_node")):
        message = node.get("message")
        if isinstance(message, Mapping) and not _is_hidden(message):
            author = message.get("author")
            role = author.get("role") if isinstance(author, Mapping) else None
            turns.append(_Turn(role, message.get("content"), message.get("create_time")))
    yield from _own_turns(turns, record, setting)


def _branch(mapping: Row, leaf: object) -> list[Row]:
    """Nodes of the branch that was kept, oldest first; all nodes where the leaf is not named."""
    branch: list[Row] = []
    visited: set[object] = set()
    while isinstance(leaf, str) and leaf not in visited:
        visited.add(leaf)
        node = mapping.get(leaf)
        if not isinstance(node, Mapping):
            break
        branch.append(node)
        leaf = node.get("parent")
    return branch[::-1] or [node for node in mapping.values() if isinstance(node, Mapping)]


def _is_hidden(message: Row) -> bool:
    """True for what a program put into the user's mouth."""
    metadata = message.get("metadata")
    return isinstance(metadata, Mapping) and bool(
        metadata.get("is_visually_hidden_from_conversation")
        or metadata.get("is_user_system_message")
    )


def _messages(record: Row, setting: Setting) -> Iterator[Row]:
    entries = _entries(record, "messages")
    turns = [_Turn(entry.get("role"), entry.get("content"), _time(entry)) for entry in entries]
    yield from _own_turns(turns, record, setting)


def _sharegpt(record: Row, setting: Setting) -> Iterator[Row]:
    entries = _entries(record, "conversations")
    turns = [_Turn(entry.get("from"), entry.get("value"), _time(entry)) for entry in entries]
    yield from _own_turns(turns, record, setting)


@dataclass(frozen=True, slots=True)
class _Turn:
    role: object
    content: object
    at: object


def _own_turns(turns: list[_Turn], record: Row, setting: Setting) -> Iterator[Row]:
    """The user's own messages, each with the last turn of the other side before it."""
    owner = _first(record, _OWNER_KEYS) or setting.user
    if not owner:
        message = "no user id in this conversation: say whose words these are with `user`"
        raise DataError(message, field="user")
    shared = {"user": owner, "thread": _first(record, _THREAD_KEYS) or setting.thread}
    before = ""
    for turn in turns:
        text = _content_text(turn.content)
        role = turn.role if isinstance(turn.role, str) else ""
        if role in _USER_ROLES:
            yield shared | {"input": before, "response": text, "at": turn.at}
        elif role in _OTHER_ROLES and text:
            before = text


def _is_of_mem0(record: Row) -> bool:
    if _is_list_of_objects(record.get("results")):
        entries = _entries(record, "results")
        return bool(entries) and all(map(_is_of_mem0, entries))
    is_memory = isinstance(record.get("memory"), str) and bool(_MEMORY_KEYS & record.keys())
    return is_memory or record.keys() >= _MEMORY_CHANGE


def _mem0(record: Row, setting: Setting) -> Iterator[Row | Flaw]:
    entries = _entries(record, "results") if "results" in record else [record]
    yield from (_memory(entry, setting) for entry in entries)


def _memory(entry: Row, setting: Setting) -> Row | Flaw:
    """A memory; one with a role was kept as it was said, as long as it was never changed."""
    text, owner = entry.get("memory"), entry.get("user_id") or setting.user
    if entry.keys() >= _MEMORY_CHANGE:
        return Flaw("a change of a memory: export the memories themselves", field="event")
    if not isinstance(text, str):
        return Flaw("no memory in this record", field="memory")
    if not owner:
        message = "a memory of nobody in particular: say whose it is with `user`"
        return Flaw(message, field="user")
    shared = {"user": owner, "thread": entry.get("run_id"), "source": "mem0"}
    written, changed = entry.get("created_at"), entry.get("updated_at")
    if entry.get("role") and changed in (None, written):
        if entry["role"] not in _USER_ROLES:
            return Flaw("not said by the user", field="role")
        return shared | {"response": text, "at": written}
    return _derived("mem0", text, shared | {"at": changed or written}, setting)


def _derived(product: str, text: object, shared: Row, setting: Setting) -> Row | Flaw:
    if not setting.accepts_derived:
        return Flaw(_DERIVED.format(product), field="response")
    return {**shared, "response": text, "metadata": {"derived_by": product}}


def _is_of_zep(record: Row) -> bool:
    if "fact" in record and record.keys() & {"uuid", "source_node_uuid"}:
        return True
    messages = record.get("messages")
    return _is_list_of_objects(messages) and (
        bool(record.keys() & {"session_id", "thread_created_at", "row_count", *_FACT_LISTS})
        or any(entry.keys() & {"role_type", "processed"} for entry in _entries(record, "messages"))
    )


def _zep(record: Row, setting: Setting) -> Iterator[Row | Flaw]:
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    facts = [fact for name in _FACT_LISTS for fact in lists.get(name, [])]
    if "fact" in record:
        facts = [record]
    elif "messages" not in lists and not facts:
        raise DataError("neither messages nor facts", field="messages")
    entries = _entries(record, "messages") if "messages" in lists else []
    turns = [
        _Turn(_first(entry, ("role_type", "role")), entry.get("content"), entry.get("created_at"))
        for entry in entries
    ]
    for row in _own_turns(turns, record, setting):
        yield {**row, "source": "zep"}
    for fact in facts:
        yield _fact(fact if isinstance(fact, Mapping) else {"fact": fact}, record, setting)


def _fact(fact: Row, record: Row, setting: Setting) -> Row | Flaw:
    if _first(fact, ("invalid_at", "expired_at")):
        return Flaw("a fact that is true no more", field="invalid_at")
    shared = {
        "user": _first(record, _OWNER_KEYS) or setting.user, "source": "zep",
        "at": _first(fact, ("valid_at", "created_at")),
    }  # fmt: skip
    return _derived("zep", _first(fact, ("fact", "content")), shared, setting)


def _content_text(content: object) -> str:
    """Text of a message; images and other parts without text are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = content.get("parts") or [content]
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := _part_text(part)))
    return ""


def _part_text(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


def _time(entry: Row) -> object:
    return _first(entry, ("timestamp", "created_at", "create_time", "date"))


def _entries(record: Row, key: str) -> list[Row]:
    value = record.get(key)
    if not isinstance(value, list):
        raise DataError("must be a list", field=key)
    return [entry if isinstance(entry, Mapping) else {} for entry in value]


def _first(record: Row, keys: tuple[str, ...]) -> object:
    """The first of these that says something; 0 does."""
    return next((value for key in keys if (value := record.get(key)) not in (None, "")), None)


_FLATTENERS: dict[Shape, Callable[[Row, Setting], Iterator[Row | Flaw]]] = {
    "table": _table,
    "export": _table,
    "lamp": _lamp,
    "pgraphrag": _pgraphrag,
    "openai": _openai,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "mem0": _mem0,
    "zep": _zep,
}
