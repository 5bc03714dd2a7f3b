"""How soft prompts are trained; needs no torch, so that it can be set where none is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SoftPromptConfig(BaseModel):
    """How a projector is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_pooled: int = Field(2, ge=0)
    """Tokens made of the pool; each slot is one more."""
    hidden: int = Field(256, ge=8)
    knows_user: bool = True
    """False trains the control: as many tokens, which know nothing of the user."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch: int = Field(8, ge=1)
    steps: int = Field(300, ge=1, le=1000)
    """Most steps; counted in whole rounds."""
    round_steps: int = Field(50, ge=1)
    """Steps after which the stopping users are asked, and the checkpoint is written."""
    patience: int = Field(4, ge=1)
    """Rounds without a better test after which training stops."""
    stop_examples: int = Field(128, ge=1)
    """Most examples of the stopping users, spread over them."""
    branch_dropout: float = Field(0.15, ge=0, le=1)
    """Share of examples whose text branch is left out."""
    seed: int = Field(0, ge=0)
