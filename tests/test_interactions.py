from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copersona.errors import DataError
from copersona.interactions import MAX_CHARACTERS, check, parse_time, with_ids
from copersona.records import Interaction

TEA = Interaction(user="ann", input="green tea", response="Too bitter.", rating=2.0, at=1e9)


def refused(interaction: Interaction) -> DataError:
    with pytest.raises(DataError) as caught:
        check(interaction)
    return caught.value


def test_a_good_interaction_comes_back_as_it_is() -> None:
    assert check(TEA) is TEA
    assert check(Interaction("ann", input="only this", metadata={"a": [1, {"b": None}]}))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Interaction("", input="x"), "user"),
        (Interaction("  ", input="x"), "user"),
        (Interaction("a\nb", input="x"), "user"),
        (Interaction("a\x85b", input="x"), "user"),
        (Interaction("u" * 513, input="x"), "user"),
        (Interaction("ann"), "response"),
        (Interaction("ann", input=" \n", response="\t"), "response"),
        (Interaction("ann", input="a\0b"), "input"),
        (Interaction("ann", response="broken \ud83d half"), "response"),
        (Interaction("ann", input="x", item="a\0b"), "item"),
        (Interaction("ann", input="x", rating=math.nan), "rating"),
        (Interaction("ann", input="x", rating=10**400), "rating"),
        (Interaction("ann", input="x", at=math.inf), "at"),
        (Interaction("ann", input="x", metadata={"k": "a\0b"}), "metadata.k"),
        (Interaction("ann", input="x", metadata={"k": math.inf}), "metadata.k"),
        (Interaction("ann", input="x", metadata={"k": {1, 2}}), "metadata.k"),
    ],
)
def test_the_field_at_fault_is_named(wrong: Interaction, field: str) -> None:
    assert refused(wrong).field == field


def test_types_are_checked_because_callers_may_not_be() -> None:
    assert "is int" in str(refused(Interaction(user=7, input="x")))  # type: ignore[arg-type]
    assert refused(Interaction("ann", input=b"x")).field == "input"  # type: ignore[arg-type]
    assert refused(Interaction("ann", input="x", rating="5")).field == "rating"  # type: ignore[arg-type]
    assert refused(Interaction("ann", input="x", metadata=[])).field == "metadata"  # type: ignore[arg-type]


def test_a_text_of_the_limit_is_taken_and_one_more_is_refused_with_its_size() -> None:
    assert check(Interaction("ann", input="x" * MAX_CHARACTERS))
    assert "1,000,001" in str(refused(Interaction("ann", input="x" * (MAX_CHARACTERS + 1))))


def test_metadata_that_contains_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    assert "deep" in str(refused(Interaction("ann", input="x", metadata=loop)))


def test_the_same_batch_twice_gets_the_same_ids_and_repeats_are_told_apart() -> None:
    batch = [TEA, TEA, Interaction("ben", input="green tea", response="Too bitter.")]
    first = [row.id for row in with_ids("shop", batch)]
    assert first == [row.id for row in with_ids("shop", batch)]
    assert len(set(first)) == 3
    assert all(len(id_) == 32 for id_ in first)
    assert with_ids("other", [TEA])[0].id != first[0]


def test_given_ids_stay_and_are_not_counted() -> None:
    named = Interaction("ann", input="green tea", response="Too bitter.", at=1e9, id="mine")
    rows = with_ids("shop", [named, TEA])
    assert rows[0] is named
    assert rows[1].id == with_ids("shop", [TEA])[0].id


def test_one_counter_makes_several_calls_one_batch() -> None:
    seen: Counter[bytes] = Counter()
    apart = with_ids("shop", [TEA], seen) + with_ids("shop", [TEA], seen)
    assert [row.id for row in apart] == [row.id for row in with_ids("shop", [TEA, TEA])]


def test_moving_text_between_fields_changes_the_id() -> None:
    shifted = [
        Interaction("ab", input="c"),
        Interaction("a", input="bc"),
        Interaction("a", "b", "c"),
    ]
    assert len({row.id for row in with_ids("n", shifted)}) == 3
    assert (
        with_ids("n", [Interaction("a", "b", at=1)])[0]
        == with_ids("n", [Interaction("a", "b", at=1.0)])[0]
    )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (None, None),
        ("", None),
        (" NaN ", None),
        (math.nan, None),
        (0, 0.0),
        (1_525_289_961, 1_525_289_961.0),
        (1_525_289_961_000, 1_525_289_961.0),
        (1_525_289_961_000_000_000, 1_525_289_961.0),
        ("1525289961.5", 1_525_289_961.5),
        ("2018-05-02T19:39:21Z", 1_525_289_961.0),
        ("2018-05-02 21:39:21+02:00", 1_525_289_961.0),
        ("2018-05-02 19:39:21 UTC", 1_525_289_961.0),
        ("Wed, 02 May 2018 19:39:21 GMT", 1_525_289_961.0),
        ("Wed May 02 19:39:21 +0000 2018", 1_525_289_961.0),
        ("05/31/2018", 1_527_724_800.0),
        ("31/05/2018", 1_527_724_800.0),
        ("May 31, 2018", 1_527_724_800.0),
        ("31 May 2018", 1_527_724_800.0),
        ("05 31, 2018", 1_527_724_800.0),
        ("31.05.2018", 1_527_724_800.0),
        ("20180531", 1_527_724_800.0),
        ("1965", -157_766_400.0),
        (date(2018, 5, 31), 1_527_724_800.0),
        (datetime(2018, 5, 31, tzinfo=UTC), 1_527_724_800.0),
    ],
)
def test_times_in_many_forms(written: object, seconds: float | None) -> None:
    assert parse_time(written) == seconds


@pytest.mark.parametrize(
    "wrong", ["soon", "03/04/2018", True, [], math.inf, "9" * 400, "x" * 10**6, 10**400]
)
def test_what_is_no_time_or_two_times_is_refused(wrong: object) -> None:
    with pytest.raises(DataError) as caught:
        parse_time(wrong)
    assert caught.value.field == "at"
    assert len(str(caught.value)) < 200


@given(st.text() | st.integers() | st.floats() | st.datetimes() | st.dates())
def test_any_value_is_a_finite_time_none_or_a_data_error(value: object) -> None:
    try:
        seconds = parse_time(value)
    except DataError:
        return
    assert seconds is None or math.isfinite(seconds)
