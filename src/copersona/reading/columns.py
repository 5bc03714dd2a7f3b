"""Which column of a table is which field of an interaction, and one row turned into one.

Columns are guessed from their names (compared without case and separators) and checked against a
sample of values; what was guessed can be printed, and anything given outright wins. Nothing is
taken silently: columns without a role become metadata, an unclear user is an error that names the
flag. This module knows no files and no formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from decimal import Decimal
from typing import Any

from copersona.errors import DataError
from copersona.interactions import parse_time
from copersona.records import Interaction

Row = Mapping[str, object]

# Names without case and separators, the likelier first.
# Who, in three tiers: an account id, then a role, then a name that several people may share.
# Within one entry the first column present is taken; two entries of one tier are ambiguous.
_USER_TIERS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("userid", "user", "uid"),),
    (
        ("reviewerid", "reviewer"),
        ("authorid", "author", "authors"),
        ("criticid", "critic"),
        ("customerid", "customer"),
        ("memberid", "member"),
        ("accountid", "account"),
        ("senderid", "sender"),
        ("speakerid", "speaker"),
        ("participantid", "participant"),
        ("writerid", "writer"),
        ("bloggerid", "blogger"),
        ("personid", "person"),
    ),
    (("username", "screenname", "nickname", "handle", "reviewername", "authorname", "name"),),
)
_INPUTS = (
    "input prompt question instruction query context producttitle productname itemtitle itemname "
    "movietitle filmtitle booktitle posttitle abstract synopsis plot shortdescription description "
    "passage articletext article product film movie book"
)
_RESPONSES = (
    "response answer reply reviewtext reviewbody reviewcontent review text body content comment "
    "message post utterance quote headline reviewtitle"
)
# A title is the user's own where there is something it is the title of.
_TITLES = "title summary"
_NAMES = {
    "item": (
        "item itemid asin parentasin productid pid movieid filmid bookid paperid articleid "
        "businessid trackid songid isbn sku url link product film movie book article id"
    ),
    "rating": "rating stars score overall overallrating reviewrating reviewscore",
    "label": "label category tag verdict sentiment section",
    "at": (
        "at timestamp datetime createdat createdutc postedat publishedat unixreviewtime date time "
        "reviewdate reviewtime created published"
    ),
    "facet": "facet subreddit shelf project",
    "thread": "thread threadid conversationid sessionid dialogid chatid",
}
# These may hold a name to read or an id; only what has words in it is an input.
_MAYBE_IDS = frozenset({"product", "film", "movie", "book", "article"})
_OWN_FORMAT = frozenset({"user", "input", "response", "id"})
_SEPARATORS = re.compile(r"[\W_]+")
_MISSING = frozenset({"", "null", "none", "nan", "n/a"})


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Names of the columns that hold each field; None where there is none.

    Given to a reader, None means "guess" and the empty string "none of them".

    Attributes:
        unused: columns without a role; their scalar values become metadata.
    """

    user: str | None = None
    input: str | None = None
    response: str | None = None
    item: str | None = None
    rating: str | None = None
    label: str | None = None
    at: str | None = None
    facet: str | None = None
    thread: str | None = None
    id: str | None = None
    unused: tuple[str, ...] = ()

    def roles(self) -> dict[str, str]:
        """Field to column, for the fields that have one."""
        named = {role: getattr(self, role) for role in ROLES}
        return {role: column for role, column in named.items() if column}

    def describe(self) -> str:
        """One line to print: what was taken for what, and what was not used."""
        used = " ".join(f"{role}={column}" for role, column in self.roles().items())
        return f"{used or 'nothing'}; unused: {', '.join(self.unused) or 'none'}"


ROLES = tuple(entry.name for entry in fields(ColumnMap) if entry.name != "unused")


