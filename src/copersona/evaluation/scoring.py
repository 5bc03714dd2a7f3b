"""Likelihoods, answers and embeddings for an evaluation, each computed once and kept.

Equal jobs are one job, and what the cache has is not computed. The rest is computed in chunks, the
longest first; each chunk is kept as soon as it is done, so that a killed run loses one at most.

This module does not know which system asks, and logs no texts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from copersona.errors import ConfigError
from copersona.evaluation.cache import ResultCache, key_of
from copersona.language.encoders import Encoder, encode_batched
from copersona.language.generation import Generator, Messages, open_generator
from copersona.language.likelihood import Likelihood
from copersona.language.softened import SoftScorer

J = TypeVar("J")

Job = tuple[Messages, str]
"""What a model is shown, and the reference of which the likelihood is asked."""

Soft = str
"""Soft tokens, packed; empty where there are none."""

Progress = Callable[[int, int], None]
"""Called with distinct jobs done, cached ones counted, and distinct jobs in all."""

_FLOAT16 = np.dtype("<f2")  # little-endian, so that the file may be carried elsewhere


class Scorer(Protocol):
    """What an evaluation asks of a language model."""

    @property
    def name(self) -> str:
        """Which model it is, fit for a report."""

    @property
    def identity(self) -> str:
        """Name and, where known, the hash of the weights: what results are kept under."""

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` takes."""

    def nll(self, pairs: Sequence[Job]) -> list[Likelihood]:
        """Return the likelihood of each reference; see `LocalScorer.nll`.

        Raises:
            ConfigError: the model only answers.
        """

    def generate(self, asked: Sequence[Messages], max_tokens: int) -> list[str]:
        """Return the greedy answer to each messages."""


