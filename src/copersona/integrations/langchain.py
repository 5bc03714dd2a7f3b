"""LangChain: personalised messages in front of any chat model, and a user's evidence as documents.

chain = PersonalisedMessages(cp) | model
chain.invoke("Plan two days in Porto", {"configurable": {"user": "ana"}})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from copersona.answering.weaving import asked_in, woven
from copersona.errors import ConfigError, MissingExtraError
from copersona.integrations.contexts import Contexts
from copersona.pipeline import CoPersona
from copersona.records import Context, Evidence

try:
    from langchain_core.callbacks import (
        CallbackManagerForChainRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import BaseMessage, ChatMessage, convert_to_messages
    from langchain_core.prompt_values import PromptValue
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable, RunnableConfig
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "LangChain is missing; run: pip install 'copersona[langchain]'"
    ) from error

_ROLES = {"human": "user", "ai": "assistant"}


class PersonalisedMessages(Runnable[LanguageModelInput, list[BaseMessage]]):
    """Messages or a prompt in, the same messages personalised out.

    The user is `config["configurable"]["user"]`.

    Args:
        contexts: an open `CoPersona`, or a `Remote`.
    """

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[BaseMessage]:
        """The personalised messages.

        Raises:
            ConfigError: no user is named.
            CoPersonaError: there is no context; see `CoPersona.prompt` and `Remote.prompt`.
        """
        return self._call_with_config(self._personalised, input, config, **kwargs)

    def _personalised(
        self,
        given: LanguageModelInput,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> list[BaseMessage]:
        user = (config.get("configurable") or {}).get("user")
        if not isinstance(user, str) or not user:
            raise ConfigError('nobody to personalise for: config={"configurable": {"user": …}}')
        messages = list(map(_wrapped, _messages_of(given)))
        if text := asked_in(messages):
            messages = woven(messages, self._contexts.prompt(user, text))
        return list(map(_unwrapped, messages))


class CoPersonaRetriever(BaseRetriever):
    """What of a user's history, and of others who allow it, fits a query: one document each.

    For a user who changes with every call:
    `retriever.configurable_fields(user=ConfigurableField(id="user"))`.
    """

    copersona: CoPersona
    """Whose histories; evidence does not travel over HTTP."""
    user: str
    """Whose request a query is."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        context = self.copersona.prompt(self.user, query)
        return [_document(evidence, context) for evidence in context.evidence]


def _document(evidence: Evidence, context: Context) -> Document:
    """What was written, or what it was about, and whose it is; others have pseudonyms."""
    provenance = {
        "origin": evidence.origin, "author": evidence.author, "input": evidence.input,
        "facet": evidence.facet, "score": evidence.score, "rating": evidence.rating,
        "label": evidence.label, "at": evidence.at, "trace_id": context.trace_id,
    }  # fmt: skip
    return Document(
        evidence.response or evidence.input, id=evidence.interaction_id, metadata=provenance
    )


def _wrapped(message: BaseMessage) -> dict[str, Any]:
    """A message as the mapping that weaving knows, which remembers where it comes from."""
    role = message.role if isinstance(message, ChatMessage) else message.type
    return {"role": _ROLES.get(role, role), "content": message.content, "message": message}


def _unwrapped(one: dict[str, Any]) -> BaseMessage:
    """The message itself where there was one, else one of its role."""
    if "message" not in one:
        return convert_to_messages([one])[0]
    message: BaseMessage = one["message"]
    is_same = message.content == one["content"]
    return message if is_same else message.model_copy(update={"content": one["content"]})


def _messages_of(given: LanguageModelInput) -> Sequence[BaseMessage]:
    if isinstance(given, PromptValue):
        return given.to_messages()
    return convert_to_messages([given] if isinstance(given, str) else given)
