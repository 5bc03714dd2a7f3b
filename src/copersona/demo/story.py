"""The demonstration: one sparse user asks for something never asked before, answered three ways.

A population goes into a fresh store, everybody lends text, the state is fitted, and the same
request is put unpersonalised, from own history only (learning switched off) and completed from
peers. Everything goes through the public API; what comes out is plain records for a screen or a
page. This module prints nothing and never reads what was planted in the demo people.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from copersona.errors import MissingExtraError
from copersona.language.backends import LOCAL_MODEL
from copersona.language.generation import Generator, LocalGenerator, open_generator
from copersona.method.fitted import FittedState
from copersona.pipeline import CoPersona
from copersona.records import Context, ContextPart, Evidence, Interaction, Persona
from copersona.reports import FitReport

USER = "ines"
REQUEST = "Plan a two-day train trip from Vienna."
GET_ANSWERS = (
    "No language model is at hand, so you see what one would be sent. For answers: "
    "`copersona models install smollm2` (needs `pip install 'copersona[local]'`), or give an "
    "endpoint: `copersona --llm openai:MODEL@URL demo`."
)
SMALL_MODEL = (
    "It is a very small model: its facts are wrong and it may lose the thread of a long context. "
    "Compare what it was sent; for real answers give an endpoint: "
    "`copersona --llm openai:MODEL@URL demo`."
)

_STORE = "copersona-demo.db"
_MAX_TOKENS = 200

Say = Callable[[str], None]


@dataclass(frozen=True)
class Population:
    """Who takes part, and who asks what.

    Attributes:
        source: what the page says about where these people come from.
        is_invented: False where real people wrote the texts.
    """

    user: str
    request: str
    source: str
    fill: Callable[[CoPersona], None]
    is_invented: bool = True


@dataclass(frozen=True)
class Way:
    """The request put in one of the three ways.

    Attributes:
        answer: empty where no language model was at hand.
    """

    title: str
    says: str
    messages: tuple[Mapping[str, str], ...]
    parts: tuple[ContextPart, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    tokens: int = 0
    answer: str = ""


@dataclass(frozen=True)
class Story:
    """Everything the demonstration shows.

    Attributes:
        personas: of every user, by user id.
        peers: facet number → lenders who stand in for the asking user there.
        model: name of the language model; empty where there was none.
    """

    population: Population
    report: FitReport
    ways: tuple[Way, ...]
    personas: Mapping[str, Persona]
    peers: Mapping[int, tuple[str, ...]]
    state: FittedState
    model: str

    @property
    def persona(self) -> Persona:
        """The persona of the user who asks."""
        return self.personas[self.population.user]


def demo_people() -> Population:
    """The invented people that come with the package."""
    return Population(USER, REQUEST, "60 invented people, 432 short texts", _ingest_people)


def _ingest_people(engine: CoPersona) -> None:
    with as_file(files("copersona.demo") / "people.jsonl") as path:
        engine.ingest(path)


def tell(folder: Path, population: Population, *, llm: str | None = None) -> Story:
    """Run the demonstration in a folder; a store of an earlier run there is replaced.

    Raises:
        BackendError: the language model that was asked for failed.
    """
    generator = _language_model(llm)
    with CoPersona.open(_fresh_store(folder), encoder="static") as engine:
        population.fill(engine)
        users = engine.store.users(engine.namespace)
        for user in users:
            engine.set_consent(user, lend="text")
        report = engine.fit()
        ways = tuple(_ways(engine, population, generator))
        personas = {user: engine.persona(user) for user in users}
        state = engine.state()
    return Story(
        population, report, ways, personas, _peers(state, population.user), state,
        generator.name if generator else "",
    )  # fmt: skip


def _fresh_store(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_STORE, f"{_STORE}-wal", f"{_STORE}-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / f"{_STORE}.state", ignore_errors=True)
    return folder / _STORE


def _language_model(spec: str | None) -> Generator | None:
    """What was asked for, else the local model where it is installed."""
    if spec:
        return open_generator(spec)
    try:  # one thread: where the processors are shared, two wait for each other
        return LocalGenerator(LOCAL_MODEL.removeprefix("local:"), threads=1)
    except MissingExtraError:
        return None


def _ways(engine: CoPersona, population: Population, generator: Generator | None) -> Iterator[Way]:
    user, request = population.user, population.request

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        return generator.generate(list(messages), max_tokens=_MAX_TOKENS) if generator else ""

    def way(title: str, says: str, context: Context) -> Way:
        return Way(title, says, context.messages, context.parts, context.evidence,
                   context.tokens, answer(context.messages))  # fmt: skip

    plain: tuple[Mapping[str, str], ...] = ({"role": "user", "content": request},)
    yield Way("Unpersonalised", "The request alone.", plain, answer=answer(plain))
    engine.set_consent(user, learn=False)
    yield way(
        "Own history only",
        f"Learning from others is switched off: only what {user} wrote.",
        engine.prompt(user, request),
    )
    engine.set_consent(user, learn=True)
    yield way(
        "CoPersona",
        f"What {user} wrote, completed from peers where they agree well enough.",
        engine.prompt(user, request),
    )


def _peers(state: FittedState, user: str) -> dict[int, tuple[str, ...]]:
    """Who stands in for a user, facet by facet; empty where nothing was borrowed."""
    evidence = state.evidence.take(np.array([state.row_of[user]]))
    view = state.view(user, evidence, may_lend=lambda _: True)
    return {
        number: () if facet.abstained else tuple(state.lenders[row] for row in facet.peers.rows)
        for number, facet in view.facets.items()
    }


def show(story: Story, say: Say) -> None:
    """Say the story line by line, for a terminal."""
    population, report = story.population, story.report
    say(f"{population.source}; fitted in {report.seconds:.1f} s.")
    say(f"{len(report.facets)} facets were found: {'; '.join(report.facets)}")
    say("In this demonstration everybody lends text: whole messages may be quoted to the language "
        "model of others. The default is statistics only.")  # fmt: skip
    say(f"\n{population.user} has {story.persona.n_interactions} interactions and asks: "
        f"{population.request}")  # fmt: skip
    for number, way in enumerate(story.ways, start=1):
        say(f"\n== {number}. {way.title} ==  {way.says}")
        for line in _way_lines(way):
            say(line)
    say("\nWhat was borrowed:")
    for line in borrowed_lines(story):
        say(f"  {line}")
    say(f"\n{answers_note(story)}")


def answers_note(story: Story) -> str:
    """Who answered and what that is worth, or how to get answers."""
    if not story.model:
        return GET_ANSWERS
    if story.model == LOCAL_MODEL:
        return f"Answers by {story.model}. {SMALL_MODEL}"
    return f"Answers by {story.model}."


def _way_lines(way: Way) -> Iterator[str]:
    if not way.parts:
        yield "  nothing is added to the request"
    for part in way.parts:
        yield f"  + {part.kind}, {part.tokens} tokens: {part.reason}"
    for message in way.messages:
        yield f"  [{message['role']}]"
        yield from (f"  | {line}" for line in message["content"].splitlines())
    if way.answer:
        yield "  [answer of the language model]"
        yield from (f"  > {line}" for line in way.answer.splitlines())


def borrowed_lines(story: Story) -> list[str]:
    """One sentence for every facet in which something was borrowed, and one for the rest."""
    borrowed = [facet for facet in story.persona.facets if not facet.abstained]
    lines = [
        f"{facet.name}: from {facet.n_contributors} people (agreement {facet.agreement:.2f}); "
        f"confidence {facet.own_confidence:.2f} → {facet.confidence:.2f}, "
        f"{facet.support:g} own interactions"
        for facet in borrowed
    ]
    n_rest = len(story.persona.facets) - len(borrowed)
    if not n_rest:
        return lines
    rest = f"{n_rest} other facets" if lines else f"all {n_rest} facets"
    return [*lines, f"{rest}: nothing, the evidence was too weak"]


def history(rows: Sequence[Interaction]) -> Callable[[CoPersona], None]:
    """A way to fill a store from interactions at hand."""

    def fill(engine: CoPersona) -> None:
        engine.add(rows)

    return fill
