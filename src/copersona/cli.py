"""The command line: every verb of the pipeline as a command, and one place where errors end.

A command opens the store, makes one call and shows the result: data on standard output (as JSON
with `--json`), everything else on standard error. Errors become one line and an exit code from one
table. What a verb does is the pipeline's business; here nothing is computed. Imports of what takes
long to load stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from copersona import terminal
from copersona.errors import (
    BackendError,
    ConfigError,
    CoPersonaError,
    DataError,
    NotFittedError,
    UnknownUserError,
)
from copersona.settings import Settings, read_settings

if TYPE_CHECKING:
    from copersona.pipeline import CoPersona
    from copersona.reports import IngestReport

BUG = 1
# The first class that fits gives the code.
EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ConfigError, 2),
    (DataError, 2),
    (UnknownUserError, 3),
    (NotFittedError, 3),
    (CoPersonaError, 4),  # what is left of them: the store, the fitted state, a model
    (OSError, 4),  # a full disk, a folder that may not be written
)

_DAY_S = 86_400


@dataclass(slots=True)
class Session:
    """What the options before the verb say."""

    settings: Settings = field(default_factory=Settings)
    is_debugging: bool = False

    def open(self, *, create: bool = False) -> CoPersona:
        """The pipeline on the store that is meant; only with `create` is a new one made."""
        from copersona.pipeline import CoPersona

        settings = self.settings
        file = settings.store_file
        if file is not None and not create and not file.exists():
            raise ConfigError(
                f"there is no store at {file}; `copersona ingest` makes one, --store names another"
            )
        return CoPersona.open(
            file or settings.store,
            namespace=settings.namespace,
            encoder=settings.encoder,
            generator=settings.llm,
            state_dir=settings.state,
        )


class Program(TyperGroup):
    """The command group; its `main` is the last that sees an error."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run one command line; ends the process, or raises SystemExit, with its exit code."""
        session = Session()
        try:
            return super().main(*args, obj=session, **options)
        except Exception as error:  # noqa: BLE001  the last handler
            if session.is_debugging:
                traceback.print_exception(error)
            terminal.notice(_one_line(error))
            sys.exit(exit_code(error))


def exit_code(error: Exception) -> int:
    """What the process ends with after an error: 2 usage, 3 unknown, 4 store or model, 1 a bug."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), BUG)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if exit_code(error) != BUG:
        return f"copersona: {text}"
    return f"copersona: a bug: {type(error).__name__}: {text}; --debug shows where"


def main() -> None:
    """Run the command line of this process."""
    app()


app = typer.Typer(
    cls=Program,
    help="Personalise any LLM from a user's first interactions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Language model and encoders.", no_args_is_help=True)
app.add_typer(models_app, name="models")

User = Annotated[str, typer.Argument(metavar="USER", help="A user id, as it was ingested.")]
Text = Annotated[str, typer.Argument(metavar="TEXT", help="What the request is about.")]
InteractionId = Annotated[str, typer.Argument(metavar="ID", help="Id of one interaction.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Most tokens the context may have.")]
Instruction = Annotated[str, typer.Option(help="What the language model is to do with TEXT.")]
Item = Annotated[str | None, typer.Option(help="The item that the request is about.")]
Column = Annotated[str | None, typer.Option(metavar="COL", help="Column of this field.")]
Changed = Annotated[str | None, typer.Option(help="The new value; an empty one clears it.")]


@app.callback()
def _begin(
    ctx: typer.Context,
    store: Annotated[
        str | None, typer.Option(metavar="PATH_OR_URL", help="SQLite file or database URL.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Users of others are unknown.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="hashing, static, minilm, st:NAME or openai:MODEL@URL.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="openai:MODEL@URL, local:NAME or echo.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these settings.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    session = _session(ctx)
    session.is_debugging = debug
    given = {"store": store, "namespace": namespace, "encoder": encoder, "llm": llm}
    session.settings = read_settings(file=config, given=given)


def _session(ctx: typer.Context) -> Session:
    return ctx.ensure_object(Session)


# ── histories in, state fitted ────────────────────────────────────────────────────────────────


@app.command()
def ingest(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE…")] = None,
    user: Column = None,
    input: Column = None,
    response: Column = None,
    item: Column = None,
    rating: Column = None,
    label: Column = None,
    at: Column = None,
    facet: Column = None,
    format: Annotated[str | None, typer.Option(help="Where the content does not tell.")] = None,
    whose: Annotated[
        str | None, typer.Option(metavar="USER", help="Whose a file without user ids is.")
    ] = None,
    dataset: Annotated[
        tuple[str, Path] | None, typer.Option(metavar="NAME DIR", help="A public data set.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add the interactions of files; columns are guessed, and the guess is printed."""
    from copersona.columns import ColumnMap

    if bool(files) == bool(dataset):
        raise ConfigError("give files, or a data set with --dataset NAME DIR")
    columns = ColumnMap(user, input, response, item, rating, label, at, facet)
    with _session(ctx).open(create=True) as engine, terminal.progress_bars() as report:
        reads = [
            partial(
                engine.ingest,
                path,
                columns=columns,
                format=format,
                user=whose,
                dry_run=dry_run,
                progress=_counted(report, path.name),
            )
            for path in files or ()
        ]
        if dataset:
            told = _counted(report, dataset[0])
            reads = [partial(engine.ingest_dataset, *dataset, dry_run=dry_run, progress=told)]
        reports, unread = _ingest_each(reads)
    for one in reports:
        terminal.say_ingested(one, as_json=as_json, dry_run=dry_run)
    raise typer.Exit(_ingest_code(reports, unread))


