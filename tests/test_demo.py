"""The demonstration: its story has the planted answer, its page stands alone, its command works."""

from __future__ import annotations

import os
import re
import sys
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from copersona.demo import real
from copersona.demo.command import demo
from copersona.demo.page import layer_links, render_page, spring_layout
from copersona.demo.real import population_of
from copersona.demo.story import (
    USER,
    Population,
    Story,
    borrowed_lines,
    demo_people,
    history,
    show,
    tell,
)
from copersona.errors import MissingExtraError
from copersona.records import Interaction


@pytest.fixture(autouse=True)
def no_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPERSONA_MODELS", str(tmp_path / "no-models"))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPERSONA_MODELS", str(folder / "no-models"))
        return tell(folder, demo_people())


def test_three_ways_differ_in_whose_words_they_quote(story: Story) -> None:
    plain, own, completed = story.ways
    assert [message["role"] for message in plain.messages] == ["user"]
    assert {e.origin for e in own.evidence} == {"own"}
    assert "peer" in {e.origin for e in completed.evidence}
    assert [way.answer for way in story.ways] == ["", "", ""]


def test_peers_of_the_asking_user_are_planted_timetable_travellers(story: Story) -> None:
    """Ines never wrote about travel; her peers there write the times of trains."""
    quoted = [e.response for e in story.ways[2].evidence if e.origin == "peer"]
    assert quoted
    assert all(re.search(r"\d", text) for text in quoted)
    travel = max(story.persona.facets, key=lambda f: f.confidence - f.own_confidence)
    assert travel.support == 0
    assert travel.n_contributors >= 3
    assert len(story.peers[travel.facet]) >= travel.n_contributors
    assert USER not in story.peers[travel.facet]


def test_screen_says_that_text_is_lent_and_how_to_get_answers(story: Story) -> None:
    lines: list[str] = []
    show(story, lines.append)
    screen = "\n".join(lines)
    assert "everybody lends text" in screen
    assert "copersona models install smollm2" in screen
    assert all(way.title in screen for way in story.ways)


def test_page_stands_alone(story: Story) -> None:
    page = render_page(story)
    assert not re.search(r"""(src|href)=|url\((?!#)|@import|<script|https?:""", page)
    assert page.count("<svg") == 1 + story.state.graph.n_layers
    assert "QVX7-HALIBUT-3391" not in page
    assert all(facet in page for facet in story.report.facets)


def test_page_shows_the_evidence_with_whose_it_is(story: Story) -> None:
    page = render_page(story)
    for way in story.ways[1:]:
        assert all(escape(e.response) in page for e in way.evidence)
    peers = [e for e in story.ways[2].evidence if e.origin == "peer"]
    assert all(f"{e.author}, a peer" in page for e in peers)
    assert page.count('class="quote peer"') == len(peers)


def test_page_and_screen_say_so_where_nothing_was_borrowed(tmp_path: Path) -> None:
    rows = [
        Interaction(f"u{n}", "What about bread?", f"rye, {n}-{turn}")
        for n in range(4) for turn in range(3)
    ]  # fmt: skip
    found = tell(tmp_path, Population("u0", "Bread?", "4", history(rows)))
    assert all(facet.abstained for facet in found.persona.facets)
    assert "<b>nothing</b> was borrowed" in render_page(found)
    (line,) = borrowed_lines(found)
    assert line.startswith("all ")


def test_page_escapes_what_people_wrote(tmp_path: Path) -> None:
    rows = [
        Interaction(f"<b>{n}</b>", "What about bread?", f"<script>{n}-{turn}</script> & rye")
        for n in range(4) for turn in range(3)
    ]  # fmt: skip
    population = Population("<b>0</b>", "<i>Bread?</i>", "4 of us", history(rows))
    page = render_page(tell(tmp_path, population, llm="echo"))
    assert "<script>" not in page
    assert "<b>0</b>" not in page
    assert "<i>Bread" not in page
    assert 'class="answer"' in page


def test_second_run_replaces_the_store(tmp_path: Path) -> None:
    rows = [
        Interaction(f"u{n}", "What about bread?", f"rye, {n}-{turn}")
        for n in range(4) for turn in range(3)
    ]  # fmt: skip
    tell(tmp_path, Population("u0", "Bread?", "4", history(rows)))
    again = tell(tmp_path, Population("u0", "Bread?", "3", history(rows[:9])))
    assert again.report.n_interactions == 9


def test_links_are_the_nearest_edges_once() -> None:
    neighbours = np.array([[1, 2, 3], [0, 2, -1], [0, 1, -1], [0, -1, -1]])
    is_edge = np.array(
        [[True, False, True], [True, False, False], [False] * 3, [True] + [False] * 2]
    )
    assert layer_links(neighbours, is_edge).tolist() == [[0, 1], [0, 3]]
    assert layer_links(neighbours, np.zeros((4, 3), bool)).shape == (0, 2)


def test_layout_is_the_same_twice_and_keeps_groups_together() -> None:
    links = np.array([(a, b) for g in (0, 5) for a in range(g, g + 5) for b in range(a + 1, g + 5)])
    places = spring_layout(10, links)
    np.testing.assert_array_equal(places, spring_layout(10, links))
    assert places.min() >= 0
    assert places.max() <= 1
    within = np.linalg.norm(places[:5] - places[:5].mean(axis=0), axis=1).mean()
    between = np.linalg.norm(places[:5].mean(axis=0) - places[5:].mean(axis=0))
    assert between > 2 * within


def test_chats_become_answers_of_whoever_wrote_them() -> None:
    def turn(who: str, second: int, *texts: str) -> list[dict[str, str]]:
        at = f"2018-05-02T19:38:{second:02}Z"
        return [{"text": text, "sender": f"{who}-000000", "timestamp": at} for text in texts]

    turns = [turn("ab" if n % 2 else "cd", n, f"line {n}", "more") for n in range(10)]
    population = population_of({"talk": {"messages": turns[:-1]}})
    assert population.user == "person-ab-00000"
    assert not population.is_invented
    assert "2 real people" in population.source
    assert "8 chat messages" in population.source


def test_chats_that_cannot_be_fetched_are_said_so_in_one_sentence() -> None:
    for pip in ([sys.executable, "-c", "raise SystemExit('ERROR: no such host')"], ["/no/pip"]):
        with pytest.raises(MissingExtraError, match=r"could not be fetched .* alone needs neither"):
            real._install(pip)


def test_command_writes_the_page(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(demo)
    session = SimpleNamespace(settings=SimpleNamespace(llm=None))
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "out")], obj=session)
    assert done.exit_code == 0, done.output
    assert "unpersonalised" in done.output.lower()
    assert (tmp_path / "out" / "demo.html").read_text("utf-8").endswith("</html>\n")
    assert os.access(Path(__file__).parents[1] / "scripts" / "demo", os.X_OK)
