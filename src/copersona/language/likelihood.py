"""How likely a local language model finds given texts, and its likeliest answers to many prompts.

A text is scored by teacher forcing: the chat template with the mark of the model's turn, then the
text's own tokens, each judged from all before it; the end of the turn is not scored. What prompts
begin with in common, and a prompt that several texts answer, goes through the network once. Texts
of like length go through it together, filled up behind, where a causal model cannot look. Answers
are greedy, the same as `LocalGenerator` gives, many at a time.

Where weights are bfloat16 the last digits depend on what was computed together. This module keeps
no results, and does not know what the texts are.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from copersona.errors import BackendError, ConfigError
from copersona.language.generation import LocalModel, Messages

Tokens = list[int]
T = TypeVar("T")

SHORTEST_SHARED = 32
"""Tokens from which a common beginning is worth a pass through the network of its own."""

_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}  # on 2 cores, 4 prompts of 400 tokens took 10 % longer
HELD = 16  # times the tokens of a batch: tokens of which keys and values are held
LOGITS = 2**28  # numbers in one table of rows x tokens x vocabulary; 0.5 GiB in bfloat16


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a model makes of a text: minus its log-likelihood in nats, summed over its tokens."""

    nats: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class _Pair:
    """A prompt and the reference that is to follow it, in tokens; neither is empty."""

    place: int
    prompt: Tokens
    reference: Tokens

    @property
    def inputs(self) -> Tokens:
        """What goes through the network: nothing follows the last token, so it stays out."""
        return [*self.prompt, *self.reference[:-1]]

    @property
    def n_inputs(self) -> int:
        return len(self.prompt) + len(self.reference) - 1


@dataclass(frozen=True, slots=True)
class _Past:
    """What the network holds of the first tokens of a text; nothing where there are none."""

    n_tokens: int = 0
    cache: Any = None

    def repeated(self, n_rows: int) -> Any:
        """Return a copy with `n_rows` equal rows; a copy, since the network writes on it."""
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(n_rows)
        return cache


