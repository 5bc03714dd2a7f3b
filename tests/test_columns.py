from __future__ import annotations

import math
from datetime import date
from decimal import Decimal

import pytest

from copersona.errors import DataError
from copersona.reading.columns import (
    ColumnMap,
    RowMapper,
    as_text,
    exported,
    guess_columns,
    is_own_export,
)
from copersona.records import Interaction


def guessed(row: dict[str, object], given: ColumnMap | None = None) -> ColumnMap:
    return guess_columns(list(row), [row], given)


def test_a_review_table_is_understood_and_described() -> None:
    row: dict[str, object] = {
        "reviewer_id": "ann",
        "product_title": "Red kettle",
        "review_text": "Boils fast",
        "asin": "K1",
        "stars": "4",
        "reviewTime": "2018-05-31",
        "helpful": 3,
    }
    found = guessed(row)
    assert found.describe() == (
        "user=reviewer_id input=product_title response=review_text item=asin rating=stars "
        "at=reviewTime; unused: helpful"
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"author": "a", "abstract": "We show", "title": "On tea"},
            ("author", "abstract", "title"),
        ),
        ({"user": "a", "title": "Tea", "text": "so good"}, ("user", None, "text")),
        ({"userId": "a", "title": "Tea", "rating": 3}, ("userId", "title", None)),
        ({"speaker": "a", "question": "How?", "answer": "So."}, ("speaker", "question", "answer")),
        ({"critic": "a", "synopsis": "A dog", "review": "bad"}, ("critic", "synopsis", "review")),
        ({"uid": "a", "thoughts": "long text here", "code": "x"}, ("uid", None, "thoughts")),
        ({"user": "a", "prompt": "Hi", "completion": "Hello"}, ("user", "prompt", None)),
    ],
)
def test_texts_are_found_by_name_and_content(
    row: dict[str, object], expected: tuple[str | None, ...]
) -> None:
    found = guessed(row)
    assert (found.user, found.input, found.response) == expected


def test_a_product_column_is_an_input_with_words_and_an_item_without() -> None:
    assert guessed({"user": "a", "product": "Red kettle", "review": "ok"}).input == "product"
    found = guessed({"user": "a", "product": "B0017", "review": "ok"})
    assert (found.input, found.item) == (None, "product")


def test_values_decide_where_a_name_misleads() -> None:
    row: dict[str, object] = {"user": "a", "text": "x y", "score": "high", "date": "soon"}
    found = guessed(row)
    assert (found.rating, found.at) == (None, None)
    assert set(found.unused) == {"score", "date"}


def test_an_account_id_beats_a_role_and_a_role_beats_a_name() -> None:
    assert guessed({"user_id": "1", "author": "ann", "text": "hi"}).user == "user_id"
    assert guessed({"reviewerID": "1", "reviewerName": "ann", "text": "hi"}).user == "reviewerID"
    assert guessed({"user": "ann", "user_id": "1", "text": "hi"}).user == "user_id"


def test_two_possible_users_are_an_error_that_names_the_flag() -> None:
    with pytest.raises(DataError, match="author, critic") as caught:
        guessed({"author": "a", "critic": "b", "text": "hi"})
    assert "--user COL" in str(caught.value)
    assert caught.value.field == "user"
    assert (
        guessed({"author": "a", "critic": "b", "text": "hi"}, ColumnMap(user="critic")).user
        == "critic"
    )


def test_no_user_or_no_text_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(DataError, match=r"--user COL; columns: text, x"):
        guessed({"text": "hi", "x": 1})
    with pytest.raises(DataError, match=r"--response COL; columns: user, x"):
        guessed({"user": "a", "x": 1})
    assert guess_columns(["text"], [{"text": "hi"}], needs_user=False).user is None


def test_given_columns_win_and_must_exist_and_empty_means_none() -> None:
    row: dict[str, object] = {"user": "a", "text": "hi", "note": "there", "rating": 3}
    found = guessed(row, ColumnMap(response="note", rating=""))
    assert (found.response, found.rating) == ("note", None)
    assert found.unused == ("text", "rating")
    with pytest.raises(DataError, match=r"no column 'stars'; columns: user, text"):
        guessed(row, ColumnMap(rating="stars"))


def test_a_row_becomes_an_interaction_with_the_rest_as_metadata() -> None:
    columns = ColumnMap(user="u", response="t", rating="r", at="d", item="i")
    row = {"u": 17.0, "t": "hi", "r": "4.5", "d": "1970-01-02", "i": 9, "n": 3, "l": [1], "e": ""}
    found = RowMapper(columns, source="x.csv").interaction(row)
    assert (found.user, found.response, found.rating, found.at, found.item) == (
        "17",
        "hi",
        4.5,
        86400.0,
        "9",
    )
    assert found.metadata == {"n": 3}
    assert found.source == "x.csv"


def test_the_products_own_export_reads_back_with_its_ids() -> None:
    row: dict[str, object] = {
        "id": "k1", "user": "a", "input": "tea", "response": "no", "item": None,
        "metadata": {"shop": "x"}, "facet": "drinks", "thread": "t9",
    }  # fmt: skip
    found = RowMapper(guessed(row)).interaction(row)
    assert (found.id, found.facet, found.thread, found.metadata) == (
        "k1",
        "drinks",
        "t9",
        {"shop": "x"},
    )


def test_a_row_of_our_own_export_is_known_and_taken_to_the_letter() -> None:
    row: dict[str, object] = {
        "id": " k ", "user": "a ", "input": "", "response": " no ", "item": "", "rating": 4,
        "label": None, "at": 4e12, "facet": "f", "thread": " ", "metadata": '{"a": [1, null]}',
        "source": None,
    }  # fmt: skip
    assert is_own_export(row)
    expected = Interaction(
        "a ", "", " no ", "", 4, None, 4e12, "f", " ", {"a": [1, None]}, None, " k "
    )
    assert exported(row) == expected
    assert not is_own_export(row | {"rating": "4"})
    assert not is_own_export(row | {"shelf": "x"})
    assert not is_own_export({name: value for name, value in row.items() if name != "thread"})


def test_a_metadata_column_that_is_text_is_not_lost() -> None:
    row: dict[str, object] = {"user": "a", "text": "hi there", "metadata": "noted by hand"}
    assert RowMapper(guessed(row)).interaction(row).metadata == {"metadata": "noted by hand"}


@pytest.mark.parametrize(
    ("column", "value"),
    [("r", "good"), ("r", True), ("r", []), ("t", {"a": 1}), ("t", [["a"]]), ("t", b"\xff")],
)
def test_a_value_that_does_not_fit_names_its_field(column: str, value: object) -> None:
    with pytest.raises(DataError) as caught:
        RowMapper(ColumnMap(user="u", response="t", rating="r")).interaction(
            {"u": "a", column: value}
        )
    assert caught.value.field == {"r": "rating", "t": "response"}[column]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (math.nan, ""), (3.0, "3"), (2.5, "2.5"), (True, "true"), (["a", 1], "a, 1"),
        (b"caf\xc3\xa9", "café"), (Decimal("1.50"), "1.50"), (date(2018, 5, 31), "2018-05-31"),
    ],
)  # fmt: skip
def test_cells_as_text(value: object, text: str) -> None:
    assert as_text(value, "input") == text
