"""The encoder and the language model of one deployment, each opened once, with the keys for them.

A key goes only where it was meant to: the one given for the language model also goes to an encoder
at the same address, and to no other. Keys are held so that no representation shows them. Knows
names of models and addresses; knows no texts, and not what is encoded or asked.
"""

from __future__ import annotations

import re
import threading
from functools import cached_property
from pathlib import Path

from pydantic import SecretStr

from copersona.errors import ConfigError, MissingExtraError
from copersona.language.encoders import Encoder, default_encoder, open_encoder
from copersona.language.generation import Generator, approximate_tokens, open_generator
from copersona.language.models import MODELS, identity_of
from copersona.language.softened import SoftScorer

LOCAL_MODEL = "local:smollm2"
"""The language model where none is named, if it is installed."""

NO_MODEL = (
    "no language model is configured: name one (COPERSONA_LLM=openai:MODEL@URL), or install the "
    "small local one (`copersona models install smollm2`); `prompt` works without one"
)

NOT_LOCAL = (
    "soft prompts and the gate are learnt with a language model in this process; {} is none: name "
    "one (COPERSONA_LLM=local:NAME)"
)

_PASSWORD = re.compile(r"(?<=//)[^/@]*@")
_ADDRESS = re.compile(r"openai:.+?@(https?://[^/?#]+)", re.IGNORECASE)


class Backends:
    """What texts are encoded with and requests answered by.

    Args:
        encoder: spec as for `open_encoder`; None lets the number of texts decide.
        generator: spec as for `open_generator`; None means the local model, where installed.
        api_key: for an `openai:` language model, and an `openai:` encoder at the same address; for
            the encoder alone where the language model is not `openai:`.
        encoder_api_key: for an `openai:` encoder at another address.
    """

    def __init__(
        self,
        encoder: str | None,
        generator: str | None,
        *,
        api_key: str | None = None,
        encoder_api_key: str | None = None,
    ) -> None:
        self._encoder_spec, self._generator_spec = encoder, generator
        self._key, self._encoder_key = SecretStr(api_key or ""), SecretStr(encoder_api_key or "")
        self._encoders: dict[str, Encoder] = {}
        self._generator: Generator | None = None
        self._opening = threading.Lock()

    def encoder_for(self, n_texts: int) -> tuple[str, str]:
        """The spec of the encoder to fit so many texts with, and a sentence why."""
        if self._encoder_spec:
            shown = _PASSWORD.sub("", self._encoder_spec)
            return self._encoder_spec, f"Encoder: {shown}, as given."
        return default_encoder(n_texts)

    def encoder(self, spec: str) -> Encoder:
        """The encoder of that name."""
        with self._opening:
            if spec not in self._encoders:
                self._encoders[spec] = open_encoder(spec, api_key=self._key_for(spec))
            return self._encoders[spec]

    def generator(self) -> Generator:
        """The language model.

        Raises:
            ConfigError: none is named, and the local one is not installed.
            BackendError: the one that is named cannot be opened.
        """
        with self._opening:
            if self._generator is None:
                key = self._key.get_secret_value() or None
                name = self._generator_spec or LOCAL_MODEL
                try:
                    self._generator = open_generator(name, api_key=key)
                except MissingExtraError as error:
                    if self._generator_spec:
                        raise
                    raise ConfigError(NO_MODEL) from error
            return self._generator

    @property
    def generator_name(self) -> str:
        """What the language model is called, as given."""
        return _PASSWORD.sub("", self._generator_spec or LOCAL_MODEL)

    @cached_property
    def identity(self) -> str:
        """Of the language model, where it is one in this process, else empty; opens none."""
        name = self._local_name
        return identity_of(name) if name in MODELS or (name and Path(name).is_dir()) else ""

    def scorer(self, device: str) -> SoftScorer:
        """The language model as one that soft prompts, and the gate, are learnt with.

        Args:
            device: `cpu`, or `cuda` where there is one.

        Raises:
            ConfigError: it is not one in this process.
            BackendError: it cannot be opened.
        """
        if not self._local_name:
            raise ConfigError(NOT_LOCAL.format(self.generator_name))
        return SoftScorer(self._local_name, device=device)

    @property
    def _local_name(self) -> str:
        """Name or folder of a language model in this process; empty for every other."""
        kind, _, name = (self._generator_spec or LOCAL_MODEL).partition(":")
        return name if kind == "local" else ""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text for the language model in use; estimated where none is open."""
        count = self._generator.count_tokens if self._generator else approximate_tokens
        return count(text)

    def _key_for(self, encoder: str) -> str | None:
        there = _address(self._generator_spec)
        is_shared = not there or there == _address(encoder)
        own, shared = self._encoder_key.get_secret_value(), self._key.get_secret_value()
        return own or (shared if is_shared else "") or None


def _address(spec: str | None) -> str:
    """Where an `openai:` model is, without path; empty for every other."""
    found = _ADDRESS.match(spec or "")
    return found[1].lower() if found else ""
