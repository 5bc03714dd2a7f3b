"""The demonstration as one HTML file: coverage, the graph layer by layer, contexts, borrowing.

Everything is inline – CSS, SVG, texts – so the file opens anywhere and loads nothing. Texts of
users are escaped wherever they stand. This module draws what a `Story` holds and computes nothing
about people, save where the dots of the graph stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.demo.story import Story, Way, answers_note
from copersona.records import Evidence, FacetPersona, Persona

Array = NDArray[Any]

SHOWN_USERS = 60
LINKS = 3
"""Nearest linked neighbours drawn per user and layer; all of them would be a blot."""

_CELL, _HALF, _ROW, _LEFT, _TOP = 16, 15, 36, 190, 94
_PANEL, _MARGIN = 372, 16
_OWN = ("#eef1f5", "#c3d5ea", "#8fb4db", "#4f8ac4", "#1d5a99")
_GAIN = ("#fdeee0", "#fbd3a8", "#f5a85b", "#d97a1d")

_WHO = {"own": "own message", "peer": "{}, a peer", "population": "{}, not chosen for likeness"}

_STYLE = """
html{color-scheme:light;background:#fff}
body{font:16px/1.5 system-ui,sans-serif;color:#1c2430;max-width:1200px;margin:0 auto;padding:24px}
h1{font-size:30px;margin:0 0 4px} h2{font-size:21px;margin:44px 0 4px}
p{margin:4px 0 12px;max-width:86ch} .note{background:#fff6dd;border-left:4px solid #d9a21d;
padding:8px 14px} .grid{display:grid;grid-template-columns:repeat(3,1fr);gap:12px}
@media(max-width:900px){.grid{grid-template-columns:1fr} section{overflow-x:auto}}
.card{border:1px solid #d5dae2;border-radius:8px;padding:12px;min-width:0}
.card h3{margin:0;font-size:17px} .card p{font-size:14px;margin:2px 0 8px}
pre{font:12px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;
background:#f6f7f9;padding:8px;border-radius:4px;margin:4px 0}
code{font:13px ui-monospace,monospace;background:#f0f2f5;border-radius:3px;padding:1px 4px}
summary{font-size:14px;cursor:pointer;margin-top:10px;color:#24507f}
.quote{font-size:14px;border-left:4px solid;padding:2px 0 2px 10px;margin:10px 0}
.quote small{display:block;color:#4a5462} .own{border-color:#1d5a99}
.peer{border-color:#d97a1d} .population{border-color:#98a2b0}
.answer{background:#e9f5ec} .role{font-size:13px;color:#4a5462;margin-top:8px}
ul{font-size:14px;padding-left:18px;margin:4px 0} table{border-collapse:collapse;font-size:15px}
td,th{text-align:left;padding:5px 16px 5px 0;border-bottom:1px solid #e2e6ec;vertical-align:top}
.legend{font-size:14px;display:flex;flex-wrap:wrap;gap:6px 18px;margin:8px 0;align-items:center}
.legend i{display:inline-block;width:15px;height:13px;margin-right:5px;vertical-align:-2px;
border:1px solid #b8c0cc} svg{display:block} svg text{font-family:system-ui,sans-serif}
svg text{fill:#1c2430} td:first-child,td.tight{white-space:nowrap}
.hatched{background:repeating-linear-gradient(45deg,#fff 0 3px,#b9bfc9 3px 4px)}
"""


def render_page(story: Story) -> str:
    """The whole page."""
    population = story.population
    name = escape(population.user)
    body = "\n".join(
        f"<section><h2>{title}</h2>\n{content}</section>"
        for title, content in (
            ("1. The same request, three ways", _contexts(story)),
            (f"2. What {name} borrowed, and from how many", _borrowed(story)),
            ("3. Who is known where: own messages against what was borrowed", _coverage(story)),
            ("4. Who is like whom: the graph, one layer per picture", _graph(story)),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>CoPersona: {name}</title><style>{_STYLE}</style></head><body>\n"
        f"{_opening(story)}\n{body}\n</body></html>\n"
    )


def _opening(story: Story) -> str:
    population, report = story.population, story.report
    name, n_own = escape(population.user), story.persona.n_interactions
    known = [f.name for f in story.persona.facets if f.support > 0]
    where = f"in the facet{'' if len(known) == 1 else 's'} <b>{escape(', '.join(known))}</b>"
    kind = "" if population.is_invented else "Their words are quoted as they wrote them. "
    return (
        f"<h1>What others can tell about {name}</h1>"
        f"<p>{escape(population.source)}. {kind}CoPersona sorted all messages into "
        f"{len(report.facets)} facets (themes, named by their frequent words) in "
        f"{report.seconds:.1f} s. <b>{name}</b> wrote {n_own} of the messages, {where}, and now "
        f"asks: <b>“{escape(population.request)}”</b></p>"
        '<p class="note">In this demonstration <b>everybody lends text</b>: whole messages may be '
        "quoted to the language model that answers somebody else. The default is statistics only."
        "</p>"
    )


# -- the three contexts ---------------------------------------------------------------------------


def _contexts(story: Story) -> str:
    heard = re.sub("`([^`]+)`", r"<code>\1</code>", escape(answers_note(story)))
    names = story.report.facets
    keys = (
        _key(_OWN[-1], f"{escape(story.population.user)}’s own message"),
        _key(_GAIN[-1], "a peer’s: someone who answers alike in such a facet"),
        _key("#98a2b0", "anybody’s: close to the request, no likeness claimed"),
    )
    cards = "".join(_card(way, names) for way in story.ways)
    return f'<p>{heard}</p><div class="legend">{"".join(keys)}</div><div class="grid">{cards}</div>'


def _card(way: Way, names: Sequence[str]) -> str:
    parts = "".join(
        f"<li><b>{escape(part.kind)}</b>, {part.tokens} tokens: {escape(part.reason)}</li>"
        for part in way.parts
    )
    messages = "".join(
        f'<div class="role">{escape(message["role"])}</div><pre>{escape(message["content"])}</pre>'
        for message in way.messages
    )
    answer = (
        f'<div class="role">answer</div><pre class="answer">{escape(way.answer)}</pre>'
        if way.answer
        else ""
    )
    size = f"{len(way.evidence)} messages quoted, {way.tokens} tokens added." if parts else ""
    added = f"<ul>{parts}</ul>" if parts else "<p>Nothing is added to it.</p>"
    quotes = "".join(_quote(evidence, names) for evidence in way.evidence)
    return (
        f'<div class="card"><h3>{escape(way.title)}</h3><p>{escape(way.says)} {size}</p>'
        f"{answer}{added}{quotes}<details><summary>What the language model is sent, word for "
        f"word</summary>{messages}</details></div>"
    )


def _quote(evidence: Evidence, names: Sequence[str]) -> str:
    """One quoted message: what was written, to what, by whom, and how it scored."""
    who = _WHO[evidence.origin].format(evidence.author)
    about = f"On: {evidence.input}" if evidence.input else ""
    found = f"{who} · {names[evidence.facet]} · relevance {evidence.score:.2f}"
    return (
        f'<div class="quote {evidence.origin}">{escape(evidence.response or evidence.input)}'
        f"<small>{escape(about)}</small><small>{escape(found)}</small></div>"
    )


# -- what was borrowed ----------------------------------------------------------------------------


def _borrowed(story: Story) -> str:
    facets = sorted(story.persona.facets, key=lambda f: (bool(f.abstained), -f.confidence))
    rows = "".join(map(_borrowed_row, facets))
    nothing = (
        '<p class="note">Here the evidence was too weak everywhere: <b>nothing</b> was borrowed; '
        "what is quoted above is close to the request, and no likeness is claimed.</p>"
        if all(facet.abstained for facet in facets)
        else ""
    )
    return (
        "<p>Confidence is how much of a person’s habits in a facet is known, from 0 to 1, before → "
        "after borrowing; agreement, from 0 to 1, is how well those people may stand in. Where too "
        f"few agree, nothing is borrowed.</p>{nothing}"
        "<table><tr><th>facet</th><th>own messages</th><th>confidence</th><th>borrowed from</th>"
        f"<th>what peers show</th></tr>{rows}</table>"
    )


def _borrowed_row(facet: FacetPersona) -> str:
    if facet.abstained:
        source, shown = "nobody", f"nothing borrowed: {facet.abstained}"
        confidence = f"{facet.own_confidence:.2f}"
    else:
        source = f"{facet.n_contributors} people, agreement {facet.agreement:.2f}"
        confidence = f"{facet.own_confidence:.2f} → {facet.confidence:.2f}"
        shown = "; ".join(t.statement for t in facet.tendencies if t.contributors) or "–"
    first = (facet.name, f"{facet.support:g}", confidence, source)
    cells = "".join(f'<td class="tight">{escape(cell)}</td>' for cell in first)
    return f"<tr>{cells}<td>{escape(shown)}</td></tr>"


# -- coverage -------------------------------------------------------------------------------------


def _coverage(story: Story) -> str:
    shown = _shown_users(story)
    left_out = len(story.personas) - len(shown)
    rest = f" The {left_out} people with the fewest messages are left out." if left_out else ""
    return (
        "<p>A column is a person, a row is a facet. The upper half of a cell counts own messages; "
        "the lower half is the confidence that peers added. Point at a cell for its numbers."
        f"{rest}</p>{_coverage_legend()}{_heat_map(shown, story.population.user)}"
    )


def _shown_users(story: Story) -> list[Persona]:
    asks = story.population.user
    others = [persona for user, persona in story.personas.items() if user != asks]
    others.sort(key=lambda persona: (-persona.n_interactions, persona.user))
    return [story.persona, *others[: SHOWN_USERS - 1]]


def _coverage_legend() -> str:
    own = zip(_OWN, ("0", "1", "2", "3", "4 or more"), strict=True)
    gain = zip(_GAIN, ("under 0.05", "under 0.15", "under 0.30", "0.30 or more"), strict=True)
    keys = [
        "<b>own messages</b>",
        *(_key(color, name) for color, name in own),
        "<b>confidence borrowed</b>",
        *(_key(color, name) for color, name in gain),
        '<span><i class="hatched"></i>nothing borrowed (abstained)</span>',
    ]
    return f'<div class="legend">{"".join(keys)}</div>'


def _key(color: str, name: str) -> str:
    return f'<span><i style="background:{color}"></i>{name}</span>'


def _heat_map(personas: Sequence[Persona], asks: str) -> str:
    n_facets = len(personas[0].facets)
    width, height = _LEFT + _CELL * len(personas) + 4, _TOP + _ROW * n_facets + 4
    marks = [
        '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="5" height="5" fill="#fff"/>'
        '<line y2="5" stroke="#b9bfc9" stroke-width="1.6"/></pattern></defs>'
    ]
    for number, facet in enumerate(personas[0].facets):
        y = _TOP + _ROW * number + 20
        marks.append(
            f'<text x="{_LEFT - 8}" y="{y}" font-size="13" text-anchor="end">'
            f"{escape(facet.name)}</text>"
        )
    for column, persona in enumerate(personas):
        marks += _column(persona, _LEFT + _CELL * column, persona.user == asks)
    return _svg(width, height, marks, "own messages and borrowed confidence by person and facet")


def _column(persona: Persona, x: int, is_asking: bool) -> Iterator[str]:
    look = 'font-weight="700" style="fill:#a01020"' if is_asking else ""
    yield (
        f'<text transform="translate({x + 12},{_TOP - 6}) rotate(-90)" font-size="12" {look}>'
        f"{escape(persona.user[:11])}</text>"
    )
    for number, facet in enumerate(persona.facets):
        yield _cell(persona.user, facet, x, _TOP + _ROW * number)
    if is_asking:
        yield (
            f'<rect x="{x - 0.5}" y="{_TOP - 1}" width="{_CELL}" fill="none" stroke="#c0182b" '
            f'height="{_ROW * len(persona.facets)}" stroke-width="1.5"/>'
        )


def _cell(user: str, facet: FacetPersona, x: int, y: int) -> str:
    gain = facet.confidence - facet.own_confidence
    own = _OWN[min(round(facet.support), len(_OWN) - 1)]
    lower = "url(#hatch)" if facet.abstained else _GAIN[int(np.digitize(gain, (0.05, 0.15, 0.3)))]
    said = (
        f"nothing borrowed: {facet.abstained}"
        if facet.abstained
        else f"+{gain:.2f} confidence from {facet.n_contributors} people"
    )
    return (
        f"<g><title>{escape(f'{user}, {facet.name}: {facet.support:g} own messages; {said}')}"
        f'</title><rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_HALF}" fill="{own}"/>'
        f'<rect x="{x}" y="{y + _HALF}" width="{_CELL - 1}" height="{_HALF}" fill="{lower}"/></g>'
    )


# -- the graph ------------------------------------------------------------------------------------


def layer_links(neighbours: Array, is_edge: Array) -> Array:
    """The nearest linked neighbours of every user in one layer, each pair once.

    Shapes:
        neighbours, is_edge (n_users, k) -> (n_links, 2), the smaller row first
    """
    rank = np.cumsum(is_edge, axis=1)
    user, place = np.nonzero(is_edge & (rank <= LINKS) & (neighbours >= 0))
    pairs = np.sort(np.column_stack([user, neighbours[user, place]]), axis=1)
    return np.unique(pairs, axis=0).reshape(-1, 2)


def spring_layout(n: int, links: Array, *, n_steps: int = 200) -> Array:
    """Positions in the unit square; linked nodes attract, all repel. No chance in it.

    Shapes:
        links (n_links, 2), a pair may come more than once -> (n, 2)

    Source: Fruchterman and Reingold 1991, with a pull to the middle for what is not linked.
    """
    weights = np.zeros((n, n))
    np.add.at(weights, (links[:, 0], links[:, 1]), 1.0)
    weights += weights.T
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    spread = np.sqrt((np.arange(n) + 0.5) / max(n, 1))
    places = np.column_stack([np.cos(turn), np.sin(turn)]) * spread[:, None]
    length = 1.6 / np.sqrt(max(n, 1))
    for step in range(n_steps):
        apart = places[:, None] - places[None]
        distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        push = length**2 / distance**2 - np.minimum(weights, 3) / 3 * distance / length
        move = (apart * push[..., None]).sum(axis=1) - 1.2 * places
        size = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        places += move / size * np.minimum(size, 0.1 * (1 - step / n_steps))
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-9))


def _graph(story: Story) -> str:
    graph, state = story.state.graph, story.state
    names = ("all facets together", *state.facets.names)
    links = [
        layer_links(graph.neighbours[layer], graph.is_edge[layer])
        for layer in range(graph.n_layers)
    ]
    places = spring_layout(len(state.lenders), np.concatenate(links))
    order = sorted(range(graph.n_layers), key=lambda n: (n > 0, not story.peers.get(n - 1)))
    panels = "".join(_panel(story, n, names[n], links[n], places) for n in order)
    return f'{_graph_words(story)}<div class="grid">{panels}</div>'


def _graph_words(story: Story) -> str:
    name = escape(story.population.user)
    keys = (
        _key("#c0182b", f"{name}, with links in red"),
        _key("#f0932b", f"peers: they stand in for {name} in this facet"),
        _key("#5b6f8a", "linked in this layer"),
        _key("#d3d9e1", "not linked here: wrote too little, or like nobody"),
    )
    return (
        "<p>A dot is a person and has the same place in every picture. A line links two people who "
        f"answer alike in that facet; the {LINKS} nearest links of each are drawn. Where {name} "
        "wrote nothing there are no red links: peers for such a facet were found through the "
        "others, in which something is known. Pictures with peers come first.</p>"
        f'<div class="legend">{"".join(keys)}</div>'
    )


def _panel(story: Story, layer: int, title: str, links: Array, places: Array) -> str:
    state, asks = story.state, story.state.row_of[story.population.user]
    peers = set(story.peers.get(layer - 1, ()))
    spots = _MARGIN + places * (_PANEL - 2 * _MARGIN)
    marks = [_line(spots[a], spots[b], asks in (a, b)) for a, b in links.tolist()]
    linked = set(links.ravel().tolist())
    for row, user in enumerate(state.lenders):
        if row != asks:
            marks.append(_dot(spots[row], user, user in peers, row in linked))
    marks.append(_asking(spots[asks], story.population.user))
    caption = f"{len(links)} links drawn" + (f", {len(peers)} peers" if peers else "")
    return (
        f'<div class="card"><h3>{escape(title)}</h3><p>{caption}</p>'
        f"{_svg(_PANEL, _PANEL, marks, f'layer {title}')}</div>"
    )


def _asking(spot: Array, user: str) -> str:
    x, y = spot.tolist()
    side = "end" if x > _PANEL / 2 else "start"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="#c0182b" stroke="#fff"/>'
        f'<text x="{x + (-12 if side == "end" else 12):.1f}" y="{y + 5:.1f}" font-size="14" '
        f'font-weight="700" text-anchor="{side}" style="fill:#a01020;paint-order:stroke" '
        f'stroke="#fff" stroke-width="4">{escape(user[:20])}</text>'
    )


def _line(a: Array, b: Array, is_asking: bool) -> str:
    look = 'stroke="#c0182b" stroke-width="1.8"' if is_asking else 'stroke="#b4bfcd"'
    return f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" {look}/>'


def _dot(spot: Array, user: str, is_peer: bool, is_linked: bool) -> str:
    radius, color = (7, "#f0932b") if is_peer else (4, "#5b6f8a" if is_linked else "#d3d9e1")
    return (
        f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="{radius}" fill="{color}" '
        f'stroke="#fff"><title>{escape(user)}</title></circle>'
    )


def _svg(width: int, height: int, marks: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" '
        f'aria-label="{escape(label)}">{"".join(marks)}</svg>'
    )
