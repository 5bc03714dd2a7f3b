"""All that is stored of one user to answer them from, read at once.

A request reads this before anything else, so its statements are built once: to build one takes
longer than to run it. Knows users by their mark only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from copersona.records import Interaction
from copersona.storage.embedding_cache import vector_of
from copersona.storage.schema import (
    INTERACTION_FIELDS,
    TIME_ORDER,
    embeddings,
    feedback,
    feedback_items,
    instructions,
    interaction_of,
    interactions,
    users,
)

_Vector = NDArray[np.float16]


@dataclass(frozen=True)
class Remembered:
    """What is stored of one user.

    Attributes:
        history: in time order.
        inputs, responses: the embeddings of each interaction's texts; None where not known.
        instructions: in the order they were given.
        verdicts: how often the user accepted, and rejected, answers that were shown an
            interaction, by its id.
    """

    history: tuple[Interaction, ...]
    inputs: tuple[_Vector | None, ...]
    responses: tuple[_Vector | None, ...]
    instructions: tuple[str, ...] = ()
    verdicts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def read(
    connection: sa.Connection, mark: bytes, name: str, encoder: str, before: float | None
) -> Remembered:
    """What is stored of the user of this mark.

    Args:
        name: whose words the interactions are said to be.
        before: only interactions that are older, or have no time.
    """
    asked: dict[str, Any] = {"mark": mark, "encoder": encoder}
    if before is None:
        rows = connection.execute(_HISTORY, asked).all()
    else:
        rows = connection.execute(_HISTORY_BEFORE, {**asked, "before": before}).all()
    said = connection.scalars(_SAID, {"mark": mark}).all()
    return Remembered(
        tuple(interaction_of(name, row) for row in rows),
        tuple(_vector(row.input_vector) for row in rows),
        tuple(_vector(row.response_vector) for row in rows),
        tuple(said), _verdicts(connection, mark),
    )  # fmt: skip


def _vector(stored: bytes | None) -> _Vector | None:
    return None if stored is None else vector_of(stored)


def _verdicts(connection: sa.Connection, mark: bytes) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for one, verdict in connection.execute(_VERDICTS, {"mark": mark}):
        accepted, rejected = found.get(one, (0, 0))
        found[one] = accepted + (verdict == "accept"), rejected + (verdict == "reject")
    return found


def _histories() -> sa.Select[*tuple[Any, ...]]:
    """Interactions of a user in time order, each with the vectors of its input and response."""
    joined, vectors = interactions.join(users), []
    for part in ("input", "response"):
        alias = embeddings.alias()
        vectors.append(alias.c.vector.label(f"{part}_vector"))
        joined = joined.outerjoin(
            alias,
            (alias.c.namespace_id == interactions.c.namespace_id)
            & (alias.c.hash == interactions.c[f"{part}_hash"])
            & (alias.c.encoder == sa.bindparam("encoder")),
        )
    query = sa.select(*INTERACTION_FIELDS, *vectors).select_from(joined)
    return query.where(_IS_THEIRS).order_by(*TIME_ORDER)


_IS_THEIRS = users.c.mark == sa.bindparam("mark")
_HISTORY = _histories()
_HISTORY_BEFORE = _HISTORY.where(
    interactions.c.at.is_(None) | (interactions.c.at < sa.bindparam("before"))
)
_SAID = sa.select(instructions.c.text).join(users).where(_IS_THEIRS).order_by(instructions.c.seq)
_VERDICTS = (
    sa.select(interactions.c.id, feedback.c.verdict)
    .join_from(feedback, users)
    .join(feedback_items, feedback_items.c.feedback_seq == feedback.c.seq)
    .join(interactions, interactions.c.seq == feedback_items.c.interaction_seq)
    .where(_IS_THEIRS)
)
