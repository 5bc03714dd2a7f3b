"""The commands `backup`, `restore`, `backups` and `repair`: copies of a store, departures cut off.

Each opens the store, makes one call and shows the result, as all commands do; see `cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import session_of
from copersona.errors import ConfigError

if TYPE_CHECKING:
    from copersona.storage.backup_log import TakenBackup

Place = Annotated[Path, typer.Argument(metavar="DIR", help="What `backup` wrote.")]
KnownTo = Annotated[
    str | None,
    typer.Option(
        "--tombstones", metavar="PATH_OR_URL",
        help="The store that was in use until now: it knows who was forgotten.",
    ),
]  # fmt: skip
Lost = Annotated[
    bool,
    typer.Option("--lost", help="That store is lost; who was forgotten stands beside the backup."),
]
Dropped = Annotated[
    str | None, typer.Option("--drop", metavar="ID", help="No copy of this one is left anywhere.")
]


def backup(ctx: typer.Context, directory: opt.Folder, as_json: opt.AsJson = False) -> None:
    """Write store and fitted states to a folder.

    With all namespaces.
    """
    with session_of(ctx).open() as engine:
        taken = engine.back_up(directory)
    terminal.say_json(taken) if as_json else terminal.say(_line(taken))


def backups(ctx: typer.Context, drop: Dropped = None, as_json: opt.AsJson = False) -> None:
    """Show which backups were taken.

    Receipts of `forget` list them.
    """
    with session_of(ctx).open() as engine:
        if drop:
            engine.store.backups.remove(drop)
        kept = engine.store.backups.all()
    if as_json:
        terminal.say_json({"backups": kept})
        return
    for taken in kept:
        terminal.say(_line(taken))


def restore(
    ctx: typer.Context,
    directory: Place,
    tombstones: KnownTo = None,
    lost: Lost = False,
    as_json: opt.AsJson = False,
) -> None:
    """Make a store of a backup where there is none.

    Who was forgotten since then is erased again: --tombstones or --lost says how that is known.
    """
    from copersona.backups import restore as restored_from  # noqa: PLC0415  `--help` must be quick
    from copersona.published import state_folder  # noqa: PLC0415  the same
    from copersona.storage.store import Store  # noqa: PLC0415  the same

    if (tombstones is None) is not lost:
        raise ConfigError(
            "say who was forgotten since the backup: --tombstones STORE names the store that was "
            "in use until now; --lost, where it is lost, takes what stands beside the backup"
        )
    session = session_of(ctx)
    settings = session.settings
    url = settings.store_file or settings.store
    with ExitStack() as held:
        known = [held.enter_context(Store.open(tombstones, create=False))] if tombstones else []
        done = restored_from(directory, url, state_folder(url, settings.state), known)
    with Store.open(url, create=False) as store:
        left_in = store.departures.namespaces()
    for namespace in left_in:
        with session.open(namespace=namespace) as engine:
            engine.repair()
    if as_json:
        terminal.say_json(done)
    else:
        terminal.say(f"restored: {_line(done.backup)}")
        terminal.say(f"forgotten since then, and erased again: {done.n_erased:,} users")


def repair(ctx: typer.Context, as_json: opt.AsJson = False) -> None:
    """Complete what a killed process left of forgetting.

    Of the namespace; where a fitted state has to be made anew, it fits.
    """
    with session_of(ctx).open() as engine:
        count = engine.repair()
    terminal.say_json({"completed": count}) if as_json else terminal.say(f"completed: {count:,}")


def _line(taken: TakenBackup) -> str:
    return f"{taken.id}  {datetime.fromtimestamp(taken.at, UTC):%Y-%m-%d %H:%M} UTC  {taken.place}"


VERBS: tuple[Callable[..., None], ...] = (backup, restore, backups, repair)
