"""LiteLLM: a callback of its proxy that personalises every chat request before it goes out.

The tests drive the hook as the proxy does, and what `litellm.acompletion` then sends to a server;
`benchmarks/litellm_hook.py` runs the real proxy, which needs packages beyond `litellm`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from copersona.answering.weaving import asked_in, woven
from copersona.errors import MissingExtraError
from copersona.integrations.contexts import Contexts

try:
    from litellm.integrations.custom_logger import CustomLogger
except ModuleNotFoundError as error:
    raise MissingExtraError("LiteLLM is missing; run: pip install 'copersona[litellm]'") from error

_CHATS = frozenset({"completion", "acompletion"})
_END_USER = "user_api_key_end_user_id"

_log = logging.getLogger("copersona")


class PersonalisedCalls(CustomLogger):
    """Personalises chat requests by their `user`; whatever fails, the request still goes out.

    LiteLLM decides who may call, and lets a caller name any end user: give its keys to servers.

    Args:
        contexts: an open `CoPersona`, or a `Remote`.
    """

    def __init__(self, contexts: Contexts) -> None:
        super().__init__()
        self._contexts = contexts

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """The request, personalised; as it was where it is no chat, names nobody, or it fails."""
        messages, user = data.get("messages"), _user_of(data)
        if call_type not in _CHATS or not isinstance(messages, list) or not user:
            return data
        try:
            text = asked_in(messages)
            if not text:
                return data
            context = await asyncio.to_thread(self._contexts.prompt, user, text)
            return {**data, "messages": woven(messages, context)}
        except Exception as error:  # noqa: BLE001  a call must never fail for want of a persona
            _log.warning("a request goes out unpersonalised: %s", type(error).__name__)
            return data


def _user_of(data: Mapping[str, Any]) -> str:
    """The end user: as the request names them, or as the proxy found out; empty where neither."""
    noted = (data.get("metadata"), data.get("litellm_metadata"))
    named = [data.get("user"), *(one.get(_END_USER) for one in noted if isinstance(one, Mapping))]
    return next((user for user in named if user and isinstance(user, str)), "")
