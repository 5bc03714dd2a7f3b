"""What the command line shows: JSON, tables, notices and progress bars.

Data goes to standard output and nothing else does, so that it can be piped; notices, progress and
errors go to standard error. Stored texts are other people's words: control characters in them are
made visible before they reach a terminal. This module knows records, but no command and no store.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from copersona.errors import BackendError, ConfigError, DataError
from copersona.records import Context, FacetPersona, Persona, RowOutcome, Vote, VoteShare

if TYPE_CHECKING:
    from copersona.language.models import ModelStatus
    from copersona.reports import Answer, FitReport, IngestReport, Receipt, TrainReport
    from copersona.storage.audit_log import AuditLine
    from copersona.storage.key_ring import KeptKey

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much; 0 where unknown."""

SHOWN_REJECTIONS = 10

_SHOWN_TENDENCIES = 3
_PIPED_COLUMNS = 120
# Everything that moves a cursor, colours, or turns the direction of reading; not tab and newline.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """Text that a terminal shows instead of obeying."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str) -> None:
    """Print one line of data."""
    typer.echo(safe(text))


def notice(text: str) -> None:
    """Print one line that is not data."""
    typer.echo(safe(text), err=True)


def say_json(value: object) -> None:
    """Print records or plain values as one line of JSON."""
    typer.echo(json.dumps(plain(value)))


