"""The official files of LaMP, LongLaMP and PGraphRAG, as tasks with the questions they state.

A question's prompt holds the text it is about; that text alone becomes the request, so that facets
come from the input and not from the prompt's words. The profile beside a question is its user's
history. The same text in several profiles – a co-author's paper, an agency's news – is lent once,
by the first user who has it; every history stays whole, so that the difference in number is what
was shared.

Knows the benchmarks' forms and prompts; how records are flattened is `copersona.reading.nested`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from copersona.errors import ConfigError, DataError
from copersona.interactions import check, with_ids
from copersona.reading.columns import Row, RowMapper, as_text
from copersona.reading.containers import Flaw, Record
from copersona.reading.nested import FLAT_COLUMNS, Setting, flatten
from copersona.reading.readers import Layout, inspect
from copersona.records import Interaction
from copersona.tasks.cases import Kind, Material, Question, Target, Task
from copersona.tasks.registry import usable, valid
from copersona.tasks.shapes import (
    Shape,
    as_it_is,
    review_parts,
    review_title,
    whole_review_rating,
)

LONG_WORDS = 300
"""References of LongLaMP are cut to so many words."""

_Made = TypeVar("_Made")
_MAPPER = RowMapper(FLAT_COLUMNS)
_ANSWERS = ("response", "label", "rating")


@dataclass(frozen=True)
class BenchmarkForm:
    """How one task of a benchmark puts its questions.

    Attributes:
        prompt: finds the parts of the text in a prompt; empty where there are no prompts.
        layout: how the parts are put together.
        shape: gives an entry of a profile the shape of what is asked.
    """

    kind: Kind
    description: str
    instruction: str
    prompt: str = ""
    layout: str = "{}"
    shape: Shape = as_it_is
    max_words: int = 60


def benchmark_task(name: str, path: str | Path, outputs: str | Path | None = None) -> Task:
    """A task on an official file, which is read when the task is loaded.

    Args:
        name: one of `BENCHMARKS`.
        path: questions of LaMP, rows of LongLaMP (JSON, JSON lines or Parquet), or a split of
            PGraphRAG.
        outputs: the answers, which LaMP keeps in a file of their own.

    Returns:
        A task whose `load` takes no notice of the folder it is given, and raises DataError with
        file and place where the file has not the form.

    Raises:
        ConfigError: unknown name.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark task {name!r}; known: {', '.join(BENCHMARKS)}")
    form, source = BENCHMARKS[name], Path(path).absolute()
    golds = None if outputs is None else Path(outputs).absolute()
    dataset = name.split("_")[0]

    def read(directory: Path) -> Material:
        if dataset == "PGraphRAG":
            return _read_reviews(name, source)
        return _read_questions(name, source, golds)

    return Task(
        name=name,
        dataset=dataset,
        kind=form.kind,
        description=form.description,
        instruction=form.instruction,
        load=read,
        max_words=form.max_words,
        has_dates=False,
        note=_NOTES[dataset],
    )


def _made(layout: Layout, make: Callable[[str, list[Row]], _Made]) -> Iterator[_Made]:
    """What is made of the number and the flattened rows of every record.

    Raises:
        DataError: a record has not the form; with file, line and number of the record.
    """
    for number, record in enumerate(layout.records(), start=1):
        if isinstance(record, Flaw):
            raise DataError(
                record.reason, source=str(layout.path), line=record.line, field=record.field
            )
        try:
            made = make(str(number), _flattened(layout, record))
        except DataError as error:
            raise DataError(
                f"record {number}: {error.reason}",
                source=str(layout.path),
                line=record.line,
                field=error.field,
            ) from error
        yield made


def _flattened(layout: Layout, record: Record) -> list[Row]:
    rows = flatten(layout.shape, record.values, Setting(golds=layout.golds))
    return [row for row in rows if not isinstance(row, Flaw)]  # questions have none


def _once(rows: Iterable[Interaction]) -> list[Interaction]:
    """The first of the rows that are equal in texts, label and rating."""
    found: dict[object, Interaction] = {}
    for row in rows:
        found.setdefault((row.input, row.response, row.label, row.rating), row)
    return list(found.values())


# LaMP and LongLaMP: a prompt, a profile and an answer.


