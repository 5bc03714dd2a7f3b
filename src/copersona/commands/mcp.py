"""The command `mcp`: the verbs as tools for assistants that speak the Model Context Protocol.

Opens the store and says who may ask; how a call is answered is the business of `service`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from copersona.commands.serve import ForUser, Host, Port, announce, opened
from copersona.commands.session import session_of
from copersona.errors import ConfigError, MissingExtraError

OverHttp = Annotated[bool, typer.Option("--http", help="Serve over HTTP; every call needs a key.")]


def mcp(
    ctx: typer.Context,
    user: ForUser = None,
    http: OverHttp = False,
    host: Host = "127.0.0.1",
    port: Port = 8080,
) -> None:
    """Serve the verbs as tools (MCP).

    Over standard input and output, where whoever starts it may do everything in the namespace, or
    with --user what this one user may; or over HTTP.
    """
    try:
        from copersona.service import mcp as service  # noqa: PLC0415  `--help` must be quick
        from copersona.service import server  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("fastapi", "mcp", "mcp_types", "starlette", "uvicorn"):
            raise
        message = "the MCP server is not installed; run: pip install 'copersona[mcp]'"
        raise MissingExtraError(message) from error
    from copersona.service.keys import Keys  # noqa: PLC0415  the same
    from copersona.service.logs import log_to_standard_error  # noqa: PLC0415  the same
    from copersona.service.operation import Operation  # noqa: PLC0415  the same

    session = session_of(ctx)
    if not http:
        with session.open(create=True) as engine:
            log_to_standard_error("text", "warning")
            service.build_local_server(engine, user=user).run("stdio")
        return
    if user is not None:
        raise ConfigError("over HTTP a key says who asks: copersona keys create --user USER")
    with server.listen(host, port) as listening, session.open(create=True) as engine:
        keys = Keys(engine.store.keys)
        announce(keys, engine.namespace, host, listening, service.PATH)
        operation = Operation(engine.store)
        app = service.build_mcp_app(partial(opened, session), keys, operation, host)
        server.run(app, listening)
