"""How one service lets chats through: to which model, for whom unpersonalised, what is kept.

Values only, and the draw of who is held out; what is done with them is told in `chat`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from copersona.errors import ConfigError
from copersona.service.capturing import Echoes
from copersona.service.upstream import Upstream

HoldoutBy = Literal["user", "request"]
_Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(BaseModel):
    """What a million tokens of a model cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Money
    output: _Money


_PRICES = TypeAdapter(dict[str, Price])


def read_prices(file: Path) -> Mapping[str, Price]:
    """The prices in a JSON file, by model.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    try:
        return _PRICES.validate_json(file.read_bytes(), strict=True)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {where or 'not a table of prices'}: {first['msg']}") from error


@dataclass(frozen=True)
class Gateway:
    """The settings of a gateway, and what it remembers while it runs.

    Attributes:
        upstream: where chats go; None answers none.
        captures: what users say is kept, unless a request says otherwise.
        holdout: share of users, or of requests, that is answered unpersonalised.
        prices: by model; what is not in it has no cost.
    """

    upstream: Upstream | None = None
    captures: bool = False
    holdout: float = 0.0
    holdout_by: HoldoutBy = "user"
    prices: Mapping[str, Price] = field(default_factory=dict)
    echoes: Echoes = field(default_factory=Echoes)

    def is_held_out(self, mark: bytes, body: str) -> bool:
        """Whether a request of this user is one of the share; always the same for the same one.

        Args:
            mark: of the user, which is keyed: nobody outside can tell who is drawn.
        """
        drawn = body if self.holdout_by == "request" else ""
        digest = hashlib.sha256(json.dumps([mark.hex(), drawn]).encode("ascii")).digest()
        return int.from_bytes(digest[:8], "big") < self.holdout * 2**64
