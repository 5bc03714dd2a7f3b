"""Personalised messages in front of LangChain's own chat models, and evidence as its documents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    ParrotFakeChatModel,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableConfig

from copersona import CoPersona
from copersona.errors import ConfigError, NotFittedError
from copersona.integrations.contexts import Remote
from copersona.integrations.langchain import CoPersonaRetriever, PersonalisedMessages
from service_people import ANA, BO, SECRETS, SHOP, opened, served, stocked

TEXT = "A kettle for the kitchen"
FOR_ANA: RunnableConfig = {"configurable": {"user": ANA}}
FOR_BO: RunnableConfig = {"configurable": {"user": BO}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "x")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[CoPersona]:
    with opened(folder, SHOP) as engine:
        yield engine


def shown(messages: Any) -> str:
    return "\n".join(str(message.content) for message in messages)


def test_what_comes_out_is_the_conversation_with_the_users_own_words(engine: CoPersona) -> None:
    tool = ToolMessage("27 °C", tool_call_id="1")
    asked = HumanMessage([{"type": "text", "text": TEXT}], id="last")
    messages = [SystemMessage("Be kind."), HumanMessage("Hi"), AIMessage("Yes?"), tool, asked]
    found = PersonalisedMessages(engine).invoke(messages, FOR_ANA)
    kept = [one for one in found if one in messages or one.id == "last"]
    assert [one.type for one in kept] == ["system", "human", "ai", "tool", "human"]
    assert [one.type for one in found[:2]] == ["system", "system"]
    assert SECRETS[SHOP] in shown(found)
    assert asked.content == [{"type": "text", "text": TEXT}]


@pytest.mark.parametrize(
    "given",
    [TEXT, ("user", TEXT), {"role": "user", "content": TEXT}, HumanMessage(TEXT),
     ChatPromptTemplate.from_messages([("human", "{what}")]).invoke({"what": TEXT})],
    ids=["text", "pair", "mapping", "message", "prompt"],
)  # fmt: skip
def test_whatever_a_chat_model_takes_is_taken(engine: CoPersona, given: Any) -> None:
    is_one = isinstance(given, tuple | dict | HumanMessage)
    found = PersonalisedMessages(engine).invoke([given] if is_one else given, FOR_ANA)
    assert found[-1].content == TEXT
    assert SECRETS[SHOP] in shown(found)


def test_it_stands_in_front_of_any_chat_model_in_all_its_ways(engine: CoPersona) -> None:
    chain = PersonalisedMessages(engine) | FakeListChatModel(responses=["Boil it."])
    texts = chain | StrOutputParser()
    assert texts.invoke(TEXT, FOR_ANA) == "Boil it."
    assert asyncio.run(texts.ainvoke(TEXT, FOR_ANA)) == "Boil it."
    assert "".join(texts.stream(TEXT, FOR_ANA)) == "Boil it."

    async def streamed() -> str:
        return "".join([piece async for piece in texts.astream(TEXT, FOR_ANA)])

    assert asyncio.run(streamed()) == "Boil it."
    assert texts.batch([TEXT, TEXT], FOR_ANA) == ["Boil it."] * 2


def test_each_of_a_batch_gets_its_own_users_words(engine: CoPersona) -> None:
    personalise = PersonalisedMessages(engine)
    of_ana, of_bo = personalise.batch([TEXT, TEXT], [FOR_ANA, FOR_BO])
    assert SECRETS[SHOP] in shown(of_ana)
    assert SECRETS[SHOP] not in shown(of_bo)
    prompt = ChatPromptTemplate.from_messages([("system", "Be {how}."), ("human", "{what}")])
    chain = prompt | personalise | ParrotFakeChatModel()
    assert chain.invoke({"how": "kind", "what": TEXT}, FOR_ANA).content == TEXT


def test_without_a_user_or_a_fit_it_says_what_is_missing(
    engine: CoPersona, tmp_path: Path
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match="configurable"):
        PersonalisedMessages(engine).invoke(TEXT)
    with opened(tmp_path, SHOP) as empty, pytest.raises(NotFittedError, match="fit"):
        PersonalisedMessages(empty).invoke(TEXT, FOR_ANA)


def test_without_a_request_nothing_is_changed(engine: CoPersona) -> None:
    messages = [SystemMessage("Be kind.")]
    assert PersonalisedMessages(engine).invoke(messages, FOR_ANA) == messages


def test_a_service_gives_the_same_as_an_open_store(folder: Path, engine: CoPersona) -> None:
    with (
        served(folder) as service,
        Remote(service.url, service.key("read"), timeout_s=30) as remote,
    ):
        far = PersonalisedMessages(remote).invoke(TEXT, FOR_ANA)
    near = PersonalisedMessages(engine).invoke(TEXT, FOR_ANA)
    assert [one.type for one in far] == [one.type for one in near]
    assert SECRETS[SHOP] in shown(far)


def test_evidence_comes_as_documents_with_where_it_is_from(engine: CoPersona) -> None:
    retriever = CoPersonaRetriever(copersona=engine, user=ANA)
    for found in (retriever.invoke(TEXT), asyncio.run(retriever.ainvoke(TEXT))):
        own = [one for one in found if one.metadata["origin"] == "own"]
        assert own
        assert all(SECRETS[SHOP] in one.page_content for one in own)
        assert {one.metadata["author"] for one in own} == {"you"}
        assert own[0].id
        assert engine.explain(own[0].metadata["trace_id"])


def test_the_user_of_a_retriever_may_come_with_the_call(engine: CoPersona) -> None:
    retriever = CoPersonaRetriever(copersona=engine, user=BO).configurable_fields(
        user=ConfigurableField(id="user")
    )
    assert SECRETS[SHOP] in str(retriever.invoke(TEXT, FOR_ANA))
    assert SECRETS[SHOP] not in str(retriever.invoke(TEXT))
