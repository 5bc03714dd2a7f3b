"""The command line: every verb of the pipeline as a command, and one place where errors end.

A command opens the store, makes one call and shows the result: data on standard output (as JSON
with `--json`), everything else on standard error. Errors become one line and an exit code from one
table. What a verb does is the pipeline's business; here nothing is computed. Imports of what takes
long to load stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from copersona.commands import backups, checkup, decisions, mcp, people, serve, terminal
from copersona.commands import options as opt
from copersona.commands.evaluate import cached_results, evaluate
from copersona.commands.session import Session, check, mask_where_asked, session_of
from copersona.commands.settings import read_settings
from copersona.demo.command import demo
from copersona.errors import (
    BackendError,
    ConfigError,
    CoPersonaError,
    DataError,
    NotFittedError,
    UnknownUserError,
)
from copersona.records import Branches

if TYPE_CHECKING:
    from copersona.pipeline import CoPersona
    from copersona.reports import Explanation, IngestReport

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


@app.callback()
def _begin(
    ctx: typer.Context,
    store: opt.StoreName = None,
    namespace: opt.Namespace = None,
    encoder: opt.Encoder = None,
    llm: opt.Llm = None,
    config: opt.Config = None,
    debug: opt.Debug = False,
    _version: opt.Version = False,
) -> None:
    session = session_of(ctx)
    session.is_debugging = debug
    given = {"store": store, "namespace": namespace, "encoder": encoder, "llm": llm}
    session.settings = read_settings(file=config, given=given)


app.command()(demo)
app.command()(evaluate)
app.command("cache")(cached_results)


# ── histories in, state fitted ────────────────────────────────────────────────────────────────


@app.command()
def ingest(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    files: opt.Files = None,
    user: opt.UserColumn = None,
    input: opt.InputColumn = None,
    response: opt.ResponseColumn = None,
    item: opt.ItemColumn = None,
    rating: opt.RatingColumn = None,
    label: opt.LabelColumn = None,
    at: opt.TimeColumn = None,
    facet: opt.FacetColumn = None,
    format: opt.Format = None,
    whose: opt.Whose = None,
    accept_derived: opt.AcceptDerived = False,
    dataset: opt.Dataset = None,
    keep_consent: opt.KeepConsent = False,
    dry_run: opt.DryRun = False,
    mask_pii: opt.MaskPii = False,
    as_json: opt.AsJson = False,
) -> None:
    """Add the interactions of files, or of a data set.

    Columns are guessed, and the guess is printed.
    """
    from copersona.reading.columns import ColumnMap

    if bool(files) == bool(dataset):
        raise ConfigError("give files, or a data set with --dataset NAME DIR")
    mask_where_asked(session_of(ctx), mask_pii)
    columns = ColumnMap(user, input, response, item, rating, label, at, facet)
    with session_of(ctx).open(create=True) as engine, terminal.progress_bars() as report:
        reads = [
            partial(
                engine.ingest,
                path,
                columns=columns,
                format=format,
                user=whose,
                accept_derived=accept_derived,
                dry_run=dry_run,
                progress=_counted(report, path.name),
            )
            for path in files or ()
        ]
        if dataset:
            told = _counted(report, dataset[0])
            asked: dict[str, Any] = {"consent": None} if keep_consent else {}
            asked |= {"dry_run": dry_run, "progress": told}
            reads = [partial(engine.ingest_dataset, *dataset, **asked)]
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
def fit(ctx: typer.Context, reasoning: opt.Reasoning = False, as_json: opt.AsJson = False) -> None:
    """Learn facets and the persona graph from all who lend."""
    with session_of(ctx).open() as engine, terminal.progress_bars() as report:
        fitted = engine.fit(progress=report)
        if reasoning:
            trained = engine.train(progress=report)
            fitted = replace(fitted, state=trained.state, reasoning=trained.said)
    terminal.say_fitted(fitted, as_json=as_json)


@app.command()
def train(
    ctx: typer.Context,
    graph: opt.Graph = False,
    soft_prompt: opt.SoftPrompt = False,
    gate: opt.Gate = False,
    steps: opt.Steps = None,
    device: opt.Device = "cpu",
    as_json: opt.AsJson = False,
) -> None:
    """Train what goes on top of the fitted state.

    On users who allow it; each part is used where it helps users it has not seen. Graph reasoning
    where nothing is named.
    """
    with session_of(ctx).open() as engine, terminal.progress_bars() as report:
        trained = engine.train(
            graph=graph, soft_prompt=soft_prompt, gate=gate, steps=steps, device=device,
            progress=report,
        )  # fmt: skip
    terminal.say_trained(trained, as_json=as_json)


# ── asking ────────────────────────────────────────────────────────────────────────────────────


@app.command()
def persona(ctx: typer.Context, user: opt.User, as_json: opt.AsJson = False) -> None:
    """Show what is known of a user, and what of it is borrowed."""
    check(user)
    with session_of(ctx).open() as engine:
        found = engine.persona(user)
    terminal.say_json(found) if as_json else terminal.say_persona(found)


@app.command()
def prompt(
    ctx: typer.Context,
    user: opt.User,
    text: opt.Text,
    budget: opt.Budget = None,
    instruction: opt.Instruction = "",
    item: opt.Item = None,
    branches: opt.BranchNames = "text,graph",
    as_json: opt.AsJson = False,
) -> None:
    """Print the personalised messages of one request.

    No language model is called.
    """
    check(user, text)
    with session_of(ctx).open() as engine:
        context = engine.prompt(
            user, text, instruction=instruction, item=item, budget_tokens=budget,
            branches=Branches.named(branches),
        )  # fmt: skip
    terminal.say_json(context) if as_json else terminal.say_messages(context)


@app.command()
def chat(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    user: opt.User,
    text: opt.MaybeText = None,
    budget: opt.Budget = None,
    instruction: opt.Instruction = "",
    item: opt.Item = None,
    max_tokens: opt.MaxTokens = 256,
    temperature: opt.Temperature = None,
    samples: opt.Samples = 1,
    branches: opt.BranchNames = "text,graph",
    as_json: opt.AsJson = False,
) -> None:
    """Answer with the language model, personalised.

    One request, or every line of standard input.
    """
    asked: dict[str, Any] = {"instruction": instruction, "item": item, "budget_tokens": budget,
                             "branches": Branches.named(branches)}  # fmt: skip
    how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "n": samples}
    check(user, text)
    with session_of(ctx).open() as engine:
        engine.language_model()  # where there is none, before anything is computed or stored
        for line in terminal.typed_lines() if text is None else [text]:
            check(user, line)
            context = engine.prompt(user, line, **asked)
            try:
                answer = engine.answer(context, **how)
            except BackendError as error:
                terminal.say_unanswered(context, error, as_json=as_json)
                raise
            terminal.say_answer(answer, as_json=as_json)


@app.command()
def vote(
    ctx: typer.Context,
    user: opt.User,
    text: opt.Text,
    item: opt.Item = None,
    branches: opt.BranchNames = "text,graph",
    as_json: opt.AsJson = False,
) -> None:
    """Show how a user would label and rate something.

    No language model is called.
    """
    check(user, text)
    with session_of(ctx).open() as engine:
        found = engine.vote(user, text, item=item, branches=Branches.named(branches))
    terminal.say_json(found) if as_json else terminal.say_vote(found)


@app.command()
def explain(
    ctx: typer.Context,
    trace_or_user: opt.TraceOrUser,
    text: opt.NewText = None,
    branches: opt.BranchNames = "text,graph",
    as_json: opt.AsJson = False,
) -> None:
    """Say what went into a context, and why.

    Of a past request by its trace, or of a new one.
    """
    check(trace_or_user, text)
    with session_of(ctx).open() as engine:
        explanation = _explained(engine, trace_or_user, text, Branches.named(branches))
    if as_json:
        terminal.say_json(explanation.to_dict())
        return
    for line in explanation.lines():
        terminal.say(line)


def _explained(
    engine: CoPersona, trace_or_user: str, text: str | None, branches: Branches
) -> Explanation:
    if text is not None:
        return engine.explain_query(trace_or_user, text, branches=branches)
    try:
        return engine.explain(trace_or_user)
    except UnknownUserError as error:
        raise UnknownUserError(
            f"{error} as {trace_or_user}; to explain a new request: copersona explain USER TEXT"
        ) from error


for _verb in (*decisions.VERBS, *people.VERBS, *backups.VERBS):
    app.command()(_verb)

app.command()(serve.serve)
app.command()(checkup.doctor)
app.command()(mcp.mcp)
app.command()(serve.audit)
app.add_typer(serve.keys_app, name="keys")


# ── the store and the models ──────────────────────────────────────────────────────────────────


@app.command()
def export(ctx: typer.Context, directory: opt.Folder, as_json: opt.AsJson = False) -> None:
    """Write everything of the namespace to a folder.

    Interactions as JSON lines and Parquet, all else that is stored of users as JSON.
    """
    with session_of(ctx).open() as engine:
        place = engine.export(directory)
    terminal.say_json({"path": place}) if as_json else terminal.say(str(place))


@models_app.command("list")
def list_models(as_json: opt.AsJson = False) -> None:
    """Show the pinned models and whether they are installed."""
    from copersona.language import models

    terminal.say_models(models.list_models(), as_json=as_json)


@models_app.command("install")
def install_model(name: opt.ModelName, as_json: opt.AsJson = False) -> None:
    """Fetch and check a model."""
    from copersona.language import models

    with terminal.progress_bars() as report:
        place = models.install(name, progress=report)
    terminal.say_json({"name": name, "path": place}) if as_json else terminal.say(str(place))
