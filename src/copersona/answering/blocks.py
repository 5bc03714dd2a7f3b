"""Blocks of a context and how a token budget is shared out among them.

Instructions come first, tendencies in what is kept for them, then examples in the order of their
evidence, whosever they are; what is left goes back to tendencies. Knows texts and a token counter;
knows neither headings nor what is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from copersona.records import ContextPart, Evidence

CountTokens = Callable[[str], int]


MESSAGE_TOKENS = 5
"""What a chat template adds to each message, at most: its marks, its role and a line break."""


@dataclass(frozen=True)
class Entry:
    """One line of a block, or one exchange: `asked`, and as `text` what was answered.

    `least` characters of the text must survive a cut for it to be of use.
    """

    text: str
    least: int
    sources: tuple[str, ...] = ()
    evidence: Evidence | None = None
    asked: str = ""


@dataclass(frozen=True)
class Block:
    """Entries of one kind, the most important first."""

    kind: str
    heading: str
    reason: str
    entries: tuple[Entry, ...]
    is_quoted: bool = False
    is_best_last: bool = False
    tokens: int = 0

    def lines(self) -> str:
        """Heading and lines, as they stand in the context; empty where there is no line."""
        lines = [entry.text for entry in self.entries if not entry.asked]
        if not lines:
            return ""
        return "\n".join([self.heading, *(reversed(lines) if self.is_best_last else lines)])

    def exchanges(self) -> list[Entry]:
        """Its exchanges, the most important first."""
        return [entry for entry in self.entries if entry.asked]

    def part(self) -> ContextPart:
        """The block as a record of the context: its exchanges, the best last, then its lines."""
        said = [f"{one.asked}\n→ {one.text}" for one in reversed(self.exchanges())]
        text = "\n\n".join(filter(None, [*said, self.lines()]))
        sources = tuple(dict.fromkeys(s for entry in self.entries for s in entry.sources))
        return ContextPart(self.kind, text, self.tokens, sources, self.reason)


_CUT_POINT = re.compile(r"\S{1,32}")


def cut(text: str, n_tokens: int, count_tokens: CountTokens) -> str:
    """The text, or as many of its words as fit with an ellipsis; empty where none does.

    A word of more than 32 characters may be cut inside: not every script has spaces.
    """
    if count_tokens(text) <= n_tokens:
        return text
    ends = [match.end() for match in _CUT_POINT.finditer(text)]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text[: ends[middle - 1]] + "…") <= n_tokens:
            low = middle
        else:
            high = middle - 1
    return text[: ends[low - 1]] + "…" if low else ""


def fill_all(
    blocks: Sequence[Block],
    evidence: Sequence[Evidence],
    shares: Mapping[str, float],
    examples_first: int,
    budget: int,
    count: CountTokens,
) -> list[Block]:
    """Instructions, tendencies in what is kept for them, examples; the rest goes to tendencies.

    The first tokens are the examples': where there are any, tendencies get nothing of them. An
    exchange counts what a chat template adds to its two messages as well.

    Args:
        evidence: of all examples, best first.
        shares: kept for each kind of tendency, of what lies beyond the first tokens.
        examples_first: so many, of what instructions leave.

    Returns:
        The blocks that hold anything, with their sizes; together never above the budget.
    """
    first = [_fill(block, budget, count) for block in blocks if block.kind == "instructions"]
    budget -= sum(block.tokens for block in first)
    beyond = max(budget - examples_first, 0)
    limits = {kind: int(share * beyond) for kind, share in shares.items()}
    said = [block for block in blocks if block.kind in limits]
    told = [_fill(block, limits[block.kind], count) for block in said]
    examples = [block for block in blocks if block.kind not in {"instructions", *limits}]
    left = budget - sum(block.tokens for block in told)
    shown = _fill_in_order(examples, evidence, left, count)
    left -= sum(block.tokens for block in shown)
    if any(block.entries for block in shown):
        left = min(left, beyond - sum(block.tokens for block in told))
    for i, block in enumerate(said):
        if told[i].entries != block.entries:
            limit = told[i].tokens + left
            told[i] = _fill(block, limit, count)
            left = limit - told[i].tokens
    return [block for block in (*first, *told, *shown) if block.entries]


def _fill_in_order(
    blocks: Sequence[Block], evidence: Sequence[Evidence], limit: int, count: CountTokens
) -> list[Block]:
    """Examples by the order of their evidence, whosever they are; the last one may be cut."""
    place = {id(one): n for n, one in enumerate(evidence)}
    pairs = [(entry, number) for number, block in enumerate(blocks) for entry in block.entries]
    pairs.sort(key=lambda pair: place[id(pair[0].evidence)])
    taken: list[tuple[Entry, int]] = []
    left = limit
    for entry, number in pairs:
        room = left - _before(entry, blocks[number], [e for e, of in taken if of == number], count)
        text = cut(entry.text, room - 1, count) if room > 1 else ""
        if text and len(text) >= entry.least:
            taken.append((entry if text == entry.text else replace(entry, text=text), number))
            left = room - count(text + "\n")
    filled = _grouped(blocks, taken, count)
    # Counters that count a joined text higher than its pieces cost the last entries their place.
    while taken and sum(block.tokens for block in filled) > limit:
        taken.pop()
        filled = _grouped(blocks, taken, count)
    return filled


def _before(entry: Entry, block: Block, taken: Sequence[Entry], count: CountTokens) -> int:
    """Tokens that come with an entry: the request of an exchange, the heading of a first line."""
    if entry.asked:
        return _size_of_exchange(replace(entry, text=""), count)
    return 0 if any(not one.asked for one in taken) else count(block.heading + "\n\n")


def _grouped(
    blocks: Sequence[Block], taken: Sequence[tuple[Entry, int]], count: CountTokens
) -> list[Block]:
    found = []
    for number, block in enumerate(blocks):
        filled = replace(block, entries=tuple(entry for entry, of in taken if of == number))
        found.append(replace(filled, tokens=_size(filled, count) if filled.entries else 0))
    return found


def _fill(block: Block, limit: int, count: CountTokens) -> Block:
    """The block with as many of its entries as fit; one that does not fit whole is cut."""
    if not block.entries:
        return block
    kept: list[Entry] = []
    left = limit - count(block.heading + "\n\n")
    for entry in block.entries:
        if left < 2:
            break
        text = cut(entry.text, left - 1, count)
        if len(text) >= entry.least:
            kept.append(entry if text == entry.text else replace(entry, text=text))
            left -= count(text + "\n")
    # Counters that count a joined text higher than its pieces cost the last entries their place.
    while kept and _size(replace(block, entries=tuple(kept)), count) > limit:
        kept.pop()
    filled = replace(block, entries=tuple(kept))
    return replace(filled, tokens=_size(filled, count) if kept else 0)


def _size(block: Block, count: CountTokens) -> int:
    exchanges = sum(_size_of_exchange(entry, count) for entry in block.exchanges())
    lines = block.lines()
    return exchanges + (count(lines + "\n\n") if lines else 0)


def _size_of_exchange(entry: Entry, count: CountTokens) -> int:
    return count(entry.asked + "\n") + count(entry.text + "\n") + 2 * MESSAGE_TOKENS
