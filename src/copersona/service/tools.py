"""The verbs as tools of an MCP server: the same handlers as over HTTP, behind the same access.

A tool is a request body and the handler that answers it, so that a verb takes, allows and says the
same by either way. Who asks is not known here: whoever builds the server says how an `Access` is
found for a call.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import create_model
from starlette.exceptions import HTTPException

from copersona.errors import CoPersonaError, NotFittedError
from copersona.service import answers, asking, histories
from copersona.service.access import Access
from copersona.service.metrics import Metrics
from copersona.service.problems import answered
from copersona.service.requests import (
    Body,
    ConsentChange,
    ContextRequest,
    NewInstruction,
    NewInteractions,
    User,
    VoteRequest,
)
from copersona.service.tracing import Tracing
from copersona.service.watch import Notes

AccessOf = Callable[[Context[Any, Any]], Access]
"""What whoever made a call may do."""

_log = logging.getLogger("copersona.service")


class AboutUser(Body):
    """Which user a tool is about."""

    user: User
    """A user id."""


class AboutTrace(Body):
    """Which past request a tool is about."""

    trace_id: str
    """As it came with the context."""


class Forgetting(AboutUser):
    """Whom to forget, and how."""

    strict: bool = False
    """Serve nothing that was trained on the user until it is trained anew."""


class Instructing(AboutUser, NewInstruction):
    """What a user says outright."""


class ConsentChanging(AboutUser, ConsentChange):
    """What a user allows from now on; what is left out stays as it is."""


class Nothing(Body):
    """No arguments."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One tool.

    Attributes:
        takes: its arguments.
        does: what answers it.
        gives: what it answers with; None where there is nothing to say.
        is_reading: whether it leaves everything as it was.
        is_erasing: whether it may erase something.
        is_repeatable: whether doing it twice does no more than doing it once.
    """

    name: str
    takes: type[Body]
    does: Callable[[Any, Access, Notes], Any]
    gives: type[answers.Answer] | None
    says: str
    is_reading: bool = False
    is_erasing: bool = False
    is_repeatable: bool = True

    @property
    def annotations(self) -> ToolAnnotations:
        """What a client may ask its user about before it calls."""
        return ToolAnnotations(
            read_only_hint=self.is_reading, destructive_hint=self.is_erasing,
            idempotent_hint=self.is_repeatable, open_world_hint=False,
        )  # fmt: skip


def fit_status(_: Nothing, access: Access, _notes: Notes) -> answers.FitStatusAnswer:
    """What is fitted."""
    engine = access.to([], "fit status", "read")
    try:
        state = engine.state()
    except NotFittedError:
        return answers.FitStatusAnswer(is_fitted=False, fitted_at=None, facets=[])
    return answers.FitStatusAnswer(
        is_fitted=True, fitted_at=state.cut, facets=list(state.facets.names)
    )


def _set_consent(asked: ConsentChanging, access: Access, _: Notes) -> answers.ConsentAnswer:
    change = ConsentChange(**asked.model_dump(exclude={"user"}))
    return histories.set_consent(asked.user, change, access)


VERBS = (
    Verb("add", NewInteractions, histories.add_interactions, answers.Outcomes,
         "Store what users said themselves, never what a model said; one outcome for each."),
    Verb("prompt", ContextRequest, asking.context, answers.ContextAnswer,
         "Personalise a request: messages for any chat model, and what was added and why. Keeps a "
         "trace of it.", is_repeatable=False),
    Verb("persona", AboutUser, lambda asked, access, _: asking.persona(asked.user, access),
         answers.PersonaAnswer, "What is known of a user, and what of it is borrowed from others.",
         is_reading=True),
    Verb("vote", VoteRequest, lambda asked, access, _: asking.vote(asked, access),
         answers.VoteAnswer, "How a user would label and rate something.", is_reading=True),
    Verb("explain", AboutTrace, lambda asked, access, _: asking.explain(asked.trace_id, access),
         answers.ExplanationAnswer, "Why a past request was personalised as it was.",
         is_reading=True),
    Verb("instruct", Instructing,
         lambda asked, access, _: histories.instruct(asked.user, asked, access), None,
         "Keep what a user says outright about how to be answered; it outranks all else.",
         is_repeatable=False),
    Verb("get_consent", AboutUser, lambda asked, access, _: histories.consent(asked.user, access),
         answers.ConsentAnswer, "What a user allows.", is_reading=True),
    Verb("set_consent", ConsentChanging, _set_consent, answers.ConsentAnswer,
         "Change what a user allows; `remember` false erases the history at once.",
         is_erasing=True),
    Verb("export", AboutUser, lambda asked, access, _: histories.export_user(asked.user, access),
         answers.ExportAnswer, "Everything that is stored of a user.", is_reading=True),
    Verb("forget", Forgetting,
         lambda asked, access, _: histories.forget_user(asked.user, access, asked.strict),
         answers.ReceiptAnswer, "Erase a user everywhere, for good, with a receipt.",
         is_erasing=True),
    Verb("fit_status", Nothing, fit_status, answers.FitStatusAnswer,
         "Whether anything is fitted, when, and into which facets.", is_reading=True),
)  # fmt: skip


def build_server(access_of: AccessOf, *, about: str = "", **options: Any) -> MCPServer[Any]:
    """An MCP server with all verbs.

    Args:
        access_of: raises or gives what whoever made a call may do.
        about: what the model is told besides.
        options: of `MCPServer`.
    """
    instructions = (
        "Personalises requests from what users said before. `prompt` gives the messages to answer; "
        f"`add` takes the user's own words only. {about}"
    )
    unread = Metrics()  # handlers count, and nobody asks
    return MCPServer(
        "copersona", version=version("copersona"), instructions=instructions.strip(),
        tools=[_tool(verb, access_of, unread) for verb in VERBS], subscriptions=False,
        log_level="WARNING", **options,
    )  # fmt: skip


def _tool(verb: Verb, access_of: AccessOf, metrics: Metrics) -> Tool:
    """The verb as the SDK has it, with the body's own fields as arguments, checked as over HTTP."""

    def run(*, asker: Context[Any, Any], **arguments: Any) -> Any:
        try:
            notes = Notes(metrics, Tracing(None))
            return verb.does(verb.takes.model_construct(**arguments), access_of(asker), notes)
        except HTTPException as error:
            raise ToolError(error.detail) from None
        except CoPersonaError as error:
            said = answered(error)
            raise ToolError(f"{said.kind}: {said.detail}") from None
        except Exception as error:  # noqa: BLE001  the last handler: the SDK would log its words
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a bug: %s\n%s", type(error).__name__, where)
            raise ToolError("a bug; see the log of the server") from None

    arguments = create_model(f"{verb.name}_arguments", __base__=(verb.takes, ArgModelBase))
    return Tool(
        fn=run, name=verb.name, description=verb.says, annotations=verb.annotations,
        parameters=arguments.model_json_schema(), is_async=False, context_kwarg="asker",
        fn_metadata=FuncMetadata(arg_model=arguments, output_model=verb.gives),
    )  # fmt: skip