def guess_columns(
    names: Sequence[str],
    sample_rows: Sequence[Row],
    given: ColumnMap | None = None,
    *,
    needs_user: bool = True,
) -> ColumnMap:
    """Guess the role of each column from its name and a sample of its values.

    What is `given` stays as it is. With `needs_user` off, the caller knows whose rows these are.

    Raises:
        DataError: the user or every text is missing, the user is ambiguous, or a given column does
            not exist; the message lists the columns and the flag to use.
    """
    given = given or ColumnMap()
    _check_given(given, names)
    guess = _Guess(names, sample_rows, given)
    if needs_user and guess.is_open("user"):
        guess.take("user", _find_user(guess))
    for role, known in _NAMES.items():
        if role != "item":
            guess.take_named(role, known)
    guess.take_texts()
    guess.take_named("item", _NAMES["item"])
    found = guess.columns()
    if needs_user and not found.user:
        raise DataError(
            f"no column looks like the user; {_hint(names, '--user COL')}", field="user"
        )
    if not (found.input or found.response):
        flags = "--input COL or --response COL"
        raise DataError(f"no column looks like a text; {_hint(names, flags)}", field="response")
    return found


@dataclass(slots=True)
class _Guess:
    """Roles given out so far; a column gets one role at most."""

    names: Sequence[str]
    rows: Sequence[Row]
    given: ColumnMap
    taken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken = self.given.roles()
        if self.names and set(self.names) >= _OWN_FORMAT:
            self.taken.setdefault("id", "id")

    def is_open(self, role: str) -> bool:
        return role not in self.taken and getattr(self.given, role) is None

    def take(self, role: str, column: str | None) -> None:
        if column is not None:
            self.taken[role] = column

    def take_named(self, role: str, known: str) -> None:
        if self.is_open(role):
            self.take(role, self.first(known.split(), role))

    def take_texts(self) -> None:
        self.take_named("input", _INPUTS)
        self.take_named("response", _RESPONSES)
        titled = "response" if "input" in self.taken else "input"
        if "response" not in self.taken:
            self.take_named(titled, _TITLES)
        if not {"input", "response"} & self.taken.keys() and self.is_open("response"):
            self.take("response", self.longest())

    def first(self, known: Iterable[str], role: str) -> str | None:
        """First open column of a known name whose values fit the role."""
        open_columns = {_plain(name): name for name in reversed(self.open_names())}
        for plain in known:
            column = open_columns.get(plain)
            if column is not None and self.fits(column, plain, role):
                return column
        return None

    def open_names(self) -> list[str]:
        claimed = set(self.taken.values())
        return [name for name in self.names if name not in claimed]

    def fits(self, column: str, plain: str, role: str) -> bool:
        values = self.values(column)
        if role == "rating":
            return _share(values, _is_rating) >= 0.5
        if role == "at":
            return _share(values, _is_time) >= 0.5
        if role in ("input", "response"):
            is_fitting = _has_words if plain in _MAYBE_IDS else _has_letters
            return any(is_fitting(value) for value in values)
        return any(isinstance(value, str | int | float) for value in values)

    def longest(self) -> str | None:
        """The open column with the longest texts, if any has texts of several words."""
        worded = [name for name in self.open_names() if _share(self.values(name), _has_words) > 0.5]
        return max(worded, key=lambda name: _mean_length(self.values(name)), default=None)

    def values(self, column: str) -> list[object]:
        return [row[column] for row in self.rows if row.get(column) not in (None, "")]

    def columns(self) -> ColumnMap:
        return ColumnMap(**self.taken, unused=tuple(self.open_names()))


class RowMapper:
    """Turns rows of one table into interactions; holds what is the same for every row."""

    def __init__(self, columns: ColumnMap, *, source: str | None = None, user: str = "") -> None:
        self.columns = columns
        self.source = source
        self.user = user
        self._claimed = frozenset(columns.roles().values())

    def interaction(self, row: Row) -> Interaction:
        """One row as an interaction, not yet checked.

        Raises:
            DataError: a value cannot be read as its field; `field` names it.
        """
        columns = self.columns
        return Interaction(
            user=_text(row, columns.user, "user").strip() or self.user,
            input=_text(row, columns.input, "input"),
            response=_text(row, columns.response, "response"),
            item=_text(row, columns.item, "item").strip() or None,
            rating=_rating(_cell(row, columns.rating)),
            label=_text(row, columns.label, "label").strip() or None,
            at=parse_time(_cell(row, columns.at)),
            facet=_text(row, columns.facet, "facet").strip() or None,
            thread=_text(row, columns.thread, "thread").strip() or None,
            metadata=self._metadata(row),
            source=self._source(row),
            id=_text(row, columns.id, "id").strip(),
        )

    def _source(self, row: Row) -> str | None:
        """Where the row says it came from, as our own exports do; else the file."""
        named = None if "source" in self._claimed else row.get("source")
        return named if isinstance(named, str) and named else self.source

    def _metadata(self, row: Row) -> dict[str, object]:
        unused = {name: value for name, value in row.items() if name not in self._claimed}
        unused.pop("source", None)
        own = unused.get("metadata")
        if isinstance(own, Mapping):
            del unused["metadata"]
            unused.update(own)
        return {name: value for name, value in unused.items() if _is_kept(value)}


