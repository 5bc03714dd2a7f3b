"""The command `doctor`: what an operator wants to know of a deployment, and what is wrong with it.

Facts are said, problems end with exit code 4. Nothing is changed, and no language model is asked.
"""

from __future__ import annotations

import platform
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import session_of
from copersona.commands.settings import Settings
from copersona.errors import ArtifactError, NotFittedError
from copersona.language.backends import Backends

if TYPE_CHECKING:
    from copersona.pipeline import CoPersona

LEAST_FREE_BYTES = 256 * 2**20
"""Below this much room a store or the next fitted state may not be written."""


def doctor(ctx: typer.Context, as_json: opt.AsJson = False) -> None:
    """Say how things stand, and look for damage.

    The exit code is 4 where there is any.
    """
    session = session_of(ctx)
    with session.open() as engine:
        facts = dict(_facts(session.settings, engine))
        problems = [*engine.doctor(), *_surroundings(session.settings)]
    if as_json:
        terminal.say_json({"facts": facts, "problems": problems})
    else:
        for name, value in facts.items():
            terminal.say(f"{name}: {value}")
        for problem in problems or ["no problems found"]:
            terminal.say(problem)
    raise typer.Exit(4 if problems else 0)


def _facts(settings: Settings, engine: CoPersona) -> Iterator[tuple[str, str]]:
    store, namespace = engine.store, engine.namespace
    yield "program", f"copersona {version('copersona')}, Python {platform.python_version()}"
    yield "store", store.url
    yield "namespace", namespace
    yield "users", f"{store.n_users(namespace):,}"
    yield "interactions", f"{store.n_interactions(namespace):,}"
    yield "language model", Backends(None, settings.llm).generator_name
    try:
        state = engine.state()
    except (NotFittedError, ArtifactError):  # the second is among the problems
        yield "fitted state", "none that can be served"
        return
    made = datetime.fromtimestamp(state.cut, UTC).isoformat(timespec="seconds")
    yield "fitted state", f"of {made}, {len(state.lenders):,} lenders, {state.n_facets} facets"
    yield "encoder", state.encoder


def _surroundings(settings: Settings) -> Iterator[str]:
    """What may go wrong around the files of this machine."""
    file = settings.store_file
    beside = None if file is None else file.with_name(f"{file.name}.state")
    for path in (file, settings.state or beside):
        if path is None or not path.exists():
            continue
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield f"{path} may be read by others on this machine: chmod go-rwx"
        free = shutil.disk_usage(path).free
        if free < LEAST_FREE_BYTES:
            yield f"{path}: only {free // 2**20} MiB are free there"