class LocalScorer(LocalModel):
    """A `LocalModel` that scores texts and answers many prompts at once.

    Args:
        folder_or_name: as for `LocalModel`.
        models_folder: as for `LocalModel`.
        threads: as for `LocalModel`; more than one only where nobody else computes, or with
            `OMP_WAIT_POLICY=passive` in the environment (0.5 s a text against 3.4, measured).
        device: as for `LocalModel`.
        batch_tokens: that go through the network together, where more than one text fits; None
            means what is fast on the device. Of 16 times as many, keys and values may be held.
        shortest_shared: tokens from which a common beginning is encoded once.
    """

    def __init__(
        self,
        folder_or_name: str | Path,
        *,
        models_folder: Path | None = None,
        threads: int | None = None,
        device: str = "cpu",
        batch_tokens: int | None = None,
        shortest_shared: int = SHORTEST_SHARED,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise ConfigError(f"batch_tokens is {batch_tokens}: it must be at least 1")
        super().__init__(
            folder_or_name, models_folder=models_folder, threads=threads, device=device
        )
        self._batch_tokens = batch_tokens or _BATCH_TOKENS[self._device]
        self._shortest_shared = shortest_shared
        self._n_words: int = self._model.get_output_embeddings().weight.shape[0]

    def nll(self, pairs: Sequence[tuple[Messages, str]]) -> list[Likelihood]:
        """Return the likelihood of each reference as the answer to its messages.

        Args:
            pairs: messages and reference, in any order; marks of a turn are taken out of both. An
                empty reference has no tokens and 0 nats.

        Raises:
            BackendError: the model cannot hold a pair (then none is computed), or fails.
        """
        tokens = [
            _Pair(place, self._prompt(messages), self._tokens_of(reference))
            for place, (messages, reference) in enumerate(pairs)
        ]
        for pair in tokens:
            self._check_size(pair)
        nats = [0.0] * len(pairs)
        with self._turn, self._torch.inference_mode():
            for place, value in self._scored([pair for pair in tokens if pair.reference]):
                nats[place] = value
        if not all(map(math.isfinite, nats)):
            raise BackendError(f"{self.name} answered a likelihood that is not a finite number")
        return [
            Likelihood(value, len(pair.reference)) for value, pair in zip(nats, tokens, strict=True)
        ]

    def generate(self, asked: Sequence[Messages], max_tokens: int) -> list[str]:
        """Return the greedy answer to each messages: the likeliest token each time.

        Args:
            asked: chat messages, in any order.
            max_tokens: longest answer, in tokens.

        Raises:
            BackendError: the model cannot hold a prompt; then none is answered.
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}: it must be at least 1")
        prompts = [self._prompt(messages) for messages in asked]
        limits = [min(max_tokens, self._room(len(prompt))) for prompt in prompts]
        answers = [""] * len(asked)
        with self._turn, self._torch.inference_mode():
            past = self._extended(_Past(), prompts)
            order = sorted(range(len(asked)), key=lambda place: len(prompts[place]))
            for batch in batches(order, lambda b: self._may_hold(b, prompts, max_tokens)):
                rests = [prompts[place][past.n_tokens :] for place in batch]
                said = self._said(past, rests, [limits[place] for place in batch])
                for place, tokens in zip(batch, said, strict=True):
                    answers[place] = self._text(tokens).rstrip("\ufffd")  # half a character
        return answers

    def _tokens_of(self, reference: str) -> Tokens:
        return self._encoded(self._plain(reference))

    def _check_size(self, pair: _Pair) -> None:
        n_prompt, n_reference = len(pair.prompt), len(pair.reference)
        if not n_prompt:
            raise BackendError(f"{self.name}: the chat template makes no tokens of the messages")
        if n_prompt + n_reference > self.context_tokens:
            raise BackendError(
                f"{self.name} holds {self.context_tokens} tokens; "
                f"the prompt has {n_prompt}, the reference {n_reference}"
            )

    def _extended(self, past: _Past, prompts: Sequence[Tokens]) -> _Past:
        """Encode what all prompts begin with but their last tokens, if that is worth it."""
        n_tokens = _n_common(prompts)
        if len(prompts) < 2 or n_tokens - past.n_tokens < self._shortest_shared:
            return past
        answer = self._model(
            input_ids=self._tensor([prompts[0][past.n_tokens : n_tokens]]),
            past_key_values=past.repeated(1),
            use_cache=True,
            logits_to_keep=1,
        )
        return _Past(n_tokens, answer.past_key_values)

    def _tensor(self, numbers: Sequence[Any]) -> Any:
        return self._torch.tensor(numbers, dtype=self._torch.long, device=self._device)

    # -- scoring ----------------------------------------------------------------------------------

    def _scored(self, pairs: Sequence[_Pair]) -> Iterator[tuple[int, float]]:
        """Yield place and nats of every pair, what prompts share being encoded once."""
        past = self._extended(_Past(), [pair.prompt for pair in pairs])
        by_prompt: defaultdict[tuple[int, ...], list[_Pair]] = defaultdict(list)
        for pair in pairs:
            by_prompt[tuple(pair.prompt)].append(pair)
        rest: list[_Pair] = []
        for group in by_prompt.values():
            longer = self._extended(past, [pair.prompt for pair in group])
            if longer is past:
                rest += group
            else:
                yield from self._scored_after(longer, group)
        yield from self._scored_after(past, rest)

    def _scored_after(self, past: _Past, pairs: list[_Pair]) -> Iterator[tuple[int, float]]:
        ordered = sorted(pairs, key=lambda pair: pair.n_inputs)
        for batch in batches(ordered, lambda some: self._may_score(past, some)):
            for pair, nats in zip(batch, self._nats(past, batch), strict=True):
                yield pair.place, nats

    def _may_score(self, past: _Past, pairs: Sequence[_Pair]) -> bool:
        longest = max(pair.n_inputs for pair in pairs)
        n_judged = longest - min(len(pair.prompt) for pair in pairs) + 1
        return (
            len(pairs) * (longest - past.n_tokens) <= self._batch_tokens
            and len(pairs) * longest <= self._batch_tokens * HELD
            and len(pairs) * n_judged * self._n_words <= LOGITS
        )

    def _nats(self, past: _Past, batch: Sequence[_Pair]) -> list[float]:
        """Return the nats of each pair of a batch whose prompts all begin with `past`."""
        torch = self._torch
        longest = max(pair.n_inputs for pair in batch)
        first = min(len(pair.prompt) for pair in batch) - 1  # judges the first reference token
        filled = [pair.inputs + [0] * (longest - pair.n_inputs) for pair in batch]
        logits = self._model(
            input_ids=self._tensor([row[past.n_tokens :] for row in filled]),
            past_key_values=past.repeated(len(batch)),
            use_cache=past.cache is not None,
            logits_to_keep=torch.arange(
                first - past.n_tokens, longest - past.n_tokens, device=self._device
            ),
        ).logits
        sums = []
        for row, pair in zip(logits, batch, strict=True):
            start = len(pair.prompt) - 1 - first
            judged = row[start : start + len(pair.reference)].float()
            targets = self._tensor(pair.reference)
            sums.append(torch.nn.functional.cross_entropy(judged, targets, reduction="sum"))
        values: list[float] = torch.stack(sums).tolist()
        return values

    # -- answering --------------------------------------------------------------------------------

    def _may_hold(self, places: Sequence[int], prompts: Sequence[Tokens], max_tokens: int) -> bool:
        longest = max(len(prompts[place]) for place in places) + max_tokens
        return len(places) * longest <= self._batch_tokens * HELD

    def _said(self, past: _Past, prompts: Sequence[Tokens], limits: Sequence[int]) -> list[Tokens]:
        """Return the likeliest tokens after each prompt, of which `past` was taken off.

        Prompts are filled up in front, and what was filled up is masked; a row that has ended is
        taken out of the batch.
        """
        torch = self._torch
        longest = max(map(len, prompts))
        ids = self._tensor([[0] * (longest - len(row)) + row for row in prompts])
        mask = self._tensor(
            [[1] * past.n_tokens + [0] * (longest - len(row)) + [1] * len(row) for row in prompts]
        )
        cache, said = past.repeated(len(prompts)), [Tokens() for _ in prompts]
        going = list(range(len(prompts)))
        while going:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            answer = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = answer.past_key_values
            kept = []
            for row, token in enumerate(answer.logits[:, -1].argmax(dim=-1).tolist()):
                if token not in self._ends:
                    said[going[row]].append(token)
                    if len(said[going[row]]) < limits[going[row]]:
                        kept.append(row)
            if len(kept) < len(going):
                cache.batch_select_indices(self._tensor(kept))
                going, mask = [going[row] for row in kept], mask[kept]
            ids = self._tensor([said[place][-1:] for place in going])
            mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        return said


def batches(ordered: Iterable[T], fits: Callable[[list[T]], bool]) -> Iterator[list[T]]:
    """Cut into runs that fit; what does not fit alone is a run of its own."""
    batch: list[T] = []
    for each in ordered:
        if batch and not fits([*batch, each]):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _n_common(prompts: Sequence[Tokens]) -> int:
    """Return how many first tokens all prompts share, leaving each at least its last one."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # in the order of a dictionary: the most unlike
    shortest = min(map(len, prompts)) - 1
    return next((n for n in range(shortest) if first[n] != last[n]), shortest)
