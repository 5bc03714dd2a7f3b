"""Real people for the demonstration: open-domain chats of the package `chitchat-dataset` (MIT).

Two strangers chat; a message is answered by the other, and the answer is an interaction of the one
who wrote it. A part of the chats is taken, always the same one. The package is only needed when
this is asked for, and nothing of it is kept anywhere but in the demonstration's folder.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from copersona.demo.story import Population, history
from copersona.errors import DataError, MissingExtraError
from copersona.interactions import parse_time
from copersona.records import Interaction

REQUEST = "What do you like to do on a free weekend?"

_N_CONVERSATIONS = 600
_SPARSE = 4
_PER_USER = 40


def real_people() -> Population:
    """Some hundred people of the package, one with few messages asking.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        package = importlib.import_module("chitchat_dataset")
    except ImportError as error:
        raise MissingExtraError(
            "chitchat-dataset is not installed; run: pip install 'copersona[demo-real]'"
        ) from error
    return population_of(package.Dataset())


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
