"""An application as a server of this process: its socket, its log, and how it ends.

On a signal it takes no more requests, answers those it has, and closes what was opened.
"""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from copersona.service.logs import LogFormat, LogLevel, log_to_standard_error

PATIENCE_S = 30
"""How long running requests may take to end once the service is told to."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is any that is free.

    Raises:
        OSError: somebody else has it, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    # The event loop does this for sockets of its own only; without, most answers take 40 ms more.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server_of(app: Starlette) -> uvicorn.Server:
    """What serves an application; it writes no log of requests, since paths name users."""
    return uvicorn.Server(
        uvicorn.Config(
            app, lifespan="on", ws="none", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=PATIENCE_S,
        )
    )  # fmt: skip


def run(
    app: Starlette,
    listening: socket.socket,
    log_format: LogFormat = "text",
    log_level: LogLevel = "warning",
) -> None:
    """Serve until a signal says to end; then the process ends with 0."""
    log_to_standard_error(log_format, log_level)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _end)  # the server, once it is done, raises again what it was told
    server_of(app).run(sockets=[listening])


def _end(_number: int, _frame: object) -> None:
    sys.exit(0)
