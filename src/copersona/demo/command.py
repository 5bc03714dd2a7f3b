"""The command `copersona demo`: runs the demonstration, prints it and writes its page.

Only options, the screen and the file are handled here; what is shown is `story`, how the page looks
is `page`. What takes long to load is imported when the command runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Protocol

import typer

PAGE = "demo.html"


class _Settings(Protocol):
    @property
    def llm(self) -> str | None: ...


class _Session(Protocol):
    @property
    def settings(self) -> _Settings: ...


def demo(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the store and the page.")
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="Real chats, fetched once.")] = False,
) -> None:
    """Show what completion does for a sparse user.

    The same request three ways, with the evidence; the pictures are in demo.html.
    """
    from copersona.demo.page import render_page  # noqa: PLC0415  `--help` must be quick
    from copersona.demo.real import real_people  # noqa: PLC0415  the same
    from copersona.demo.story import demo_people, show, tell  # noqa: PLC0415  the same

    session: _Session = ctx.obj
    population = real_people(_notice) if real else demo_people()
    folder = out or Path(tempfile.mkdtemp(prefix="copersona-demo-"))
    story = tell(folder, population, llm=session.settings.llm)
    show(story, _say)
    page = folder / PAGE
    page.write_text(render_page(story), "utf-8")
    typer.echo(f"\nThe pictures are in {page}")


def _notice(line: str) -> None:
    typer.echo(line, err=True)


def _say(line: str) -> None:
    """Print one line; what could move a cursor is made visible."""
    typer.echo("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                       for c in line))  # fmt: skip
