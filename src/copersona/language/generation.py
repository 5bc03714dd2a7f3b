"""Language models behind one protocol: messages in, text out, whole or piece by piece.

Three are built in: `openai:MODEL@URL` (any OpenAI-compatible server), `local:NAME` (a causal
language model in a folder, in this process) and `echo`, which says what it was given. Texts are
counted by the model's own tokenizer where there is one, else by `approximate_tokens`, which rather
counts too many than too few. A model in this process also takes soft tokens: vectors in the place
of tokens, in front of the last message of the user.

This module does not know where messages come from, never logs them, and loads torch only for a
local model.
"""

from __future__ import annotations

import math
import os
import re
import string
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from safetensors import SafetensorError

from copersona.errors import BackendError, ConfigError, DataError, ShapeError
from copersona.language import models
from copersona.language.endpoints import Endpoint

Messages = Sequence[Mapping[str, str]]
"""Chat messages with `role` and `content`."""
Array = NDArray[Any]

_LETTERS = string.ascii_letters.encode()
_SPACES = b" \r\v\f"  # line feeds and tabs are tokens of their own
_ASCII = bytes(range(128))
_PRIVATE = range(0xE000, 0xF900)  # letters that Unicode gives no meaning


class Generator(Protocol):
    """What everything else asks of a language model."""

    @property
    def name(self) -> str:
        """Which model it is, fit for a trace; holds no key."""

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` takes; never much below the truth."""

    def generate(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """Return the whole answer; equal to the joined pieces of `stream`.

        Args:
            messages: chat messages.
            max_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token each time; higher is more varied.
            seed: makes a temperature above 0 repeatable where the model supports it.

        Raises:
            BackendError: the model failed, did not answer in time, or cannot hold the prompt.
        """

    def stream(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; closing the iterator stops the model."""


class OpenAIGenerator:
    """Any server with an OpenAI-compatible `/chat/completions`; the messages are sent to it.

    Args:
        base_url: up to and including the version, such as `https://host/v1`.
        model: the server's name for it.
        api_key: sent as a bearer token.
        timeout_s: longest wait for a whole answer, or for the next piece of a stream, in seconds.
        retries: further attempts, made only while nothing of the answer has been read.
        context_tokens: what the model can hold; servers do not say.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: int = 2,
        context_tokens: int = 8192,
    ) -> None:
        self._endpoint = Endpoint(base_url, api_key, timeout_s=timeout_s, retries=retries)
        self._model = model
        self.context_tokens = context_tokens
        self.name = f"openai:{model}@{self._endpoint.host}"

    def close(self) -> None:
        """Close idle connections."""
        self._endpoint.close()

    def count_tokens(self, text: str) -> int:
        """Return `approximate_tokens`: the server's tokenizer is not known."""
        return approximate_tokens(text)

    def generate(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """Return the whole answer; see `Generator`."""
        body = self._body(messages, max_tokens, temperature, seed)
        answer = self._endpoint.post("/chat/completions", body)
        text = _content(_first_choice(answer), "message")
        if text is None:
            raise BackendError(f"{self.name} answered without a text")
        return text

    def stream(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; see `Generator`.

        Raises:
            BackendError: also where the stream breaks off before the answer's end.
        """
        body = self._body(messages, max_tokens, temperature, seed) | {"stream": True}
        is_finished = False
        with closing(self._endpoint.stream("/chat/completions", body)) as events:
            for event in events:
                if not event.get("choices"):  # such as an event that only counts tokens
                    continue
                choice = _first_choice(event)
                if piece := _content(choice, "delta"):
                    yield piece
                is_finished = is_finished or bool(choice.get("finish_reason"))
        if not is_finished:
            raise BackendError(f"{self.name} broke off before the end of its answer")

    def _body(
        self, messages: Messages, max_tokens: int, temperature: float, seed: int | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        return body if seed is None else body | {"seed": seed}


class LocalModel:
    """A causal language model in this process, and how texts become its tokens.

    Args:
        folder_or_name: the name of an installed model, or a folder that transformers can read.
        models_folder: where installed models are; None means `models.default_folder()`.
        threads: processor threads, for the whole process; None means one, since more slow
            each other down where the machine is shared (30 tokens/s against 3, measured).
        device: `cpu`, `cuda`, or `auto` for `cuda` where there is one. The numbers are of the
            type that the weights are stored in.

    Raises:
        ConfigError: no model is called so, or there is no such device.
        BackendError: the folder holds no chat model; MissingExtraError: it is not installed.
    """

    def __init__(
        self,
        folder_or_name: str | Path,
        *,
        models_folder: Path | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        # Threads that spin while they wait slow each other down tenfold where a core is shared.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._torch = models.require("torch")
        transformers = models.require("transformers")
        self._device = _checked_device(device, has_cuda=self._torch.cuda.is_available())
        folder = Path(folder_or_name)
        if str(folder_or_name) in models.MODELS or not folder.is_dir():
            folder = models.locate(str(folder_or_name), models_folder)
        self._called = folder_or_name
        self._torch.set_num_threads(threads or 1)
        try:
            with models.quiet_loading():
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True
                )
                self._model = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, local_files_only=True, dtype="auto"
                ).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise BackendError(f"{folder}: no causal language model can be loaded") from error
        if not self._tokenizer.chat_template:
            raise BackendError(f"{folder}: no chat template; an instruct model is needed")
        self._model.to(self._device)
        self.name = f"local:{folder.name}"
        self.context_tokens: int = self._model.config.max_position_embeddings
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._marks = _special_tokens(self._tokenizer)
        self._turn = threading.Lock()

    @cached_property
    def identity(self) -> str:
        """Name and content: what has the same identity computes the same."""
        return models.identity_of(self._called)

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the model's own tokenizer makes of `text`."""
        return len(self._encoded(_sendable(text)))

    def _prompt(self, messages: Messages) -> list[int]:
        return self._encoded(self._rendered(self._spoken(messages)))

    def _prompt_around(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Return the tokens before and after where the last message of the user begins."""
        spoken = self._spoken(messages)
        asked = [each for each in spoken if each["role"] == "user"]
        if not asked:
            raise DataError("no message is a user's: there is no place for soft tokens")
        said = {letter for each in spoken for letter in each["content"]}
        mark = next(letter for letter in map(chr, _PRIVATE) if letter not in said)
        asked[-1]["content"] = mark + asked[-1]["content"]
        before, *after = self._rendered(spoken).split(mark)
        if not before or len(after) != 1 or not after[0]:
            raise BackendError(f"{self.name}: the chat template has no place for soft tokens")
        return self._encoded(before), self._encoded(after[0])

    def _spoken(self, messages: Messages) -> list[dict[str, str]]:
        return [
            {"role": each["role"], "content": self._plain(each["content"])} for each in messages
        ]

    def _rendered(self, spoken: Messages) -> str:
        text: str = self._tokenizer.apply_chat_template(
            spoken, add_generation_prompt=True, tokenize=False
        )
        return text

    def _encoded(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _embedded(self, tokens: Sequence[Any]) -> Any:
        """Return one vector a token, as the network takes them in."""
        ids = self._torch.tensor(tokens, dtype=self._torch.long, device=self._device)
        return self._model.get_input_embeddings()(ids)

    def _plain(self, content: str) -> str:
        """Take out the tokens by which the chat template marks whose turn it is."""
        return _sendable(self._marks.sub(" ", content))

    def _room(self, n_prompt: int) -> int:
        """Return how many tokens an answer may have; raises where that is none."""
        room = self.context_tokens - n_prompt
        if room < 1:
            raise BackendError(
                f"{self.name} holds {self.context_tokens} tokens; the prompt has {n_prompt}"
            )
        return room

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class LocalGenerator(LocalModel):
    """A `LocalModel` that answers; answers asked for at once take turns."""

    def generate(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        soft: Array | None = None,
    ) -> str:
        """Return the whole answer; see `Generator`.

        Args:
            soft: soft tokens, in front of the last message of the user; float32.

        Shapes:
            soft (n_tokens, width of the model)
        """
        pieces = self.stream(
            messages, max_tokens=max_tokens, temperature=temperature, seed=seed, soft=soft
        )
        return "".join(pieces)

    def stream(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        soft: Array | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; see `generate`."""
        if soft is None:
            prompt = self._prompt(messages)
            given, n_prompt = {"input_ids": self._torch.tensor([prompt])}, len(prompt)
        else:
            vectors = self._softened(messages, soft)
            given, n_prompt = {"inputs_embeds": vectors}, vectors.shape[1]
        limit = min(max_tokens, self._room(n_prompt))
        said: list[int] = []
        shown = ""
        for token in self._tokens(given, limit, temperature, seed):
            said.append(token)
            text = self._text(said)
            if not text.endswith("\ufffd"):  # else the token ends inside a character
                yield text[len(shown) :]
                shown = text

    def _softened(self, messages: Messages, soft: Array) -> Any:
        """Return a prompt as vectors, soft tokens among them; one row."""
        before, after = map(self._embedded, self._prompt_around(messages))
        if soft.ndim != 2 or soft.shape[1] != after.shape[1]:
            raise ShapeError(f"soft tokens of {self.name} are rows of {after.shape[1]} numbers")
        between = self._torch.from_numpy(soft).to(after)
        return self._torch.cat([before, between, after])[None].detach()

    def _tokens(
        self, given: dict[str, Any], limit: int, temperature: float, seed: int | None
    ) -> Iterator[int]:
        torch = self._torch
        random = torch.Generator()
        random.manual_seed(seed) if seed is not None else random.seed()
        past = None
        for _ in range(limit):
            with self._turn, torch.inference_mode():
                given = {name: value.to(self._device) for name, value in given.items()}
                answer = self._model(**given, past_key_values=past, use_cache=True)
                logits, past = answer.logits[0, -1].float().cpu(), answer.past_key_values
                if temperature > 0:
                    shares = torch.softmax(logits / temperature, dim=-1)
                    token = int(torch.multinomial(shares, 1, generator=random))
                else:
                    token = int(logits.argmax())
            if token in self._ends:
                return
            yield token
            given = {"input_ids": torch.tensor([[token]])}


class EchoGenerator:
    """Answers with the messages it was given; for tests and for looking at a prompt."""

    name = "echo"

    def __init__(self, context_tokens: int = 8192) -> None:
        self.context_tokens = context_tokens

    def count_tokens(self, text: str) -> int:
        """Return `approximate_tokens`."""
        return approximate_tokens(text)

    def generate(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """Return `role: content` of every message, cut at `max_tokens` words."""
        return "".join(
            self.stream(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
        )

    def stream(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the same word by word."""
        del temperature, seed
        said = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        yield from re.findall(r"\s*\S+", said)[:max_tokens]


def approximate_tokens(text: str) -> int:
    """Return an estimate of the tokens of `text` without any model, rather above than below.

    1 for each word or each 4 Latin letters, whichever is more, 1 for each digit, sign, line feed
    and tab, and 1 for each 2 bytes of UTF-8 beyond ASCII. Fast: a few passes over bytes.
    """
    content = text.encode("utf-8", "replace")
    n_letters = len(content) - len(content.translate(None, _LETTERS))
    n_beyond = len(content.translate(None, _ASCII))
    n_signs = len(content.translate(None, _LETTERS + _SPACES)) - n_beyond
    return max(len(content.split()), math.ceil(n_letters / 4)) + n_signs + math.ceil(n_beyond / 2)


def open_generator(
    spec: str, *, api_key: str | None = None, models_folder: Path | None = None
) -> Generator:
    """Return the language model that a short text names.

    Args:
        spec: `openai:MODEL@URL`, `local:NAME` or `echo`.
        api_key: for `openai` only.
        models_folder: for `local` only.

    Raises:
        ConfigError: no language model has that name.
        MissingExtraError: its library or weights are not installed; names the command.
    """
    kind, _, rest = spec.partition(":")
    if spec == "echo":
        return EchoGenerator()
    if kind == "local" and rest:
        return LocalGenerator(rest, models_folder=models_folder)
    if named := endpoint_named(spec):
        return OpenAIGenerator(named[1], named[0], api_key)
    known = "openai:MODEL@URL, local:NAME, echo"
    raise ConfigError(f"no language model is called {spec!r}; known: {known}")


def endpoint_named(spec: str) -> tuple[str, str] | None:
    """Return the model and the base URL of `openai:MODEL@URL`, None for any other spec."""
    match = re.fullmatch(r"openai:(.+?)@(https?://.+)", spec)
    return (match[1], match[2]) if match else None


def _checked_device(device: str, *, has_cuda: bool) -> str:
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device not in {"cpu", "cuda"}:
        raise ConfigError(f"no device is called {device!r}; known: auto, cpu, cuda")
    if device == "cuda" and not has_cuda:
        raise ConfigError("the device 'cuda' is not there; take 'cpu' or 'auto'")
    return device


def _sendable(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _first_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BackendError("the server answered something that is not a chat completion")
    return choices[0]


def _content(choice: Mapping[str, Any], key: str) -> str | None:
    """Return the text under `message` or `delta`, None where there is none."""
    said = choice.get(key)
    text = said.get("content") if isinstance(said, dict) else None
    return text if isinstance(text, str) else None


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, which a model may have one or several of."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in [*several, tokenizer.eos_token_id] if token is not None)


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds every token that is never part of a text, such as the marks of a turn."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    marks = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, marks)) or "(?!)")