def _read_questions(name: str, path: Path, outputs: Path | None) -> Material:
    form = BENCHMARKS[name]
    layout = inspect(path, format="lamp", outputs=outputs)
    asked = list(_made(layout, lambda number, rows: _asked(name, form, number, rows)))
    # One question of the official LaMP_2M file is known to be damaged; none at all is another task.
    if not any(is_known for _, is_known in asked):
        raise DataError(f"no question is put in the words of {name}", source=str(path))
    questions = [question for question, _ in asked]
    return Material(_once(row for q in questions for row in q.history), questions)


def _asked(name: str, form: BenchmarkForm, number: str, rows: list[Row]) -> tuple[Question, bool]:
    """The question of a record, and whether its prompt is in the benchmark's words."""
    *profile, question = rows or [{}]
    told = question.get("metadata")
    if not (isinstance(told, Mapping) and told.get("role") == "question"):
        message = "no answer to this question: name the file with the outputs"
        raise DataError(message, field="output")
    gold = next(question[field] for field in _ANSWERS if field in question)
    field = form.kind if form.kind in _ANSWERS else "response"
    asked = check(_MAPPER.interaction({**_kept(question), field: gold}))
    if getattr(asked, field) in (None, ""):
        raise DataError("the answer is empty", field="output")
    text = _text(form, asked.input)
    return Question(
        number=as_text(told.get("question"), "id") or number,
        user=asked.user,
        text=text or asked.input,
        target=Target(asked.response, asked.label, asked.rating),
        history=_history(name, form, profile),
    ), text is not None


def _kept(question: Row) -> dict[str, object]:
    return {"user": question["user"], "input": question["input"]}


def _text(form: BenchmarkForm, prompt: str) -> str | None:
    """The text a prompt is about; None where the prompt is in other words."""
    found = re.search(form.prompt, prompt, re.DOTALL | re.IGNORECASE)
    return form.layout.format(*found.groups()).strip() if found else None


def _history(name: str, form: BenchmarkForm, profile: list[Row]) -> tuple[Interaction, ...]:
    """A profile, oldest first where it has times; entries that hold no text are left out."""
    entries = valid(form.shape(_MAPPER.interaction(row)) for row in profile)
    ordered = sorted(entries, key=lambda row: -math.inf if row.at is None else row.at)
    return tuple(with_ids(name, ordered))


def _only_input(row: Interaction) -> Interaction:
    """Review → rating, where the review is read as what was written."""
    return replace(row, input=row.response, response="")


def _described(row: Interaction) -> Interaction:
    """Product, summary and rating of a review → the review, as questions put it."""
    rated = "" if row.rating is None else f"rated {row.rating}"
    parts = (row.input, str(row.metadata.get("summary", "")), rated)
    return replace(row, input="\n".join(part for part in parts if part))


# PGraphRAG: a user's reviews, of which the first is asked for.


def _read_reviews(name: str, path: Path) -> Material:
    """Reviews of a split; the first of each user is the question, others of the user its history.

    Deviates: users of one review are not asked, since theirs is what others can borrow; in the
    benchmark it is both.
    """
    form = BENCHMARKS[name]
    layout = inspect(path, format="pgraphrag")
    found = list(_made(layout, lambda number, rows: _reviewed(name, form, number, rows)))
    lent = _once(row for _, rows in found for row in rows)
    return Material(lent, [question for question, _ in found if question])


def _reviewed(
    name: str, form: BenchmarkForm, number: str, rows: list[Row]
) -> tuple[Question | None, tuple[Interaction, ...]]:
    """The question of a user, if there is one, and what may be known."""
    written = _once(valid(map(_MAPPER.interaction, rows)))
    reviews = with_ids(name, usable(form.kind, map(form.shape, written)))
    if not reviews:
        return None, ()
    first, *others = reviews
    history = tuple(row for row in others if row.item is None or row.item != first.item)
    if not history:
        return None, tuple(reviews)
    answer = Target(first.response, first.label, first.rating)
    return Question(number, first.user, first.input, answer, history, item=first.item), history


def _text_of_title(row: Interaction) -> Interaction:
    title, text = review_parts(row)
    return replace(row, input=title, response=text)