OWN_FIELDS = frozenset(entry.name for entry in fields(Interaction))
"""The columns of an export of our own."""


def is_own_export(row: Row) -> bool:
    """True of a row as `exporting` writes it: every field there, numbers as numbers."""
    numbers = (row.get("rating"), row.get("at"))
    return row.keys() == OWN_FIELDS and all(n is None or _is_number(n) for n in numbers)


def exported(row: Row) -> Interaction:
    """The interaction behind a row of our own export, to the letter; not yet checked.

    Raises:
        DataError: an unknown column, or metadata that are no object and no JSON text of one.
    """
    if unknown := row.keys() - OWN_FIELDS:
        raise DataError(f"no field of an export: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {name: row.get(name) for name in OWN_FIELDS}
    values["metadata"] = _exported_metadata(values["metadata"])
    for name in ("user", "input", "response", "id"):
        values[name] = "" if values[name] is None else values[name]
    return Interaction(**values)


def _exported_metadata(value: object) -> Mapping[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise DataError("not the JSON text of an object", field="metadata") from error
    if not isinstance(found, Mapping):
        raise DataError("must be an object, or the JSON text of one", field="metadata")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: object, field: str) -> str:
    """A cell as text; numbers as written, lists joined by commas, missing as the empty string.

    Raises:
        DataError: an object, or bytes that are not UTF-8.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number_text(value)
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return _decoded(value, field)
    if isinstance(value, list) and not any(isinstance(part, list) for part in value):
        return ", ".join(as_text(part, field) for part in value)
    raise DataError(f"must be text, is {type(value).__name__}", field=field)


def _cell(row: Row, column: str | None) -> object:
    return None if column is None else row.get(column)


def _text(row: Row, column: str | None, field: str) -> str:
    return as_text(_cell(row, column), field)


def _number_text(value: float) -> str:
    if value != value:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _decoded(value: bytes, field: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", field=field) from error


def _rating(value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().casefold() in _MISSING):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise DataError(f"must be a number, is {type(value).__name__}", field="rating")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{str(value)[:40]!r} is not a number", field="rating") from error
    return None if number != number else number


def _is_kept(value: object) -> bool:
    """Scalars that say something; NaN and empty cells do not."""
    return isinstance(value, str | int | float) and value == value and value != ""


def _is_rating(value: object) -> bool:
    try:
        return _rating(value) is not None
    except DataError:
        return False


def _is_time(value: object) -> bool:
    try:
        return parse_time(value) is not None
    except DataError:
        return False


def _has_letters(value: object) -> bool:
    return isinstance(value, str | bytes | list) and len(value) > 0 and not _is_rating(value)


def _has_words(value: object) -> bool:
    return isinstance(value, str) and " " in value.strip()


def _share(values: Sequence[object], test: Callable[[object], bool]) -> float:
    return sum(map(test, values)) / len(values) if values else 0.0


def _mean_length(values: Sequence[object]) -> float:
    return sum(len(value) for value in values if isinstance(value, str)) / max(len(values), 1)


def _plain(name: str) -> str:
    """`reviewerID`, `reviewer_id` and `Reviewer ID` are one name."""
    return _SEPARATORS.sub("", name.casefold())


def _check_given(given: ColumnMap, names: Sequence[str]) -> None:
    for role, column in given.roles().items():
        if column not in names:
            found = ", ".join(names)
            raise DataError(f"there is no column {column!r}; columns: {found}", field=role)


def _find_user(guess: _Guess) -> str | None:
    for tier in _USER_TIERS:
        found = [column for known in tier if (column := guess.first(known, "user"))]
        if len(found) > 1:
            message = f"the user may be any of {', '.join(found)}"
            raise DataError(f"{message}; {_hint(guess.names, '--user COL')}", field="user")
        if found:
            return found[0]
    return None


def _hint(names: Sequence[str], flag: str) -> str:
    return f"name it with {flag}; columns: {', '.join(names) or 'none'}"
