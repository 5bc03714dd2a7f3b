"""The commands `serve` and `keys`: the verbs over HTTP, and who may ask.

Each opens the store, makes one call and shows the result, as all commands do; see `cli`. How a
request is answered is the business of `service`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import Session, session_of
from copersona.errors import CoPersonaError, MissingExtraError

if TYPE_CHECKING:
    from copersona.pipeline import CoPersona

Host = Annotated[str, typer.Option(help="Address to listen at.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0: a free one.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="read, write or admin; may be repeated."),
]
ForUser = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Only for this one user.")
]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

keys_app = typer.Typer(help="Keys of the service.", no_args_is_help=True)


def serve(ctx: typer.Context, host: Host = "127.0.0.1", port: Port = 8080) -> None:
    """Serve the verbs over HTTP.

    Every request needs a key; the first start prints one.
    """
    try:
        from copersona.service.app import build_app  # noqa: PLC0415  `--help` must be quick
        from copersona.service.server import listen, run  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        message = "the service is not installed; run: pip install 'copersona[serve]'"
        raise MissingExtraError(message) from error
    from copersona.service.keys import Keys  # noqa: PLC0415  the same

    session = session_of(ctx)
    with listen(host, port) as listening, session.open(create=True) as engine:
        keys = Keys(engine.store.keys)
        if key := keys.first(engine.namespace):
            terminal.notice(f"key for administrators of {engine.namespace!r}, shown once: {key}")
        if host not in _LOOPBACK:
            terminal.notice("keys travel as plain text: put a server with TLS in front of this one")
        address = f"[{host}]" if ":" in host else host
        terminal.notice(f"http://{address}:{listening.getsockname()[1]}")
        run(build_app(partial(_opened, session), keys), listening)


def _opened(session: Session, namespace: str) -> CoPersona:
    engine = session.open(namespace=namespace)
    try:
        engine.repair()
    except CoPersonaError as error:  # whoever was forgotten is served to nobody all the same
        terminal.notice(f"a forget that was cut off is still not complete: {type(error).__name__}")
    return engine


@keys_app.command("create")
def create_key(
    ctx: typer.Context,
    scope: Scopes = None,
    user: ForUser = None,
    as_json: opt.AsJson = False,
) -> None:
    """Make a key, and print it: it is not shown again.

    Of the namespace; with --user a token for one user of it. Scopes: read and write.
    """
    from copersona.service.keys import Keys  # noqa: PLC0415  `--help` must be quick

    with session_of(ctx).open(create=True) as engine:
        key, text = Keys(engine.store.keys).create(
            engine.namespace, scope or ["read", "write"], user=user
        )
    terminal.say_json({"id": key.id, "key": text}) if as_json else terminal.say(text)


@keys_app.command("list")
def list_keys(ctx: typer.Context, user: ForUser = None, as_json: opt.AsJson = False) -> None:
    """Show the keys of the namespace, never their secrets."""
    from copersona.service.keys import Keys  # noqa: PLC0415  `--help` must be quick

    with session_of(ctx).open() as engine:
        kept = Keys(engine.store.keys).of(engine.namespace, user=user)
    terminal.say_keys(kept, as_json=as_json)


@keys_app.command("revoke")
def revoke_key(ctx: typer.Context, key_id: KeyId) -> None:
    """Let a key open nothing any more, from the next request on."""
    from copersona.service.keys import Keys  # noqa: PLC0415  `--help` must be quick

    with session_of(ctx).open() as engine:
        Keys(engine.store.keys).revoke(engine.namespace, key_id)
    terminal.notice("revoked")
