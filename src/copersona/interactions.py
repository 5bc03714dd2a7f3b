"""What a valid interaction is: checks, default ids, and times from all the ways people write them.

Every row that is to be stored passes `check`, wherever it came from, and gets its idempotency key
from `with_ids`. The key is a hash of what was said, so that reading the same file twice stores
nothing twice. This module knows no files, no columns and no store.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from copersona.errors import DataError
from copersona.records import Interaction

MAX_CHARACTERS = 1_000_000
MAX_USER_CHARACTERS = 512
MAX_METADATA_DEPTH = 8
MAX_TIME_CHARACTERS = 64
ID_CHARACTERS = 32

# Control characters and line separators would break logs, tables and file names.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_YEAR = re.compile(r"(?:19|20)\d\d")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_COMPACT_DATE = re.compile(r"(?:19|20)\d{6}")
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:[ ,T]+(\d{1,2}:\d{2}(?::\d{2})?))?")
_MISSING = frozenset({"", "null", "none", "nan", "nat", "n/a"})
# Smallest magnitude of an epoch in this unit, and how many of the unit make a second.
# 1e11 seconds is the year 5138; 1e11 milliseconds is 1973.
_EPOCH_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
_FORMATS = (
    "%B %d, %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%d %b %Y",
    "%m %d, %Y",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%a %b %d %H:%M:%S %z %Y",
    "%d,%B,%Y",
)
_TEXT_FIELDS = ("input", "response", "item", "label", "facet", "thread", "source", "id")


def check(interaction: Interaction) -> Interaction:
    """Return the interaction unchanged if it may be stored.

    Raises:
        DataError: no user, no text, a broken, oversized or non-finite value; `field` names it.
    """
    _check_user(interaction.user)
    for field in _TEXT_FIELDS:
        value = getattr(interaction, field)
        if value is not None:
            _check_text(value, field)
    if _is_blank(interaction.input) and _is_blank(interaction.response):
        raise DataError("no text at all: give `input`, `response` or both", field="response")
    _check_number(interaction.rating, "rating")
    _check_number(interaction.at, "at")
    _check_metadata(interaction.metadata)
    return interaction


def with_ids(
    namespace: str, interactions: Iterable[Interaction], seen: Counter[bytes] | None = None
) -> list[Interaction]:
    """Fill the empty ids with a hash of what was said; given ids stay.

    Rows that are equal in user, thread, time and both texts are told apart by their number within
    the batch, because people do say the same thing twice. `seen` holds the counts of equal rows so
    far: passing one counter along makes several calls one batch.
    """
    counts: Counter[bytes] = Counter() if seen is None else seen
    return [
        row if row.id else replace(row, id=_new_id(namespace, row, counts)) for row in interactions
    ]


def parse_time(value: object) -> float | None:
    """Seconds since 1970-01-01 UTC, or None where there is no time.

    Numbers are epochs in seconds, milliseconds, microseconds or nanoseconds, told apart by size.
    Texts may be such numbers, ISO 8601, a year, a date or a common written form. Without a time
    zone UTC is meant.

    Raises:
        DataError: cannot be read, or may be either of two dates (`03/04/2018`).
    """
    if value is None:
        return None
    if isinstance(value, str):
        if len(value) > MAX_TIME_CHARACTERS:
            raise DataError(f"{len(value):,} characters are not a time", field="at")
        return _parse_text(value.strip())
    if isinstance(value, bool):
        raise DataError(f"{value} is not a time", field="at")
    if isinstance(value, int | float):
        return _from_epoch(value)
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime(value.year, value.month, value.day))
    raise DataError(f"{type(value).__name__} is not a time", field="at")


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _check_user(user: object) -> None:
    if user is None or user == "" or (isinstance(user, str) and user.isspace()):
        raise DataError("no user", field="user")
    _check_text(user, "user", MAX_USER_CHARACTERS)
    if isinstance(user, str) and (found := _CONTROL.search(user)):
        raise DataError(f"control character {found.group()!r} in a user id", field="user")


def _check_text(value: object, field: str, limit: int = MAX_CHARACTERS) -> None:
    if not isinstance(value, str):
        raise DataError(f"must be text, is {type(value).__name__}", field=field)
    if len(value) > limit:
        raise DataError(f"{len(value):,} characters; at most {limit:,} are taken", field=field)
    if "\0" in value:
        raise DataError(f"NUL byte at character {value.index(chr(0))}", field=field)
    if not value.isascii():
        _check_encodable(value, field)


def _check_encodable(value: str, field: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"lone surrogate at character {error.start}: not valid Unicode"
        raise DataError(message, field=field) from error


def _check_number(value: object, field: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"must be a number, is {type(value).__name__}", field=field)
    try:
        is_finite = math.isfinite(value)
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise DataError("must be a finite number", field=field)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise DataError(f"must be a mapping, is {type(metadata).__name__}", field="metadata")
    for name, value in metadata.items():
        _check_text(name, "metadata")
        _check_value(value, f"metadata.{name}", MAX_METADATA_DEPTH)


def _check_value(value: object, field: str, depth: int) -> None:
    """Refuse what could not be stored as JSON and read back the same."""
    if isinstance(value, str):
        _check_text(value, field)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        _check_number(value, field)
    elif depth > 0 and isinstance(value, Mapping):
        for name, part in value.items():
            _check_text(name, field)
            _check_value(part, field, depth - 1)
    elif depth > 0 and isinstance(value, list | tuple):
        for part in value:
            _check_value(part, field, depth - 1)
    else:
        message = f"{type(value).__name__} is not JSON, or is nested over {MAX_METADATA_DEPTH} deep"
        raise DataError(message, field=field)


def _new_id(namespace: str, row: Interaction, counts: Counter[bytes]) -> str:
    at = "" if row.at is None else repr(float(row.at))
    parts = (namespace, row.user, row.thread or "", at, row.input, row.response)
    # Lengths in front, so that no two different rows are joined to the same bytes.
    joined = "".join([f"{len(part)}:{part}" for part in parts])
    digest = hashlib.sha256(joined.encode("utf-8", "surrogatepass"))
    key = digest.digest()
    digest.update(b"#%d" % counts[key])
    counts[key] += 1
    return digest.hexdigest()[:ID_CHARACTERS]


def _from_epoch(value: float) -> float | None:
    if value != value:  # NaN is how tables write a missing number
        return None
    try:
        seconds = float(value)
    except OverflowError as error:
        raise DataError("not a time: too large", field="at") from error
    if math.isinf(seconds):
        raise DataError("not a time: infinite", field="at")
    for smallest, per_second in _EPOCH_UNITS:
        if abs(seconds) >= smallest:
            return seconds / per_second
    return seconds


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@lru_cache(maxsize=65_536)
def _parse_text(text: str) -> float | None:
    if text.casefold() in _MISSING:
        return None
    if _YEAR.fullmatch(text):
        return _seconds(datetime(int(text), 1, 1))
    if _NUMBER.fullmatch(text) and not _COMPACT_DATE.fullmatch(text):
        return _from_epoch(float(text))
    moment = _read_iso(text) or _read_written(text)
    if moment is None:
        raise DataError(f"cannot read {text[:40]!r} as a time; write 2018-05-31", field="at")
    return _seconds(moment)


def _read_iso(text: str) -> datetime | None:
    for ending in (" UTC", " GMT"):
        text = text.removesuffix(ending)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _read_written(text: str) -> datetime | None:
    if found := _SLASHED.fullmatch(text):
        return _read_slashed(found)
    for pattern in _FORMATS:
        try:
            return datetime.strptime(text, pattern)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None


def _read_slashed(found: re.Match[str]) -> datetime | None:
    first, second, year, clock = found.groups()
    if int(first) <= 12 and int(second) <= 12 and first != second:
        message = f"{found.group()!r} may be two dates; write {year}-month-day"
        raise DataError(message, field="at")
    month, day = (first, second) if int(second) > 12 else (second, first)
    return _read_iso(f"{year}-{int(month):02}-{int(day):02}" + (f"T{clock:0>5}" if clock else ""))
