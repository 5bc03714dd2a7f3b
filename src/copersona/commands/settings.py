"""The settings of one process: which store, which namespace, which encoder and language model.

They come from the environment and from an optional TOML file, in this order of strength: what is
given outright, the environment, the file, the default. They are read here and nowhere below, so
that the same call does the same everywhere. What is computed, and how, is configured elsewhere:
this module knows no store, no model and no hyper-parameter.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from copersona.errors import ConfigError

CONFIG_VARIABLE = "COPERSONA_CONFIG"


@dataclass(frozen=True, slots=True)
class Settings:
    """Process settings; each has a variable `COPERSONA_<NAME>` and a key in the TOML file.

    Attributes:
        store: path of an SQLite file, or the URL of a database.
        encoder: as in `encoders.open_encoder`; None lets the number of texts decide.
        llm: as in `generation.open_generator`; None means the local model where installed.
        state: folder of the fitted states; None means beside the store.
        api_key: for `openai:`, as in `Backends`; never shown.
        encoder_api_key: for an `openai:` encoder at another address; never shown.
        mask_pii: mask what tells a person before it is stored; `true` or `false`.
    """

    store: str = "copersona.db"
    namespace: str = "default"
    encoder: str | None = None
    llm: str | None = None
    state: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    encoder_api_key: str | None = field(default=None, repr=False)
    mask_pii: bool = False

    @property
    def store_file(self) -> Path | None:
        """The file of an embedded store; None where the store is named by a URL."""
        return None if "://" in self.store else Path(self.store).expanduser()


NAMES = tuple(entry.name for entry in fields(Settings))
SECRET = frozenset({"api_key", "encoder_api_key"})


def read_settings(
    environ: Mapping[str, str] = os.environ,
    *,
    file: Path | None = None,
    given: Mapping[str, str | None] | None = None,
) -> Settings:
    """Settings of this process.

    Args:
        environ: variables; empty ones count as absent.
        file: TOML file; None means the one that `COPERSONA_CONFIG` names, if any.
        given: settings by name that outrank everything; None and empty are not given.

    Raises:
        ConfigError: the file cannot be read, has an unknown key or a value that is not text.
    """
    named = environ.get(CONFIG_VARIABLE)
    file = file or (Path(named).expanduser() if named else None)
    found = _from_file(file) if file else {}
    found |= {name: text for name in NAMES if (text := environ.get(f"COPERSONA_{name.upper()}"))}
    found |= {name: text for name, text in (given or {}).items() if text}
    settings = Settings()
    return Settings(
        store=found.get("store", settings.store),
        namespace=found.get("namespace", settings.namespace),
        encoder=found.get("encoder"),
        llm=found.get("llm"),
        state=Path(found["state"]).expanduser() if "state" in found else None,
        api_key=found.get("api_key"),
        encoder_api_key=found.get("encoder_api_key"),
        mask_pii=_is_on("mask_pii", found.get("mask_pii", "false")),
    )


def _is_on(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, is {text!r}")
    return text == "true"


def _from_file(file: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    for name, value in values.items():
        if name not in NAMES:
            raise ConfigError(f"{file}: unknown setting {name!r}; known: {', '.join(NAMES)}")
        if not isinstance(value, str) or not value:
            shown = "is not" if name in SECRET else f"is {value!r}"
            raise ConfigError(f"{file}: {name} must be a text, {shown}")
    return values
