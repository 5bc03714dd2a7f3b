from __future__ import annotations

import pytest

from copersona.errors import DataError
from copersona.reading.nested import Setting, detect_shape, flatten

ANN = Setting(user="ann", thread="chat#1")


def test_shapes_are_told_by_their_keys() -> None:
    assert detect_shape({"mapping": {}}) == "openai"
    assert detect_shape({"messages": [{"role": "user"}]}) == "messages"
    assert detect_shape({"conversations": [{"from": "human"}]}) == "sharegpt"
    assert detect_shape({"id": "1", "input": "x", "profile": []}) == "lamp"
    assert detect_shape({"id": "1", "profile": []}) == "pgraphrag"
    assert detect_shape({"user": "a", "messages": 3}) == "table"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"title": "T", "abstract": "A"}, {"input": "A", "response": "T"}),
        ({"tag": "noir", "description": "D"}, {"input": "D", "label": "noir"}),
        (
            {"text": "X", "title": "T", "category": "food"},
            {"input": "X", "response": "T", "label": "food"},
        ),
        ({"text": "X", "score": "4"}, {"response": "X", "rating": "4"}),
        ({"text": "X", "title": "T"}, {"input": "X", "response": "T"}),
        ({"text": "X"}, {"response": "X"}),
    ],
)
def test_the_history_of_each_lamp_task(entry: dict[str, str], expected: dict[str, str]) -> None:
    record = {"id": "q7", "input": "question", "profile": [entry | {"id": "e1", "date": "2018"}]}
    (row,) = flatten("lamp", record, Setting())
    assert expected.items() <= row.items()
    assert (row["user"], row["at"]) == ("q7", "2018")
    assert not {"input", "response", "label", "rating"} & (row.keys() - expected.keys())


@pytest.mark.parametrize(
    ("entry", "field"),
    [({"text": "X", "score": "4"}, "rating"), ({"tag": "noir", "description": "D"}, "label"),
     ({"text": "X", "title": "T"}, "response")],
)  # fmt: skip
def test_a_gold_answer_is_the_last_row_in_the_field_of_its_task(
    entry: dict[str, str], field: str
) -> None:
    record = {"id": "q7", "input": "question", "profile": [entry]}
    last = list(flatten("lamp", record, Setting(golds={"q7": "gold"})))[-1]
    assert (last["user"], last["input"], last[field]) == ("q7", "question", "gold")
    assert last["metadata"] == {"role": "question", "question": "q7"}


def test_longlamp_records_carry_their_user_and_answer() -> None:
    papers = {
        "name": "ann",
        "input": "write",
        "output": "done",
        "profile": [{"title": "T", "abstract": "A"}],
    }
    history, answer = flatten("lamp", papers, Setting())
    assert (history["user"], history["input"], history["response"]) == ("ann", "T", "A")
    assert answer["response"] == "done"
    entry = {"description": "kettle", "overall": "4", "reviewText": "fast", "summary": "good"}
    reviews = {"reviewerId": "ben", "input": "write", "output": "done", "profile": [entry]}
    history, answer = flatten("lamp", reviews, Setting())
    assert (history["input"], history["response"], history["rating"]) == ("kettle", "fast", "4")
    assert answer["response"] == "done"


def test_pgraphrag_reviews_belong_to_the_user_of_the_record() -> None:
    review = {
        "review_title": "Good",
        "review_text": "It boils",
        "overall_rating": 4,
        "product_id": 9,
    }
    (row,) = flatten("pgraphrag", {"id": "ann", "profile": [review]}, Setting())
    assert (row["user"], row["response"], row["rating"], row["item"]) == (
        "ann",
        "Good\nIt boils",
        4,
        9,
    )


def test_only_the_users_own_messages_are_responses() -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "what tea?"}]},
        {"role": "tool", "content": "{}"},
        {"role": "user", "content": [{"type": "text", "text": "green"}, {"type": "image_url"}]},
        {"role": "assistant", "content": "bye"},
    ]
    rows = list(flatten("messages", {"messages": messages}, ANN))
    assert [(row["input"], row["response"]) for row in rows] == [
        ("", "hello"),
        ("what tea?", "green"),
    ]
    assert {(row["user"], row["thread"]) for row in rows} == {("ann", "chat#1")}


def test_sharegpt_turns_and_ids_of_their_own() -> None:
    turns = [
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "yes?"},
        {"from": "human", "value": "tea"},
    ]
    rows = list(flatten("sharegpt", {"id": "c5", "user_id": "ben", "conversations": turns}, ANN))
    assert [(row["input"], row["response"]) for row in rows] == [("", "hi"), ("yes?", "tea")]
    assert {(row["user"], row["thread"]) for row in rows} == {("ben", "c5")}


def node(parent: str | None, role: str, text: str, **metadata: bool) -> dict[str, object]:
    content = {"content_type": "text", "parts": [text]}
    message = {
        "author": {"role": role},
        "content": content,
        "create_time": 5.0,
        "metadata": metadata,
    }
    return {"parent": parent, "message": message}


def test_an_openai_tree_is_read_along_the_branch_that_was_kept() -> None:
    mapping = {
        "root": {"parent": None, "message": None},
        "s": node("root", "user", "injected", is_visually_hidden_from_conversation=True),
        "u1": node("s", "user", "hello"),
        "dropped": node("u1", "assistant", "wrong branch"),
        "a1": node("u1", "assistant", "what tea?"),
        "u2": node("a1", "user", "green"),
    }
    record = {"mapping": mapping, "current_node": "u2", "conversation_id": "c1"}
    rows = list(flatten("openai", record, ANN))
    assert [(row["input"], row["response"], row["at"]) for row in rows] == [
        ("", "hello", 5.0),
        ("what tea?", "green", 5.0),
    ]
    assert {row["thread"] for row in rows} == {"c1"}


def test_an_openai_tree_that_loops_or_names_no_leaf_still_ends() -> None:
    loop = {"a": node("b", "user", "one"), "b": node("a", "user", "two")}
    assert len(list(flatten("openai", {"mapping": loop, "current_node": "a"}, ANN))) == 2
    assert len(list(flatten("openai", {"mapping": loop}, ANN))) == 2


def test_nobody_and_wrong_lists_are_data_errors() -> None:
    with pytest.raises(DataError, match="whose words"):
        list(flatten("messages", {"messages": []}, Setting()))
    with pytest.raises(DataError, match="must be a list"):
        list(flatten("lamp", {"id": "1", "profile": "none"}, Setting()))
