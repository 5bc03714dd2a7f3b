"""The report of a run: one HTML page and one Markdown file, made from its stored outputs alone.

The same run gives the same bytes: nothing is measured, drawn by chance or dated here. What a run
did not store is said to be missing. This module knows the order of the sections; their content and
looks are in the modules it puts together.
"""

from __future__ import annotations

from pathlib import Path

from copersona.reporting.branches import branches_section
from copersona.reporting.checks import (
    costs_section,
    gate_section,
    making_section,
    masked_section,
)
from copersona.reporting.claim import judge_tasks, main_ones, verdict_section
from copersona.reporting.comparisons import Judge
from copersona.reporting.document import Document, Section, Sentence
from copersona.reporting.figures import figures_section
from copersona.reporting.html import render_html
from copersona.reporting.markdown import FIGURES, render_markdown
from copersona.reporting.results import buckets_section, results_section, shift_section
from copersona.reporting.stored import StoredRun


def write_report(run: Path, into: Path, *, n_resamples: int = 10_000) -> tuple[Path, Path]:
    """Write `report.html` and `report.md`, the latter with its figures in a folder beside it.

    Args:
        run: folder of the stored outputs.
        into: folder to write to; made if missing.
        n_resamples: of every bootstrap that compares; intervals of single systems take a fifth.

    Returns:
        Paths of the HTML and of the Markdown file.

    Raises:
        DataError: there is no run in the folder, or a file of it is damaged.
        MissingExtraError: matplotlib is not installed.
    """
    document = build_report(StoredRun(run), n_resamples=n_resamples)
    html, markdown = into / "report.html", into / "report.md"
    (into / FIGURES).mkdir(parents=True, exist_ok=True)
    html.write_text(render_html(document), "utf-8")
    markdown.write_text(render_markdown(document), "utf-8")
    for figure in document.figures():
        (into / FIGURES / f"{figure.name}.svg").write_text(figure.svg, "utf-8")
    return html, markdown


def build_report(run: StoredRun, *, n_resamples: int) -> Document:
    """Everything the report says, before it is rendered."""
    tasks, judge = list(run.tasks()), Judge(run, n_resamples)
    judged = judge_tasks(judge, tasks)
    main = main_ones(judged)
    sections = (
        verdict_section(judged),
        results_section(judge, tasks),
        figures_section(run, judge, tasks, main),
        branches_section(judge, main),
        shift_section(judge, tasks),
        buckets_section(judge, tasks),
        masked_section(run),
        gate_section(run, judge, tasks),
        costs_section(judge, tasks),
        making_section(run, judge, tasks),
    )
    return Document(f"Evaluation: {run.info.get('name', run.folder.name)}", _facts(run), (
        *_missing(run), *sections))  # fmt: skip


def _facts(run: StoredRun) -> tuple[tuple[str, str], ...]:
    named = (("size", "size"), ("split", "split"), ("language model", "llm"),
             ("encoder", "encoder"), ("started", "started_at"), ("commit", "commit"))  # fmt: skip
    return tuple((title, str(run.info.get(key, "not stated") or "none")) for title, key in named)


def _missing(run: StoredRun) -> tuple[Section, ...]:
    """What the whole run lacks, before anything else."""
    asks_for_labels = any(task["kind"] == "label" for task in run.info.get("tasks", []))
    is_wanted = {
        "scores": True, "cases": True, "labels": asks_for_labels,
        "masked": run.info.get("masked", True), "transfer": True,
    }  # fmt: skip
    files = [name for name, wanted in is_wanted.items() if wanted and not run.has(name)]
    if not files:
        return ()
    text = f"This run is partial; files missing: {', '.join(f'{name}.parquet' for name in files)}."
    return (Section("Missing", (Sentence(text, "missing"),)),)