def plain(value: object) -> Any:
    """Records as dictionaries, and everything else as what JSON can hold."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def say_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the last column gets the room that is left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    width = None if sys.stdout.isatty() else _PIPED_COLUMNS
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def say_persona(persona: Persona) -> None:
    """Print a persona, facet by facet, with what it rests on."""
    say(f"{persona.user}: {persona.n_interactions} interactions, mode {persona.mode}")
    for instruction in persona.instructions:
        say(f"said outright: {instruction}")
    names = ("facet", "own support", "confidence", "contributors", "what is known")
    say_table(names, map(_facet_row, persona.facets))


def _facet_row(facet: FacetPersona) -> tuple[str, ...]:
    known = [tendency.statement for tendency in facet.tendencies[:_SHOWN_TENDENCIES]]
    if facet.abstained:
        known.append(f"(nothing borrowed: {facet.abstained})")
    return (
        facet.name,
        f"{facet.support:.1f}",
        f"{facet.own_confidence:.2f} -> {facet.confidence:.2f}",
        str(facet.n_contributors),
        "\n".join(known) or "-",
    )


def say_vote(vote: Vote) -> None:
    """Print what a user would say of something, and by whose votes."""
    shares = [*vote.labels, *vote.ratings]
    if not shares:
        say(f"{vote.user}: nobody who may vote gave a label or a rating")
        return
    names = ("label or rating", "share", "own", "peers", "anybody", "contributors")
    say_table(names, map(_share_row, shares))
    if vote.expected_rating is not None:
        say(f"expected rating {vote.expected_rating:.2f}, median {vote.median_rating:g}")
    notice(f"{vote.n_own} own interactions voted; peers weigh {vote.worth:.2f}")


def _share_row(share: VoteShare) -> tuple[str, ...]:
    name = share.value if isinstance(share.value, str) else f"{share.value:g}"
    parts = (share.share, share.own, share.borrowed, share.prior)
    return (name, *(f"{part:.0%}" for part in parts), str(share.contributors))


def say_messages(context: Context) -> None:
    """Print the messages for the language model; on standard error, how they came about."""
    say("\n\n".join(f"[{message['role']}]\n{message['content']}" for message in context.messages))
    notice_context(context)


def say_fields(record: object, *, as_json: bool) -> None:
    """Print a flat record, one field a line."""
    values = plain(record)
    if as_json:
        say_json(values)
        return
    for name, value in values.items():
        say(f"{name}: {_yes_no(value) if isinstance(value, bool) else value}")


def say_receipt(receipt: Receipt, *, as_json: bool) -> None:
    """Print what went with a forgotten user, and what an independent scan still finds."""
    if as_json:
        say_json(receipt)
        return
    say("erased: " + ", ".join(f"{kind} {n:,}" for kind, n in receipt.removed.items()))
    for version in receipt.states_removed:
        say(f"fitted state removed: {version}")
    if receipt.state:
        say(f"fitted state in force: {receipt.state}")
    for name in receipt.not_unlearnt:
        say(f"not unlearnt before the next fit: {name}")
    for file in receipt.traces_found:
        say(f"words like this user's are still in: {file}")
    if not receipt.traces_found:
        say(f"an independent scan of {receipt.scanned:,} files found nothing")
    for place in receipt.searched:
        say(f"looked at: {place}")
    for place in receipt.unsearched:
        say(f"out of reach: {place}")
    for one in receipt.backups:
        note = "erased again where it is restored" if one.is_noted else "not at its place"
        say(f"may be in a backup: {one.id}, {one.age_days:g} days old, {one.place} ({note})")


def say_ingested(report: IngestReport, *, as_json: bool, dry_run: bool) -> None:
    """Print how a file was read and what became of its rows."""
    if as_json:
        say_json(report)
    else:
        verb = "could be stored" if dry_run else "stored"
        if report.guess:
            say(report.guess)
        say(
            f"{report.n_read:,} read, {report.stored:,} {verb}, "
            f"{report.duplicates:,} duplicates, {len(report.rejected):,} rejected"
        )
        if report.consents_set:
            say(f"{report.consents_set:,} new users lend text and may be trained on: it is public")
    notice_rejections(report.rejected)


def say_fitted(report: FitReport, *, as_json: bool) -> None:
    """Print what a fit found."""
    notice(report.encoder)
    for warning in report.warnings:
        notice(f"warning: {warning}")
    if as_json:
        say_json(report)
        return
    say(
        f"state {report.state}: {report.n_interactions:,} interactions of {report.n_users:,} "
        f"users, {report.n_lenders:,} of them lend; {report.seconds:.1f} s"
    )
    say(f"{len(report.facets)} facets: {'; '.join(report.facets)}")
    if report.abstaining:
        say(f"nothing will be borrowed: {report.abstaining}")
    for sentence in report.reasoning:
        say(sentence)


def say_trained(report: TrainReport, *, as_json: bool) -> None:
    """Print what was trained and where it will be used."""
    if as_json:
        say_json(report)
        return
    say(f"state {report.state}: {report.seconds:.1f} s")
    for sentence in report.said:
        say(sentence)


def say_answer(answer: Answer, *, as_json: bool) -> None:
    """Print what the language model answered."""
    if as_json:
        say_json(answer)
        return
    say(answer.text)
    if answer.scores:
        scores = ", ".join(f"{score:.2f}" for score in answer.scores)
        notice(f"best of {len(answer.scores)} answers by likeness to this user: {scores}")
    notice_context(answer.context)


def say_unanswered(context: Context, error: BackendError, *, as_json: bool) -> None:
    """Hand over the context that the language model did not answer."""
    if as_json:
        say_json({"text": None, "error": str(error), "context": context})
        return
    notice("no answer; these are the messages that the language model did not answer:")
    say_messages(context)


def say_models(found: Sequence[ModelStatus], *, as_json: bool) -> None:
    """Print the pinned models and where they are."""
    if as_json:
        say_json([plain(status.model) | {"path": plain(status.path)} for status in found])
        return
    rows = (
        (one.name, _yes_no(status.path is not None), one.licence, one.purpose)
        for status in found
        for one in [status.model]
    )
    say_table(("name", "installed", "licence", "purpose"), rows)


def say_keys(kept: Sequence[KeptKey], *, as_json: bool) -> None:
    """Print keys without what would tell them."""
    rows = [
        {"id": key.id, "scopes": sorted(key.scopes), "one_user": key.mark is not None,
         "created_at": key.created_at}
        for key in kept
    ]  # fmt: skip
    if as_json:
        say_json(rows)
        return
    shown = (
        (key.id, ", ".join(sorted(key.scopes)), _yes_no(key.mark is not None),
         datetime.fromtimestamp(key.created_at, UTC).isoformat(" ", "minutes"))
        for key in kept
    )  # fmt: skip
    say_table(("id", "scopes", "one user", "created"), shown)


def say_audit(lines: Sequence[AuditLine], *, as_json: bool) -> None:
    """Print audit lines, in which users are marks."""
    if as_json:
        say_json(lines)
        return
    shown = (
        (datetime.fromtimestamp(line.at, UTC).isoformat(" ", "seconds"), line.key_id, line.action,
         _yes_no(line.is_allowed), " ".join(line.marks))
        for line in lines
    )  # fmt: skip
    say_table(("at", "key", "action", "allowed", "users"), shown)


def notice_context(context: Context) -> None:
    """Say what a context weighs, whether it is personalised, and how to ask why."""
    for warning in context.warnings:
        notice(f"warning: {warning}")
    kind = "personalised" if context.is_personalised else "not personalised"
    trace = f"; why: copersona explain {context.trace_id}" if context.trace_id else ""
    notice(f"{kind}, {context.tokens} of {context.budget_tokens} tokens{trace}")


def notice_rejections(rejected: Sequence[RowOutcome]) -> None:
    """Say where the first rejected rows are and what is wrong with them."""
    found = Counter(map(_rejection, rejected)).most_common()
    for line, n_rows in found[:SHOWN_REJECTIONS]:
        notice(f"  {line} ({n_rows:,} rows)" if n_rows > 1 else f"  {line}")
    if n_more := sum(n_rows for _, n_rows in found[SHOWN_REJECTIONS:]):
        notice(f"  and {n_more:,} more")


def _rejection(row: RowOutcome) -> str:
    place = ":".join(str(part) for part in (row.source, row.line) if part is not None)
    named = f"field {row.field!r}: " if row.field else ""
    return f"{place or f'row {row.index}'}: {named}{row.reason}"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Give a function that draws one bar per stage on standard error, if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Bars(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total or None)
        bars.update(tasks[stage], completed=done, total=total or None)

    with bars:
        yield report


def ask(question: str) -> None:
    """Go on only if the answer is yes.

    Raises:
        ConfigError: it is not, or nobody is there to answer.
    """
    try:
        is_meant = typer.confirm(safe(question), err=True)
    except typer.Abort:
        is_meant = False
        typer.echo(err=True)  # the question is still waiting for the end of its line
    if not is_meant:
        raise ConfigError("not confirmed, so nothing was done; --yes does not ask")


def typed_lines() -> Iterator[str]:
    """Lines of standard input that are not blank, as they come.

    Raises:
        DataError: a line is not UTF-8.
    """
    mark = "> " if sys.stdin.isatty() else ""
    stream = typer.get_binary_stream("stdin")
    typer.echo(mark, nl=False, err=True)
    for number, line in enumerate(iter(stream.readline, b""), start=1):
        if text := _decoded(line, number).strip():
            yield text
        typer.echo(mark, nl=False, err=True)


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start}"
        raise DataError(message, source="standard input", line=number) from error


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
