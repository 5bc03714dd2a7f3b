"""Places in JSON text, and what is put in there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copersona.service.json_text import elements, members, with_insertions

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FORMS: list[dict[str, Any]] = [{}, {"indent": 2}, {"separators": (",", ":")}]


@given(st.dictionaries(st.text(), VALUES), st.sampled_from(FORMS), st.booleans())
def test_every_value_is_found_where_it_is(
    value: dict[str, Any], form: dict[str, Any], is_ascii: bool
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, **form)
    spans = members(text, 0)
    assert {name: json.loads(text[a:b]) for name, (a, b) in spans.items()} == value
    for name, (start, _) in spans.items():
        if isinstance(value[name], list):
            assert [json.loads(text[a:b]) for a, b in elements(text, start)] == value[name]


def test_of_a_repeated_name_the_last_value_counts() -> None:
    text = ' {"a" : 1 , "b":"}{" ,"a":\t[ ] }'
    spans = members(text, 1)
    assert [text[a:b] for a, b in spans.values()] == ["[ ]", '"}{"']
    assert elements(text, spans["a"][0]) == []


@pytest.mark.parametrize("order", [1, -1])
def test_places_are_those_of_the_text_as_it_was(order: int) -> None:
    assert with_insertions("abcd", [(1, "-"), (3, "++"), (4, "!")][::order]) == "a-bc++d!"
