"""The verbs by which users decide: what they allow, what they say outright, what is to go.

Each opens the store, makes one call and shows the result, as all commands do; see `cli`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import check, session_of
from copersona.errors import ConfigError

_DAY_S = 86_400


def consent(
    ctx: typer.Context,
    user: opt.User,
    remember: opt.Remember = None,
    learn: opt.Learn = None,
    lend: opt.Lend = None,
    train: opt.Train = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what a user allows, or change it."""
    check(user)
    asked = {"remember": remember, "learn": learn, "lend": lend, "train": train}
    changes = {purpose: value for purpose, value in asked.items() if value is not None}
    with session_of(ctx).open(create=bool(changes)) as engine:
        allowed = engine.set_consent(user, **changes) if changes else engine.consent(user)
    if lend == "text":
        terminal.notice(
            "lend text: whole items of this user may be quoted to the language model of others, "
            "and so to whoever runs it"
        )
    if remember is False:
        terminal.notice("no-remember: the history of this user was erased")
    terminal.say_fields(allowed, as_json=as_json)


def instruct(ctx: typer.Context, user: opt.User, text: opt.Said) -> None:
    """Keep what a user says outright; it outranks all else."""
    check(user, text)
    with session_of(ctx).open(create=True) as engine:
        engine.instruct(user, text)
    terminal.notice("kept")


def correct(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    user: opt.User,
    interaction_id: opt.InteractionId,
    input: opt.Changed = None,
    response: opt.Changed = None,
    item: opt.Changed = None,
    rating: opt.NewRating = None,
    label: opt.Changed = None,
    at: opt.Changed = None,
    facet: opt.Changed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Change fields of one interaction."""
    from copersona.interactions import parse_time  # noqa: PLC0415  `--help` must be quick

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
    with session_of(ctx).open() as engine:
        now = engine.correct(user, interaction_id, **changes)
    terminal.say_json(now) if as_json else terminal.say(f"corrected {now.id}")


def remove(ctx: typer.Context, user: opt.User, interaction_id: opt.InteractionId) -> None:
    """Erase one interaction."""
    with session_of(ctx).open() as engine:
        engine.remove(user, interaction_id)
    terminal.notice("removed")


def expire(ctx: typer.Context, older_than: opt.Days, as_json: opt.AsJson = False) -> None:
    """Erase all interactions older than so many days.

    Of all users; undated ones stay.
    """
    with session_of(ctx).open() as engine:
        n_erased = engine.expire(time.time() - older_than * _DAY_S)
    terminal.say_json({"erased": n_erased}) if as_json else terminal.say(f"{n_erased:,} erased")


def forget(
    ctx: typer.Context,
    user: opt.User,
    yes: opt.Yes = False,
    strict: opt.Strict = False,
    as_json: opt.AsJson = False,
) -> None:
    """Erase a user everywhere and print the receipt."""
    check(user)
    with session_of(ctx).open() as engine:
        if not yes:
            n_rows = len(engine.store.history(engine.namespace, user))
            terminal.ask(f"Forget {user} and {n_rows:,} interactions for good?")
        receipt = engine.forget(user, strict=strict)
    terminal.say_receipt(receipt, as_json=as_json)


def readmit(ctx: typer.Context, user: opt.User) -> None:
    """Take a forgotten user in again, who starts anew."""
    check(user)
    with session_of(ctx).open() as engine:
        engine.readmit(user)
    terminal.notice("readmitted")


VERBS: tuple[Callable[..., None], ...] = (
    consent,
    instruct,
    correct,
    remove,
    expire,
    forget,
    readmit,
)
