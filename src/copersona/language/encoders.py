"""Text encoders: a list of texts in, one row of length 1 per text out.

An encoder is anything with a `name`, a `dim` and an `encode`; the name contains a hash of the
weights where there are any, so that vectors kept under it are never mixed with others. Blank text
has the zero row. Five are built in: `hashing` (no weights), `static` (averaged word vectors),
`minilm` (a small transformer), `st:NAME` (sentence-transformers) and `openai:MODEL@URL` (any
OpenAI-compatible server). Torch is loaded only by the encoder that needs it.

This module does not know what the texts are, and keeps no vectors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from copersona.errors import BackendError, ConfigError
from copersona.language import models
from copersona.language.endpoints import Endpoint

Matrix = NDArray[np.float32]

MINILM_LIMIT = 20_000
"""Texts up to which a CPU encodes with `minilm` in reasonable time: about ten minutes."""

_LONGEST_TEXT = 32_768  # characters; what comes after hardly moves an average
_LONGEST_SENT = 8_000  # characters; servers refuse a text of more than some 8,000 tokens
_LARGEST_NUMBER = 1e15  # squares of such numbers still add up in float32
_TOKEN = re.compile(r"\w{1,40}|[^\w\s]")


class Encoder(Protocol):
    """What everything else asks of an encoder."""

    @property
    def name(self) -> str:
        """Identity of what is computed; vectors of equal names may be compared."""

    @property
    def dim(self) -> int:
        """Length of a row."""

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text, of length 1, or zero where the text is blank.

        Shapes:
            texts (n,) -> (n, dim), also for n = 0.

        Raises:
            BackendError: the encoder failed or did not answer in time.
        """


class HashingEncoder:
    """Words and three-letter pieces, hashed with signs; knows no synonyms, needs no weights.

    A feature that occurs n times in a text counts 1 + ln n.
    """

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise ConfigError(f"dim is {dim}: it must be at least 1")
        self.dim = dim
        self.name = f"hashing-v1-{dim}"

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text; see `Encoder`."""
        codes = [_feature_codes(text) for text in texts]
        if not codes:
            return np.zeros((0, self.dim), np.float32)
        rows = np.repeat(np.arange(len(codes), dtype=np.uint64), [len(each) for each in codes])
        features, counts = np.unique(
            (rows << np.uint64(32)) | np.concatenate(codes), return_counts=True
        )
        row, code = features >> np.uint64(32), features & np.uint64(0xFFFFFFFF)
        signs = 1.0 - 2.0 * (code >> np.uint64(31)).astype(np.float64)
        cells = row * np.uint64(self.dim) + (code & np.uint64(0x7FFFFFFF)) % np.uint64(self.dim)
        flat = np.bincount(
            cells.astype(np.int64),
            weights=signs * (1.0 + np.log(counts)),
            minlength=len(codes) * self.dim,
        )
        matrix = flat.reshape(len(codes), self.dim)
        has_cancelled = np.array([len(each) > 0 for each in codes]) & ~matrix.any(axis=1)
        matrix[has_cancelled, 0] = 1.0  # short texts, whose few features met with opposite signs
        return _normalised(matrix)


class StaticEncoder:
    """The mean of a text's word vectors, with the weights that the wordllama package ships.

    The files are read without importing that package, which would set up logging for the whole
    process and pad every batch to its longest text.
    """

    def __init__(self) -> None:
        folder = models.locate("static")
        weights, tokenizer = (folder / name for name in models.find_model("static").files)
        self._vectors = load_file(weights)["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.dim: int = self._vectors.shape[1]
        self.name = f"static-{models.find_model('static').weights_sha256[:8]}"

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text; see `Encoder`."""
        return _encode_in_blocks(texts, self.dim, 256, self._encode_block)

    def _encode_block(self, texts: list[str]) -> Matrix:
        tokens = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.minimum(np.array(each.ids, np.int64), len(self._vectors) - 1) for each in tokens]
        empty = np.zeros(self.dim, np.float32)
        return np.stack([self._vectors[each].mean(axis=0) if len(each) else empty for each in ids])