def _counted(report: terminal.Progress, stage: str) -> Callable[[int], None]:
    return lambda n_rows: report(stage, n_rows, 0)


def _ingest_each(
    reads: Iterable[Callable[[], IngestReport]],
) -> tuple[list[IngestReport], int]:
    """The reports, and the number of files of which nothing could be read, each named."""
    reports: list[IngestReport] = []
    n_unread = 0
    for read in reads:
        try:
            reports.append(read())
        except DataError as error:
            terminal.notice(_one_line(error))
            n_unread += 1
    return reports, n_unread


def _ingest_code(reports: list[IngestReport], n_unread: int) -> int:
    """2 where a file could not be read at all, or all there was to store was rejected."""
    is_any_rejected = any(report.rejected for report in reports)
    is_any_stored = any(report.stored for report in reports)
    return 2 if n_unread or (is_any_rejected and not is_any_stored) else 0


@app.command()
def fit(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Find facets, build the persona graph and publish a new fitted state."""
    with _session(ctx).open() as engine, terminal.progress_bars() as report:
        fitted = engine.fit(progress=report)
    terminal.say_fitted(fitted, as_json=as_json)


# ── asking ────────────────────────────────────────────────────────────────────────────────────


@app.command()
def persona(ctx: typer.Context, user: User, as_json: AsJson = False) -> None:
    """Show what is known of a user, facet by facet, and what of it is borrowed."""
    _check(user)
    with _session(ctx).open() as engine:
        found = engine.persona(user)
    terminal.say_json(found) if as_json else terminal.say_persona(found)


@app.command()
def prompt(
    ctx: typer.Context,
    user: User,
    text: Text,
    budget: Budget = None,
    instruction: Instruction = "",
    item: Item = None,
    as_json: AsJson = False,
) -> None:
    """Print the messages that personalise one request, without calling a language model."""
    _check(user, text)
    with _session(ctx).open() as engine:
        context = engine.prompt(
            user, text, instruction=instruction, item=item, budget_tokens=budget
        )
    terminal.say_json(context) if as_json else terminal.say_messages(context)


@app.command()
def chat(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    user: User,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Else from stdin.")] = None,
    budget: Budget = None,
    instruction: Instruction = "",
    item: Item = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Answer one request, or every line of standard input, with the personalised model."""
    asked: dict[str, Any] = {
        "instruction": instruction,
        "item": item,
        "budget_tokens": budget,
    }
    with _session(ctx).open() as engine:
        for line in terminal.typed_lines() if text is None else [text]:
            _check(user, line)
            try:
                answer = engine.chat(
                    user, line, max_tokens=max_tokens, temperature=temperature, **asked
                )
            except BackendError as error:
                terminal.say_unanswered(engine.prompt(user, line, **asked), error, as_json=as_json)
                raise
            terminal.say_answer(answer, as_json=as_json)


@app.command()
def explain(
    ctx: typer.Context,
    trace_or_user: Annotated[str, typer.Argument(metavar="TRACE_ID|USER")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what went into a context and why: of a past request, or of a new one."""
    _check(trace_or_user, text)
    with _session(ctx).open() as engine:
        if text is None:
            explanation = engine.explain(trace_or_user)
        else:
            explanation = engine.explain_query(trace_or_user, text)
    if as_json:
        terminal.say_json(explanation.to_dict())
        return
    for line in explanation.lines():
        terminal.say(line)


# ── what users decide ─────────────────────────────────────────────────────────────────────────


@app.command()
def consent(
    ctx: typer.Context,
    user: User,
    remember: Annotated[
        bool | None, typer.Option("--remember/--no-remember", help="Keep the history.")
    ] = None,
    learn: Annotated[
        bool | None, typer.Option("--learn/--no-learn", help="Complete it from others.")
    ] = None,
    lend: Annotated[
        Literal["no", "aggregate", "text"] | None, typer.Option(help="What others may get.")
    ] = None,
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="Texts may train a model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a user allows, or change it."""
    _check(user)
    asked = {"remember": remember, "learn": learn, "lend": lend, "train": train}
    changes = {purpose: value for purpose, value in asked.items() if value is not None}
    with _session(ctx).open(create=bool(changes)) as engine:
        allowed = engine.set_consent(user, **changes) if changes else engine.consent(user)
    if lend == "text":
        terminal.notice(
            "lend text: whole items of this user may be quoted to the language model of others, "
            "and so to whoever runs it"
        )
    if remember is False:
        terminal.notice("no-remember: the history of this user was erased")
    terminal.say_fields(allowed, as_json=as_json)


@app.command()
def instruct(ctx: typer.Context, user: User, text: Text) -> None:
    """Keep what a user says outright; it outranks everything inferred."""
    _check(user, text)
    with _session(ctx).open(create=True) as engine:
        engine.instruct(user, text)
    terminal.notice("kept")


@app.command()
def correct(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    user: User,
    interaction_id: InteractionId,
    input: Changed = None,
    response: Changed = None,
    item: Changed = None,
    rating: Annotated[float | None, typer.Option(help="The new value.")] = None,
    label: Changed = None,
    at: Changed = None,
    facet: Changed = None,
    as_json: AsJson = False,
) -> None:
    """Change fields of one interaction."""
    from copersona.interactions import parse_time

    texts = {"input": input, "response": response}
    optional = {"item": item, "label": label, "facet": facet}
    changes: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    changes |= {name: text or None for name, text in optional.items() if text is not None}
    if rating is not None:
        changes["rating"] = rating
    if at is not None:
        changes["at"] = parse_time(at)
    if not changes:
        raise ConfigError("nothing to change; give a field, such as --response TEXT")
    with _session(ctx).open() as engine:
        now = engine.correct(user, interaction_id, **changes)
    terminal.say_json(now) if as_json else terminal.say(f"corrected {now.id}")


@app.command()
def remove(ctx: typer.Context, user: User, interaction_id: InteractionId) -> None:
    """Erase one interaction."""
    with _session(ctx).open() as engine:
        engine.remove(user, interaction_id)
    terminal.notice("removed")


@app.command()
def expire(
    ctx: typer.Context,
    older_than: Annotated[int, typer.Option(min=0, max=100_000, metavar="DAYS")],
    as_json: AsJson = False,
) -> None:
    """Erase the interactions of all users that are older; undated ones stay."""
    with _session(ctx).open() as engine:
        n_erased = engine.expire(time.time() - older_than * _DAY_S)
    terminal.say_json({"erased": n_erased}) if as_json else terminal.say(f"{n_erased:,} erased")


@app.command()
def forget(ctx: typer.Context, user: User, yes: Yes = False, as_json: AsJson = False) -> None:
    """Erase a user everywhere and print the receipt."""
    _check(user)
    with _session(ctx).open() as engine:
        if not yes:
            terminal.ask(f"Forget {user} for good?")
        receipt = engine.forget(user).to_dict()
    terminal.say_fields(receipt, as_json=as_json)


# ── the store and the models ──────────────────────────────────────────────────────────────────


@app.command()
def export(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    as_json: AsJson = False,
) -> None:
    """Write all interactions and consents of the namespace as JSON lines and Parquet."""
    with _session(ctx).open() as engine:
        place = engine.export(directory)
    terminal.say_json({"path": place}) if as_json else terminal.say(str(place))


@app.command()
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Look for damage in the store and the fitted state; exit code 4 where there is any."""
    with _session(ctx).open() as engine:
        problems = engine.doctor()
    if as_json:
        terminal.say_json({"problems": problems})
    else:
        for problem in problems or ["no problems found"]:
            terminal.say(problem)
    raise typer.Exit(4 if problems else 0)


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Show the pinned models and whether they are installed."""
    from copersona import models

    terminal.say_models(models.list_models(), as_json=as_json)


@models_app.command("install")
def install_model(name: str, as_json: AsJson = False) -> None:
    """Fetch and check a model; the language model is converted once."""
    from copersona import models

    with terminal.progress_bars() as report:
        place = models.install(name, progress=report)
    terminal.say_json({"name": name, "path": place}) if as_json else terminal.say(str(place))


def _check(user: str, text: str | None = None) -> None:
    """Refuse a user id or a text that no store would take.

    Raises:
        DataError: empty, oversized, with NUL bytes or not Unicode; names the field.
    """
    from copersona.interactions import check
    from copersona.records import Interaction

    check(Interaction(user=user, response=user if text is None else text))