class Answerer:
    """A `Scorer` that only answers, one request after another: a server, or `echo`."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.name = self.identity = generator.name

    def count_tokens(self, text: str) -> int:
        """Return what the generator counts."""
        return self._generator.count_tokens(text)

    def nll(self, pairs: Sequence[Job]) -> list[Likelihood]:
        """Raise `ConfigError`: servers do not tell the likelihood of a given text."""
        raise ConfigError(
            f"{self.name} cannot tell the likelihood of a given text; name a local:NAME model"
        )

    def generate(self, asked: Sequence[Messages], max_tokens: int) -> list[str]:
        """Return the answers; see `Scorer`."""
        return [self._generator.generate(each, max_tokens=max_tokens) for each in asked]


def open_scorer(
    spec: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    api_key: str | None = None,
    models_folder: Path | None = None,
) -> Scorer:
    """Return the language model that a short text names.

    Args:
        spec: `local:NAME`, or what only answers: `openai:MODEL@URL` or `echo`.
        device: for `local` only: `cpu`, `cuda` or `auto`.
        threads: for `local` only; see `LocalModel`.
        api_key: for `openai` only.
        models_folder: for `local` only.

    Raises:
        ConfigError: no language model has that name, or there is no such device.
        MissingExtraError: its library or weights are not installed; names the command.
    """
    kind, _, name = spec.partition(":")
    if kind == "local" and name:
        return SoftScorer(name, device=device, threads=threads, models_folder=models_folder)
    return Answerer(open_generator(spec, api_key=api_key))


def likelihoods(
    jobs: Sequence[Job],
    scorer: Scorer,
    cache: ResultCache,
    progress: Progress | None = None,
    *,
    softs: Sequence[Soft] | None = None,
    chunk_size: int = 64,
) -> list[Likelihood]:
    """Return the likelihood of every job's reference.

    Args:
        jobs: messages and reference, in any order, some of them equal.
        softs: soft tokens of every job; none where None.
        scorer: the model.
        cache: where results are found and kept.
        progress: called once at the beginning and after each chunk.
        chunk_size: jobs computed between two commits.

    Raises:
        ConfigError: the model only answers, and the cache has not everything.
        BackendError: the model failed or cannot hold a job; chunks done before are kept.
    """
    softened = list(zip(jobs, softs or [""] * len(jobs), strict=True))
    keys = [
        key_of("likelihood", scorer.identity, _plain(messages), reference, *filter(None, [soft]))
        for (messages, reference), soft in softened
    ]
    longest_first = sorted(
        zip(keys, softened, strict=True), key=lambda each: _bulk(each[1][0][0]), reverse=True
    )

    def compute(chunk: list[tuple[Job, Soft]]) -> list[bytes]:
        return [_packed([each.nats, each.n_tokens]) for each in _judged(chunk, scorer)]

    found = _found_or_computed(dict(longest_first), compute, cache, progress, chunk_size)
    return [Likelihood(*json.loads(found[key])) for key in keys]


def _judged(chunk: Sequence[tuple[Job, Soft]], scorer: Scorer) -> list[Likelihood]:
    pairs = [pair for pair, _ in chunk]
    if not any(soft for _, soft in chunk):
        return scorer.nll(pairs)
    if not isinstance(scorer, SoftScorer):
        raise ConfigError(f"{scorer.name} takes no soft tokens; name a local:NAME model")
    return scorer.soft_nll(pairs, [unpacked(soft, scorer.width) for _, soft in chunk])


def packed(soft: NDArray[np.float32]) -> Soft:
    """Soft tokens as text."""
    return base64.b64encode(np.asarray(soft, "<f4").tobytes()).decode("ascii")


def unpacked(soft: Soft, width: int) -> NDArray[np.float32] | None:
    """Soft tokens again; None where there are none.

    Shapes:
        -> (n_tokens, width)
    """
    if not soft:
        return None
    return np.frombuffer(base64.b64decode(soft), "<f4").reshape(-1, width)


def answers(
    jobs: Sequence[Messages],
    scorer: Scorer,
    cache: ResultCache,
    max_tokens: int,
    progress: Progress | None = None,
    *,
    chunk_size: int = 64,
) -> list[str]:
    """Return the model's greedy answer to every job; see `likelihoods`.

    Args:
        jobs: chat messages, in any order, some of them equal.
        scorer: the model.
        cache: where answers are found and kept.
        max_tokens: longest answer, in tokens.
        progress: called once at the beginning and after each chunk.
        chunk_size: jobs answered between two commits.

    Raises:
        BackendError: the model failed or cannot hold a job; chunks done before are kept.
    """
    keys = [key_of("answer", scorer.identity, max_tokens, _plain(messages)) for messages in jobs]
    longest_first = sorted(
        zip(keys, jobs, strict=True), key=lambda each: _bulk(each[1]), reverse=True
    )

    def compute(chunk: list[Messages]) -> list[bytes]:
        return [_packed(text) for text in scorer.generate(chunk, max_tokens)]

    found = _found_or_computed(dict(longest_first), compute, cache, progress, chunk_size)
    return [json.loads(found[key]) for key in keys]


def embeddings(
    texts: Sequence[str],
    encoder: Encoder,
    cache: ResultCache,
    progress: Progress | None = None,
    *,
    chunk_size: int = 2048,
) -> NDArray[np.float16]:
    """Return one row per text; see `likelihoods`.

    Shapes:
        texts (n,) -> (n, dim), also for n = 0.

    Raises:
        BackendError: the encoder failed; chunks done before are kept.
    """
    keys = [key_of("embedding", encoder.name, text) for text in texts]

    def compute(chunk: list[str]) -> list[bytes]:
        batches = encode_batched(encoder, chunk)
        return [row.astype(_FLOAT16).tobytes() for _, rows in batches for row in rows]

    jobs = dict(zip(keys, texts, strict=True))
    found = _found_or_computed(jobs, compute, cache, progress, chunk_size)
    if not keys:
        return np.zeros((0, encoder.dim), np.float16)
    joined = b"".join(found[key] for key in keys)
    return np.frombuffer(joined, _FLOAT16).reshape(len(keys), -1)


def _found_or_computed(
    jobs: Mapping[str, J],
    compute: Callable[[list[J]], list[bytes]],
    cache: ResultCache,
    progress: Progress | None,
    chunk_size: int,
) -> dict[str, bytes]:
    """Return a value for every key, those the cache does not have computed in the given order."""
    if chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size}: it must be at least 1")
    report = progress or _say_nothing
    found = cache.get_many(jobs)
    missing = [key for key in jobs if key not in found]
    report(len(found), len(jobs))
    for start in range(0, len(missing), chunk_size):
        keys = missing[start : start + chunk_size]
        values = dict(zip(keys, compute([jobs[key] for key in keys]), strict=True))
        cache.put_many(values)
        found |= values
        report(len(found), len(jobs))
    return found


def _say_nothing(done: int, total: int) -> None:
    del done, total


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def _bulk(messages: Messages) -> tuple[int, str]:
    """Return what brings together messages of like length, and equal ones."""
    said = "".join(message["content"] for message in messages)
    return len(said), said


def _packed(value: object) -> bytes:
    return json.dumps(value).encode("ascii")
