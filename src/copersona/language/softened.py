"""What soft tokens make of the likelihood of a text, with gradients for them and for nothing else.

The language model is frozen. What a prompt begins with, up to the last message of the user, stands
in front of the soft tokens, where nothing depends on them: it goes through the network without a
gradient, and its keys and values are kept for the next time, as many as fit. In a batch such
beginnings are filled up in front and masked; what follows the soft tokens is filled up behind.

This module does not know where soft tokens come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from copersona.errors import BackendError, DataError, ShapeError
from copersona.language import models
from copersona.language.generation import Messages
from copersona.language.likelihood import HELD, LOGITS, Likelihood, LocalScorer, batches

Array = NDArray[Any]
Tensor = Any
Tokens = tuple[int, ...]

_NORMS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt cut where soft tokens go, and the reference that is to follow it; none is empty."""

    before: Tokens
    after: Tokens
    reference: Tokens

    @property
    def tail(self) -> Tokens:
        """What goes through the network behind the soft tokens: the last token stays out."""
        return (*self.after, *self.reference[:-1])


class _Beginnings:
    """Keys and values, as many as fit; where they do not, the newest gives way.

    In passes over the same texts the oldest are needed again first, and in one pass over sorted
    texts the newest; so nothing is lost that would have been used.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._n_bytes = most_bytes, 0
        self._held: dict[Tokens, list[tuple[Tensor, Tensor]]] = {}

    def get(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]] | None:
        return self._held.get(tokens)

    def add(self, tokens: Tokens, layers: list[tuple[Tensor, Tensor]]) -> None:
        n_bytes = _n_bytes(layers)
        while self._held and self._n_bytes + n_bytes > self._most:
            self._n_bytes -= _n_bytes(self._held.popitem()[1])
        if n_bytes <= self._most:
            self._held[tokens] = layers
            self._n_bytes += n_bytes

    def clear(self) -> None:
        self._held.clear()
        self._n_bytes = 0


class SoftScorer(LocalScorer):
    """A `LocalScorer` that takes soft tokens in front of the last message of the user.

    Args:
        folder_or_name: as for `LocalScorer`; so are `models_folder`, `threads`, `device` and
            `batch_tokens`.
        kept_bytes: of keys and values of beginnings that are kept between calls; a token of
            SmolLM2-135M takes 23 kB.
    """

    def __init__(
        self,
        folder_or_name: str | Path,
        *,
        models_folder: Path | None = None,
        threads: int | None = None,
        device: str = "cpu",
        batch_tokens: int | None = None,
        kept_bytes: int = 2**30,
    ) -> None:
        super().__init__(
            folder_or_name,
            models_folder=models_folder,
            threads=threads,
            device=device,
            batch_tokens=batch_tokens,
        )
        self._model.requires_grad_(False)
        self._new_cache = models.require("transformers").DynamicCache
        self._beginnings = _Beginnings(kept_bytes)
        table = self._model.get_input_embeddings().weight
        self.width: int = table.shape[1]
        self.token_norm = self._mean_norm(len(table))
        """Mean length of the model's own token embeddings."""

    @property
    def device(self) -> str:
        """Where the model is: `cpu` or `cuda`."""
        return self._device

    def embeddings(self, text: str) -> Array:
        """Return the model's own embeddings of a text.

        Shapes:
            -> (n_tokens, width) float32
        """
        vectors: Array = self._embedded(self._tokens_of(text)).float().cpu().numpy()
        return vectors

    def prepare(self, messages: Messages, reference: str, n_soft: int = 0) -> Prepared:
        """Return a prompt and its reference in tokens.

        Args:
            messages: the last one of the user gets the soft tokens at its beginning.
            reference: marks of a turn are taken out.
            n_soft: soft tokens there must be room for.

        Raises:
            DataError: no message is a user's, or the reference has no tokens.
            BackendError: the model cannot hold them together.
        """
        before, after = self._prompt_around(messages)
        answer = self._tokens_of(reference)
        if not answer:
            raise DataError("a reference without tokens has no likelihood")
        n_prompt = len(before) + n_soft + len(after)
        if n_prompt + len(answer) > self.context_tokens:
            raise BackendError(
                f"{self.name} holds {self.context_tokens} tokens; "
                f"the prompt has {n_prompt}, the reference {len(answer)}"
            )
        return Prepared(tuple(before), tuple(after), tuple(answer))

    def losses(self, prepared: Sequence[Prepared], soft: Tensor | None) -> Tensor:
        """Return mean nats per token of each reference; differentiable in `soft`.

        Shapes:
            soft (n, n_tokens, width) -> (n,) float32
        """
        lengths = self._torch.tensor([len(row.reference) for row in prepared])
        return self._soft_nats(prepared, soft) / lengths.to(self._device)

    def soft_nll(
        self, pairs: Sequence[tuple[Messages, str]], softs: Sequence[Array | None]
    ) -> list[Likelihood]:
        """Return the likelihood of each reference as the answer to its softened messages.

        Args:
            pairs: as for `nll`.
            softs: soft tokens of each pair; None gives what `nll` gives.

        Shapes:
            each of softs (n_tokens, width)
        """
        found: dict[int, Likelihood] = {}
        rows: dict[int, tuple[Prepared, Array]] = {}
        for place, ((messages, reference), soft) in enumerate(zip(pairs, softs, strict=True)):
            if soft is not None and self._tokens_of(reference):
                if soft.shape[1:] != (self.width,):
                    raise ShapeError(f"soft tokens of {self.name} are rows of {self.width} numbers")
                rows[place] = self.prepare(messages, reference, len(soft)), soft
        plain = [place for place in range(len(pairs)) if place not in rows]
        found.update(zip(plain, self.nll([pairs[place] for place in plain]), strict=True))
        order = sorted(rows, key=lambda place: _order(*rows[place]))
        for batch in batches(order, lambda some: self._may_soften([rows[at] for at in some])):
            prepared = [rows[place][0] for place in batch]
            soft = self._torch.stack([self._torch.tensor(rows[place][1]) for place in batch])
            with self._torch.no_grad():
                nats = self._soft_nats(prepared, soft).tolist()
            if not all(map(math.isfinite, nats)):
                raise BackendError(f"{self.name} answered a likelihood that is no finite number")
            for place, row, value in zip(batch, prepared, nats, strict=True):
                found[place] = Likelihood(value, len(row.reference))
        return [found[place] for place in range(len(pairs))]

    def forget_beginnings(self) -> None:
        """Drop the keys and values that were kept between calls."""
        self._beginnings.clear()

    def _mean_norm(self, n_words: int) -> float:
        with self._torch.no_grad():
            parts = self._torch.arange(n_words).split(_NORMS_AT_ONCE)
            sums = [self._embedded(part.tolist()).float().norm(dim=-1).sum() for part in parts]
        return float(sum(sums)) / n_words

    def _may_soften(self, rows: Sequence[tuple[Prepared, Array]]) -> bool:
        n_soft = len(rows[0][1])
        longest = n_soft + max(len(row.tail) for row, _ in rows)
        n_before = max(len(row.before) for row, _ in rows)
        return (
            all(len(soft) == n_soft for _, soft in rows)
            and len(rows) * longest <= self._batch_tokens
            and len(rows) * (n_before + longest) <= self._batch_tokens * HELD
            and len(rows) * longest * self._n_words <= LOGITS
        )

    def _soft_nats(self, rows: Sequence[Prepared], soft: Tensor | None) -> Tensor:
        """Return the nats of each reference, summed over its tokens."""
        torch = self._torch
        with self._turn:
            past, is_there = self._past([row.before for row in rows])
            longest = max(len(row.tail) for row in rows)
            vectors = self._embedded(
                [[*row.tail, *[0] * (longest - len(row.tail))] for row in rows]
            )
            if soft is not None:
                vectors = torch.cat([soft.to(vectors), vectors], dim=1)
            n_inputs = vectors.shape[1]
            first = n_inputs - longest + min(len(row.after) for row in rows) - 1
            logits = self._model(
                inputs_embeds=vectors,
                attention_mask=torch.cat([is_there, is_there.new_ones(len(rows), n_inputs)], dim=1),
                position_ids=is_there.sum(dim=1, keepdim=True)
                + torch.arange(n_inputs, device=self._device),
                past_key_values=past,
                use_cache=True,
                logits_to_keep=torch.arange(first, n_inputs, device=self._device),
            ).logits
        sums = []
        for row, judged in zip(rows, logits, strict=True):
            start = n_inputs - longest + len(row.after) - 1 - first
            sums.append(
                torch.nn.functional.cross_entropy(
                    judged[start : start + len(row.reference)].float(),
                    self._tensor(row.reference),
                    reduction="sum",
                )
            )
        return torch.stack(sums)

    def _past(self, texts: Sequence[Tokens]) -> tuple[Any, Tensor]:
        """Return keys and values of a batch of beginnings, and which of them are there."""
        torch = self._torch
        encoded = {text: self._beginning(text) for text in dict.fromkeys(texts)}
        longest = max(map(len, texts))
        missing = [longest - len(text) for text in texts]

        def together(layer: int, which: int) -> Tensor:
            each = [encoded[text][layer][which] for text in texts]
            return torch.stack(
                [
                    torch.nn.functional.pad(one, (0, 0, n, 0))
                    for one, n in zip(each, missing, strict=True)
                ]
            )

        n_layers = len(encoded[texts[0]])
        pairs = [(together(layer, 0), together(layer, 1)) for layer in range(n_layers)]
        return self._new_cache(pairs), self._tensor(
            [[0] * n + [1] * (longest - n) for n in missing]
        )

    def _beginning(self, text: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of every layer, from the last time or anew."""
        torch = self._torch
        layers = self._beginnings.get(text)
        if layers is None:
            with torch.inference_mode(False), torch.no_grad():
                answer = self._model(
                    input_ids=self._tensor([text]), use_cache=True, logits_to_keep=1
                )
            layers = [(layer.keys[0], layer.values[0]) for layer in answer.past_key_values.layers]
            if any(keys.shape[1] != len(text) for keys, _ in layers):
                raise BackendError(f"{self.name} does not keep all it has read: no soft tokens")
            self._beginnings.add(text, layers)
        return layers


def _order(row: Prepared, soft: Array) -> tuple[int, int, Tokens, int]:
    """Equal beginnings stand together, and like lengths."""
    return len(soft), len(row.before), row.before, len(row.tail)


def _n_bytes(layers: Sequence[tuple[Tensor, Tensor]]) -> int:
    return sum(each.nbytes for pair in layers for each in pair)
