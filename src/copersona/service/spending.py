"""The route that tells what chats took: tokens, requests and, where prices are known, cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from copersona.service.answers import UsageAnswer, UsagesAnswer
from copersona.service.gateway import Price
from copersona.service.parameters import Asker, TheGateway
from copersona.storage.usage_log import Usage

router = APIRouter(tags=["usage"])


@router.get("/usage")
def usage(
    access: Asker,
    gateway: TheGateway,
    since: Annotated[date, Query(description="First day, in UTC.")] = date.min,
) -> UsagesAnswer:
    """What chats took, by key, user, model and day; users themselves see what theirs took."""
    engine = access.to([], "usage", "admin", by_self="read")
    rows = engine.store.usage.since(engine.namespace, since.isoformat(), mark=access.mark)
    return UsagesAnswer(usage=[_answer(row, gateway.prices) for row in rows])


def _answer(row: Usage, prices: Mapping[str, Price]) -> UsageAnswer:
    answer, price = UsageAnswer.model_validate(row), prices.get(row.model)
    if price is not None:
        paid = row.prompt_tokens * price.input + row.completion_tokens * price.output
        answer.cost = paid / 1e6
    return answer