_SHARED = "no user ids: every question is a user; what several profiles share is lent once"
_NOTES = {
    "LaMP": _SHARED,
    "LongLaMP": "what several profiles share is lent once",
    "PGraphRAG": "users of one review are not asked; others' help is mostly on the same item",
}
_TAGS = (
    "sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, "
    "psychology, fantasy, romance, thought-provoking, social commentary, violence, true story"
)
_SECTIONS = (
    "travel, education, parents, style & beauty, entertainment, food & drink, "
    "science & technology, business, sports, healthy living, women, politics, crime, "
    "culture & arts, religion"
)

BENCHMARKS: Mapping[str, BenchmarkForm] = {
    "LaMP_1": BenchmarkForm(
        "answer",
        "authors of papers: title and two references → which is cited",
        "Which of the two references does the author of this paper cite? Answer with [1] or [2].",
        r'with the title (".*?"),? which reference is related\?.*?(\[1\]:.*)',
        "{}\n{}",
    ),
    "LaMP_2N": BenchmarkForm(
        "label",
        "journalists: article → category",
        f"Which category does this article belong to? Answer with one of: {_SECTIONS}.",
        r"\]\s*article:\s*(.*)",
    ),
    "LaMP_2M": BenchmarkForm(
        "label",
        "film lovers: description of a film → tag",
        f"Which tag does this film belong to? Answer with one of: {_TAGS}.",
        r"\]\s*description:\s*(.*)",
    ),
    "LaMP_3": BenchmarkForm(
        "rating",
        "customers: review → rating",
        "How many stars, from 1 to 5, does this customer give with this review? "
        "Answer with the number only.",
        r"explanation\.\s*review:\s*(.*)",
        shape=_only_input,
    ),
    "LaMP_4": BenchmarkForm(
        "text",
        "journalists: article → headline",
        "Write the headline of this news article. Answer with the headline only.",
        r"headline for the following article:\s*(.*)",
    ),
    "LaMP_5": BenchmarkForm(
        "text",
        "authors of papers: abstract → title",
        "Write the title of the scholarly article with this abstract. Answer with the title only.",
        r"title for the following abstract of a paper:\s*(.*)",
    ),
    "LaMP_7": BenchmarkForm(
        "text",
        "people who tweet: paraphrase of a tweet → the tweet as written",
        "Write this tweet as this user would. Answer with the tweet only.",
        r"paraphrase the following tweet[^:]*:\s*(.*)",
    ),
    "LongLaMP_abstract": BenchmarkForm(
        "text",
        "authors of papers: title and keywords → abstract",
        "Write the abstract of the scholarly article with this title and these keywords.",
        r'abstract for the title "(.*?)" using the following items:\s*(.*)',
        "{}\n{}",
        max_words=LONG_WORDS,
    ),
    "LongLaMP_topic": BenchmarkForm(
        "text",
        "Reddit users: summary of a post → post",
        "Write the Reddit post that has this summary.",
        r"content for a reddit post:?\s*(.*)",
        max_words=LONG_WORDS,
    ),
    "LongLaMP_review": BenchmarkForm(
        "text",
        "customers: product, summary and rating of a review → review",
        "Write this customer's review of this product, with this summary and rating.",
        r'rating of "?([\d.]+)"? for a product with description "(.*)"'
        r'\.? The summary of the review text is "(.*?)"\.?\s*$',
        "{1}\n{2}\nrated {0}",
        shape=_described,
        max_words=LONG_WORDS,
    ),
    "PGraphRAG_title": BenchmarkForm(
        "text",
        "reviewers: review → title of the review",
        "Write the title this reviewer gives to this review, in its language. "
        "Answer with the title only.",
        shape=review_title,
    ),
    "PGraphRAG_text": BenchmarkForm(
        "text",
        "reviewers: title of a review → review",
        "Write this reviewer's review that has this title, in its language.",
        shape=_text_of_title,
    ),
    "PGraphRAG_rating": BenchmarkForm(
        "rating",
        "reviewers: title and text of a review → rating",
        "How many stars, from 1 to 5, does this reviewer give with this review? "
        "Answer with the number only.",
        shape=whole_review_rating,
    ),
}
"""The benchmarks' tasks by name.

Source: the prompts, tags and categories are the benchmarks' own (LaMP, arXiv 2304.11406; LongLaMP,
arXiv 2407.11016; PGraphRAG, arXiv 2501.02157); the instructions are ours.
"""
