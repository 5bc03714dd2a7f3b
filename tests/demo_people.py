"""The invented demo people as a fitted namespace on disk, for tests of the front door."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import copersona
from copersona import Context, CoPersona, Persona
from databases import copy_of

PEOPLE = Path(str(files("copersona.demo") / "people.jsonl"))
TRUTH: dict[str, Any] = json.loads((files("copersona.demo") / "truth.json").read_text("utf-8"))
ROWS: list[dict[str, Any]] = [json.loads(x) for x in PEOPLE.read_text("utf-8").splitlines()]
USERS = sorted({row["user"] for row in ROWS})
SECRET, OWNER = str(TRUTH["secret"]["text"]), str(TRUTH["secret"]["owner"])
JOURNEY = "Plan a night train from Berlin to Paris with one change."
DINNER = "What do you cook on a weeknight, and how long in the oven?"


def opened(folder: Path, namespace: str = "default") -> CoPersona:
    """The people of a folder: in an SQLite file, or where its file `url` says."""
    named = folder / "url"
    return copersona.open(
        named.read_text() if named.exists() else folder / "people.db", namespace=namespace,
        state_dir=folder / "people.db.state", encoder="static", generator="echo",
    )  # fmt: skip


def fitted(folder: Path, *, lend: str | None = None, url: str = "") -> Path:
    """A folder with the demo people in a store, fitted; all of them lending text if asked.

    Args:
        url: of an empty database to put them in, instead of a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if url:
        (folder / "url").write_text(url)
    with opened(folder) as cp:
        cp.ingest(PEOPLE)
        for user in USERS if lend else ():
            cp.set_consent(user, lend=lend)
        cp.fit()
    return folder


def copied(template: Path, target: Path) -> CoPersona:
    """A private copy of a fitted folder, opened."""
    shutil.copytree(template, target)
    named = target / "url"
    if named.exists():
        named.write_text(copy_of(named.read_text()))
    return opened(target)


def shown(context: Context) -> str:
    """All that goes to the language model, as one text."""
    return "\n".join(message["content"] for message in context.messages)


def kinds(context: Context) -> list[str]:
    return [part.kind for part in context.parts]


def peers_of(cp: CoPersona, user: str) -> set[str]:
    """Ids of everybody a user borrows from, in any facet or view."""
    published = cp._required()
    desk = cp._desk(published)
    view = desk.view(user, desk.own_corpus(cp.store.history(cp.namespace, user)))
    rows = {row for done in view.facets.values() for row in done.peers.rows.tolist()}
    return {published[1].lenders[row] for row in rows}


def contributors(persona: Persona) -> int:
    return sum(facet.n_contributors for facet in persona.facets)
