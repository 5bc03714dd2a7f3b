"""What a language model says of the contexts of a run: likelihoods of references, and answers.

The same requests are judged for every system, chosen by the hash in their names, so that any two
systems are compared on the same ones and more can be added later without doing any again. Equal
contexts are judged once: where a system abstains it costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from copersona.errors import ConfigError
from copersona.evaluation.cache import ResultCache
from copersona.evaluation.part_jobs import PartJob, TaskJobs, Verdicts
from copersona.evaluation.parts import PartStore, Row
from copersona.evaluation.scoring import Answerer, Scorer, answers, likelihoods
from copersona.language.likelihood import Likelihood

Progress = Callable[[str, int, int], None]

ANSWER_TOKENS = 40
"""Longest answer."""


def judge(
    planned: Sequence[TaskJobs],
    parts: PartStore,
    cache: ResultCache,
    open_scorer: Callable[[], Scorer],
    n_judged: int,
    n_written: int,
    report: Progress,
) -> Verdicts:
    """Judge the contexts of so many requests of each task, and answer some of them.

    Args:
        open_scorer: called when something is to be judged; a model that only answers does that.
    """
    asked = [pair for one in planned for pair in judged_rows(one, parts, n_judged)]
    written = [
        (job, row)
        for one in planned
        for job, row in judged_rows(one, parts, n_written, base=True)
        if not row["soft"]  # answers are written from messages alone
    ]
    if not asked:
        return Verdicts({}, {})
    scorer = open_scorer()
    likely = {} if isinstance(scorer, Answerer) else _likely(asked, scorer, cache, report)
    said = answers(
        [json.loads(row["messages"]) for _, row in written], scorer, cache, ANSWER_TOKENS,
        lambda *n: report("answers", *n),
    )  # fmt: skip
    names = ((job.name, row["case"]) for job, row in written)
    return Verdicts(likely, dict(zip(names, said, strict=True)))


def _likely(
    asked: Sequence[tuple[PartJob, Row]], scorer: Scorer, cache: ResultCache, report: Progress
) -> dict[tuple[str, str], Likelihood]:
    told = [(job, row) for job, row in asked if row["reference"]]
    jobs = [(json.loads(row["messages"]), row["reference"]) for _, row in told]
    softs = [row["soft"] for _, row in told]
    scored = likelihoods(jobs, scorer, cache, lambda *n: report("likelihoods", *n), softs=softs)
    names = ((job.name, row["case"]) for job, row in told)
    return dict(zip(names, scored, strict=True))


def judged_rows(
    one: TaskJobs, parts: PartStore, n_cases: int, *, base: bool = False
) -> Iterator[tuple[PartJob, Row]]:
    """Rows of the judged parts of a task, of the chosen cases only.

    Args:
        base: only of whole histories.
    """
    for job in one.jobs:
        if job.is_judged and not (base and not is_base(job)):
            rows = parts.get(job.key)
            chosen = chosen_cases(rows, n_cases)
            found = (row for row in rows if row["case"] in chosen and row["text"] is None)
            yield from ((job, row) for row in found)


def chosen_cases(rows: Sequence[Row], n_cases: int) -> frozenset[str]:
    """The first so many cases by name, which is a hash."""
    return frozenset(sorted({row["case"] for row in rows})[:n_cases])


def is_base(job: PartJob) -> bool:
    """Whether nothing is cut or deleted from the histories of a part."""
    setting = job.setting
    if setting is None:
        raise ConfigError(f"a part of {job.what} has no setting")
    return setting.cap is None and setting.shift == "none"
