"""The commands `serve`, `keys` and `audit`: the verbs over HTTP, who may ask, and who did.

Each opens the store, makes one call and shows the result, as all commands do; see `cli`. How a
request is answered is the business of `service`.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from copersona.commands import options as opt
from copersona.commands import terminal
from copersona.commands.session import Session, mask_where_asked, session_of
from copersona.errors import CoPersonaError, MissingExtraError

if TYPE_CHECKING:
    from socket import socket

    from copersona.pipeline import CoPersona
    from copersona.service.keys import Keys
    from copersona.service.upstream import Upstream

Host = Annotated[str, typer.Option(help="Address to listen at.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0: a free one.")]
Capture = Annotated[
    bool, typer.Option("--capture", help="Keep what users say in chats, as their own words.")
]
Holdout = Annotated[
    float, typer.Option(min=0, max=1, help="Share of chats to answer unpersonalised, to compare.")
]
HoldoutBy = Annotated[
    Literal["user", "request"], typer.Option(help="What is drawn for the holdout.")
]
Prices = Annotated[
    Path | None,
    typer.Option(help='JSON file: {MODEL: {"input": …, "output": …}}, for a million tokens.'),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="read, write or admin; may be repeated."),
]
ForUser = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Only for this one user.")
]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")]

RefitAfter = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, metavar="SHARE", help="Share of changed users that refits."),
]
Rate = Annotated[
    int, typer.Option(min=0, metavar="N", help="Requests a minute of one key; 0: any number.")
]
AuditDays = Annotated[
    int, typer.Option(min=1, max=100_000, metavar="DAYS", help="How long audit lines are kept.")
]
Otel = Annotated[
    str | None,
    typer.Option(metavar="ENDPOINT", help="Send spans there, as OTLP over HTTP (…/v1/traces)."),
]
LogFormat = Annotated[Literal["text", "json"], typer.Option(help="Form of the log.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option(help="What is logged; info: every request, by its route."),
]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Nothing older.")]
Lines = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Most lines.")]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

keys_app = typer.Typer(help="Keys of the service.", no_args_is_help=True)


def serve(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    capture: Capture = False,
    holdout: Holdout = 0.0,
    holdout_by: HoldoutBy = "user",
    prices: Prices = None,
    mask_pii: opt.MaskPii = False,
    refit_after: RefitAfter = 0.1,
    rate: Rate = 0,
    audit_days: AuditDays = 90,
    otel: Otel = None,
    log_format: LogFormat = "text",
    log_level: LogLevel = "warning",
) -> None:
    """Serve the verbs over HTTP, and chats for any OpenAI client.

    Every request needs a key; the first start prints one. Chats go to the language model of --llm.
    """
    try:
        from copersona.service.app import build_app  # noqa: PLC0415  `--help` must be quick
        from copersona.service.gateway import Gateway, read_prices  # noqa: PLC0415  the same
        from copersona.service.server import listen, run  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
            raise
        message = "the service is not installed; run: pip install 'copersona[serve]'"
        raise MissingExtraError(message) from error
    from copersona.service.keys import Keys  # noqa: PLC0415  the same
    from copersona.service.operation import Operation  # noqa: PLC0415  the same
    from copersona.service.tracing import provider_to  # noqa: PLC0415  the same

    session = session_of(ctx)
    mask_where_asked(session, mask_pii)
    table = {} if prices is None else read_prices(prices)
    with (
        ExitStack() as at_end,
        listen(host, port) as listening,
        session.open(create=True) as engine,
    ):
        tracers = None if otel is None else provider_to(otel)
        if tracers is not None:
            at_end.callback(tracers.shutdown)
        keys = Keys(engine.store.keys)
        announce(keys, engine.namespace, host, listening)
        operation = Operation(
            engine.store, refit_after=refit_after, requests_per_minute=rate,
            audit_days=audit_days, tracers=tracers,
        )  # fmt: skip
        gateway = Gateway(_upstream(session, engine), capture, holdout, holdout_by, table)
        app = build_app(partial(opened, session), keys, operation, gateway)
        run(app, listening, log_format, log_level)


def _upstream(session: Session, engine: CoPersona) -> Upstream:
    """The language model that is configured, as chats are sent to it."""
    from copersona.language.generation import endpoint_named  # noqa: PLC0415  as above
    from copersona.service.local_upstream import LocalUpstream  # noqa: PLC0415
    from copersona.service.upstream import RemoteUpstream  # noqa: PLC0415

    named = endpoint_named(session.settings.llm or "")
    if named is None:
        return LocalUpstream(engine.language_model)
    model, base_url = named
    return RemoteUpstream(base_url, model, session.settings.api_key)


def announce(keys: Keys, namespace: str, host: str, listening: socket, path: str = "") -> None:
    """Say where the service is, and with the first start the key that opens it."""
    if key := keys.first(namespace):
        terminal.notice(f"key for administrators of {namespace!r}, shown once: {key}")
    if host not in _LOOPBACK:
        terminal.notice("keys travel as plain text: put a server with TLS in front of this one")
    address = f"[{host}]" if ":" in host else host
    terminal.notice(f"http://{address}:{listening.getsockname()[1]}{path}")


def opened(session: Session, namespace: str) -> CoPersona:
    """The front door of a namespace, with what was cut off there completed."""
    engine = session.open(namespace=namespace)
    try:
        engine.repair()
    except CoPersonaError as error:  # whoever was forgotten is served to nobody all the same
        terminal.notice(f"a forget that was cut off is still not complete: {type(error).__name__}")
    return engine


def audit(
    ctx: typer.Context,
    user: ForUser = None,
    since: Since = None,
    limit: Lines = 1_000,
    as_json: opt.AsJson = False,
) -> None:
    """Show who asked or did what over HTTP, newest first.

    Users are named by a mark, also those who were forgotten.
    """
    from copersona.interactions import parse_time  # noqa: PLC0415  `--help` must be quick

    start = parse_time(since) or 0.0
    with session_of(ctx).open() as engine:
        lines = engine.store.audit.lines(engine.namespace, user=user, since=start, limit=limit)
    terminal.say_audit(lines, as_json=as_json)


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
