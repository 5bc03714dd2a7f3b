"""What a gate is fitted to avoid; needs none of the libraries that fit it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GateConfig(BaseModel):
    """What being long, and being wrong, costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price: float = Field(0.002, ge=0)
    """Nats per token of the answer that 100 tokens of context must gain."""
    caution: float = Field(1.0, ge=1)
    """How much more a nat lost against none weighs than one gained. Noise of single requests counts
    as harm too, so that much caution refuses small gains everywhere."""
    margin: float = Field(0.02, ge=0)
    """Nats per token a request must be worse by to be reported as a false injection."""
