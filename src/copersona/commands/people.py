"""The verbs by which one person is known under several ids, and says what an answer was worth.

Each opens the store, makes one call and shows the result, as all commands do; see `cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import check, session_of
from copersona.errors import ConfigError
from copersona.records import Verdict

Alias = Annotated[str | None, typer.Argument(help="Another id under which the user writes.")]
Remove = Annotated[bool, typer.Option("--remove", help="Let the alias stand for nobody.")]
Into = Annotated[str, typer.Argument(metavar="INTO", help="Who stays.")]
From = Annotated[str, typer.Argument(metavar="FROM", help="Whose history moves.")]
Trace = Annotated[str, typer.Argument(metavar="TRACE_ID", help="As `prompt --json` shows it.")]
Accept = Annotated[bool, typer.Option("--accept", help="The answer was right.")]
Reject = Annotated[bool, typer.Option("--reject", help="The answer was wrong.")]
Edited = Annotated[str, typer.Option(help="What the answer should have been, in the user's words.")]
Answered = Annotated[str, typer.Option("--answer", help="With --accept: what was accepted.")]
Note = Annotated[str, typer.Option(help="Why; kept, not learnt from.")]


def alias(
    ctx: typer.Context,
    user: opt.User,
    alias: Alias = None,
    remove: Remove = False,
    as_json: opt.AsJson = False,
) -> None:
    """Let another id stand for a user, or show those that do."""
    check(user)
    if remove and alias is None:
        raise ConfigError("--remove needs an alias")
    with session_of(ctx).open(create=alias is not None and not remove) as engine:
        if alias is not None:
            check(alias)
            (engine.unalias if remove else engine.alias)(user, alias)
        found = engine.aliases(user)
    if as_json:
        terminal.say_json({"user": user, "aliases": found})
    else:
        for one in found:
            terminal.say(one)


def merge(ctx: typer.Context, into: Into, other: From, as_json: opt.AsJson = False) -> None:
    """Make two users one.

    The stricter of both consents holds; the other id becomes an alias.
    """
    check(into)
    check(other)
    with session_of(ctx).open() as engine:
        merged = engine.merge(into, other)
    terminal.say_fields(merged, as_json=as_json)


def feedback(
    ctx: typer.Context,
    trace_id: Trace,
    accept: Accept = False,
    reject: Reject = False,
    edited: Edited = "",
    answer: Answered = "",
    note: Note = "",
    as_json: opt.AsJson = False,
) -> None:
    """Say what the answer to a past request was worth."""
    if accept + reject + bool(edited) != 1:
        raise ConfigError("say one of --accept, --reject and --edited TEXT")
    check(trace_id, note or None)
    verdict: Verdict = "accept" if accept else "reject" if reject else "edit"
    with session_of(ctx).open() as engine:
        is_stored = engine.feedback(trace_id, verdict, answer=answer, edited=edited, note=note)
    if as_json:
        terminal.say_json({"trace_id": trace_id, "verdict": verdict, "stored": is_stored})
    else:
        terminal.notice("kept, and the words with it" if is_stored else "kept")


VERBS: tuple[Callable[..., None], ...] = (alias, merge, feedback)