class MiniLMEncoder:
    """all-MiniLM-L6-v2 on the CPU: mean over the first 256 tokens' states.

    In bfloat16 where the processor computes in it, which doubles the speed; rows then differ in the
    third decimal from those of a processor without, and the name says which it is.

    Args:
        batch_size: texts that go through the network together.
    """

    _MAX_TOKENS = 256

    def __init__(self, batch_size: int = 32) -> None:
        self._torch = models.require("torch")
        transformers = models.require("transformers")
        folder = models.locate("minilm") / "model"
        capabilities: dict[str, bool] = getattr(self._torch.cpu, "get_capabilities", dict)()
        has_bf16 = bool(capabilities.get("avx512_bf16"))
        dtype = self._torch.bfloat16 if has_bf16 else self._torch.float32
        with models.quiet_loading():
            model = transformers.AutoModel.from_pretrained(
                folder, dtype=dtype, local_files_only=True
            )
        self._model = model.eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(self._MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._batch_size = _checked_size(batch_size)
        self.dim: int = model.config.hidden_size
        precision = "bf16" if has_bf16 else "fp32"
        self.name = f"minilm-{precision}-{models.find_model('minilm').weights_sha256[:8]}"

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text; see `Encoder`."""
        return _encode_in_blocks(texts, self.dim, self._batch_size, self._encode_block)

    def _encode_block(self, texts: list[str]) -> Matrix:
        torch = self._torch
        tokens = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([each.ids for each in tokens])
        mask = torch.tensor([each.attention_mask for each in tokens])
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).float()
            rows = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return np.asarray(rows.numpy(), dtype=np.float32)


class SentenceTransformersEncoder:
    """Any sentence-transformers model, by name or folder, on whatever device that library picks."""

    def __init__(self, name_or_path: str) -> None:
        library = models.require("sentence_transformers", "pip install 'copersona[sentence]'")
        try:
            self._model = library.SentenceTransformer(name_or_path)
        except (OSError, ValueError) as error:
            raise BackendError(f"cannot load {name_or_path!r}: {error}") from error
        # The method has another name before version 6, and the old name warns from there on.
        is_new = hasattr(self._model, "get_embedding_dimension")
        method = "get_embedding_dimension" if is_new else "get_sentence_embedding_dimension"
        self.dim: int = getattr(self._model, method)()
        label = Path(name_or_path).name if Path(name_or_path).is_dir() else name_or_path
        self.name = f"st-{label}-{_hash_of_weights(self._model.state_dict())}"

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text; see `Encoder`."""
        return _encode_in_blocks(texts, self.dim, 256, self._encode_block)

    def _encode_block(self, texts: list[str]) -> Matrix:
        rows = self._model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


class OpenAIEncoder:
    """Any server with an OpenAI-compatible `/embeddings`; the texts are sent to it.

    Args:
        base_url: up to and including the version, such as `https://host/v1`.
        model: the server's name for it.
        api_key: sent as a bearer token.
        timeout_s: longest wait for one batch, in seconds.
        backoff_s: pause before the first retry, in seconds.
        batch_size: texts in one request.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        backoff_s: float = 0.5,
        batch_size: int = 64,
    ) -> None:
        self._endpoint = Endpoint(base_url, api_key, timeout_s=timeout_s, backoff_s=backoff_s)
        self._model, self._batch_size = model, _checked_size(batch_size)
        self._dim: int | None = None
        self.name = f"openai-{model}@{self._endpoint.host}"

    @property
    def dim(self) -> int:
        """Length of a row; asks the server once where nothing has been encoded yet."""
        if self._dim is None:
            self._encode_block(["dimension"])
        assert self._dim is not None
        return self._dim

    def close(self) -> None:
        """Close idle connections."""
        self._endpoint.close()

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return one row per text; see `Encoder`."""
        return _encode_in_blocks(texts, self.dim, self._batch_size, self._encode_block)

    def _encode_block(self, texts: list[str]) -> Matrix:
        sent = [text[:_LONGEST_SENT] for text in texts]
        body = {"model": self._model, "input": sent, "encoding_format": "float"}
        rows = self._rows(self._endpoint.post("/embeddings", body), len(texts))
        if self._dim is None:
            self._dim = rows.shape[1]
        if rows.shape[1] != self._dim:
            raise BackendError(
                f"{self.name} answered {rows.shape[1]} dimensions, {self._dim} before"
            )
        return rows

    def _rows(self, answer: dict[str, Any], n_texts: int) -> Matrix:
        try:
            data = sorted(answer["data"], key=lambda entry: int(entry["index"]))
            places = [int(entry["index"]) for entry in data]
            rows = np.array([entry["embedding"] for entry in data], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BackendError(f"{self.name} answered something that is not embeddings") from error
        if places != list(range(n_texts)) or rows.ndim != 2 or not rows.size:
            raise BackendError(f"{self.name} answered {rows.shape} numbers for {n_texts} texts")
        if not (np.abs(rows) < _LARGEST_NUMBER).all():  # also where one is not a number
            raise BackendError(f"{self.name} answered numbers without a bound")
        return rows.astype(np.float32)


def open_encoder(spec: str, *, api_key: str | None = None) -> Encoder:
    """Return the encoder that a short text names.

    Args:
        spec: `hashing`, `static`, `minilm`, `st:NAME` or `openai:MODEL@URL`.
        api_key: for `openai` only.

    Raises:
        ConfigError: no encoder has that name.
        MissingExtraError: its library or weights are not installed; names the command.
    """
    kind, _, rest = spec.partition(":")
    if kind in _PLAIN and not rest:
        return _PLAIN[kind]()
    if kind == "st" and rest:
        return SentenceTransformersEncoder(rest)
    if kind == "openai" and (match := re.fullmatch(r"(.+?)@(https?://.+)", rest)):
        return OpenAIEncoder(match[2], match[1], api_key)
    known = ", ".join([*_PLAIN, "st:NAME", "openai:MODEL@URL"])
    raise ConfigError(f"no encoder is called {spec!r}; known: {known}")


def default_encoder(n_texts: int) -> tuple[str, str]:
    """Return the spec of the encoder to take for so many texts on a CPU, and a sentence why."""
    if n_texts > MINILM_LIMIT:
        return "static", (
            f"Encoder: static, because {n_texts:,} texts are more than {MINILM_LIMIT:,}, "
            "for which minilm would take too long on a CPU."
        )
    needed = ("torch", "transformers", models.find_model("minilm").module)
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        return "static", (
            f"Encoder: static, because minilm, the better one, needs {', '.join(missing)}; "
            f"to install it: {models.LOCAL_COMMAND} && {models.find_model('minilm').command}"
        )
    return "minilm", (
        f"Encoder: minilm, because it is the better one and {n_texts:,} texts are few enough."
    )


def encode_batched(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 512,
) -> Iterator[tuple[slice, Matrix]]:
    """Yield the place and the rows of one batch after another, so that each can be kept at once.

    Args:
        encoder: what encodes.
        texts: in the order of the rows.
        progress: called after each batch was taken, with texts done and texts in all.
        batch_size: texts in a batch.

    Raises:
        BackendError: also where the encoder does not answer one row per text.
    """
    for start in range(0, len(texts), _checked_size(batch_size)):
        batch = texts[start : start + batch_size]
        rows = encoder.encode(batch)
        if rows.shape != (len(batch), encoder.dim):
            raise BackendError(f"{encoder.name} answered {rows.shape} for {len(batch)} texts")
        yield slice(start, start + len(batch)), rows
        if progress:
            progress(start + len(batch), len(texts))


_PLAIN: dict[str, Callable[[], Encoder]] = {
    "hashing": HashingEncoder,
    "static": StaticEncoder,
    "minilm": MiniLMEncoder,
}


def _encode_in_blocks(
    texts: Sequence[str], dim: int, size: int, encode_block: Callable[[list[str]], Matrix]
) -> Matrix:
    """Encode the texts that are not blank, in blocks of like length, and put the rows in place."""
    matrix = np.zeros((len(texts), dim), np.float32)
    filled = [row for row, text in enumerate(texts) if text.strip()]
    filled.sort(key=lambda row: len(texts[row]))
    for start in range(0, len(filled), size):
        rows = filled[start : start + size]
        matrix[rows] = encode_block([_sendable(texts[row]) for row in rows])
    return _normalised(matrix)


def _checked_size(batch_size: int) -> int:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
    return batch_size


def _sendable(text: str) -> str:
    """Cut what is overlong, and replace lone surrogates, which no tokenizer takes."""
    return text.strip()[:_LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")


def _normalised(matrix: NDArray[Any]) -> Matrix:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def _feature_codes(text: str) -> NDArray[np.uint64]:
    tokens = _TOKEN.findall(text.strip()[:_LONGEST_TEXT].lower())
    if not tokens:
        return np.zeros(0, np.uint64)
    return np.frombuffer(b"".join(_token_codes(token) for token in tokens), np.uint32).astype(
        np.uint64
    )


@lru_cache(maxsize=65_536)
def _token_codes(token: str) -> bytes:
    """Return the 32-bit hashes of a word and of its three-letter pieces, as bytes."""
    padded = f"<{token}>"
    pieces = [token, *(padded[i : i + 3] for i in range(len(padded) - 2))]
    codes = [zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in pieces]
    return np.array(codes, np.uint32).tobytes()


def _hash_of_weights(tensors: Mapping[str, Any]) -> str:
    """Return a short hash of weights by their numbers, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
