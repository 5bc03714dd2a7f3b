"""Tendencies in words: what is notable, how strongly, and that every phrase reads anywhere."""

import re

import numpy as np
import pytest

from copersona.answering.tendencies import MOST, describe
from copersona.method.residuals import View
from copersona.style import HABITS

N = len(HABITS)
VIEWS = (
    View("text", 0, 2),
    View("style", 2, 2 + N, tuple(habit.name for habit in HABITS)),
    View("rating", 2 + N, 3 + N, ("rating",)),
    View("label", 3 + N, 5 + N, ("good", "bad")),
)
ALL = [view.name for view in VIEWS]


def estimate(**values):
    """An estimate that is 0 but for the columns named, blanks as underscores."""
    columns = {name: view.start + n for view in VIEWS for n, name in enumerate(view.columns)}
    row = np.zeros(VIEWS[-1].stop)
    for name, value in values.items():
        row[columns[name.replace("_", " ")]] = value
    return row


def said(row, views=ALL, **options):
    options = {"contributors": 0, **options}
    return [t.statement for t in describe(row, VIEWS, views, **options)]


def test_only_what_is_notable_is_said_strongest_first():
    row = estimate(length=-0.3, commas=0.19, emoji=0.6, rating=-0.25)
    assert said(row) == ["far more emoji", "shorter messages", "lower ratings"]
    assert said(row, ["rating"]) == ["lower ratings"]
    assert said(np.zeros(VIEWS[-1].stop)) == []


def test_the_text_view_and_what_is_not_finite_have_no_words():
    row = estimate(length=np.nan, commas=np.inf)
    row[:2] = 5.0
    assert said(row) == []


def test_labels_and_ratings_have_phrases_too():
    row = estimate(good=0.3, bad=-0.9, rating=0.7)
    assert said(row) == ["the label “bad” far less often", "far higher ratings",
                         "the label “good” more often"]  # fmt: skip


@pytest.mark.parametrize(
    ("n_words", "phrase"),
    [(0.4, "about 1 word"), (12.4, "about 12 words"), (63.0, "about 65 words"),
     (333.0, "about 350 words")],
)  # fmt: skip
def test_the_length_is_said_in_words(n_words, phrase):
    assert said(estimate(length=0.3, commas=0.25), n_words=n_words) == [
        f"longer messages ({phrase})",
        "more commas",
    ]


def test_at_most_a_few_with_their_contributors():
    row = np.full(VIEWS[-1].stop, 0.4)
    found = describe(row, VIEWS, ALL, contributors=7)
    assert len(found) == MOST
    assert {t.contributors for t in found} == {7}


def test_every_phrase_is_a_comparative_that_one_or_many_may_have():
    for habit in HABITS:
        for phrase in (habit.more, habit.less):
            assert re.match(r"(more|fewer|longer|shorter|plainer)\b", phrase), phrase
        assert habit.more != habit.less
