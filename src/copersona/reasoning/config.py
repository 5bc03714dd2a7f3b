"""How graph reasoning is trained; needs no torch, so that it can be set where none is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How graph reasoning is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=8)
    n_heads: int = Field(4, ge=1)
    n_peers: int = Field(16, ge=3)
    """Peers each facet listens to …"""
    n_second: int = Field(8, ge=3)
    """… and each of these peers in turn."""
    edge_dropout: float = Field(0.2, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch: int = Field(128, ge=2)
    epochs: int = Field(20, ge=1)
    """Most passes; each hides other facets."""
    examples: int = Field(3000, ge=50)
    """Most masked facets in one pass, and in each of the two tests."""
    patience: int = Field(4, ge=1)
    """Passes without a better test after which training stops."""
    nce: float = Field(0.0, ge=0)
    """Weight of telling people apart; see docs/experiments.md."""
    seed: int = 0
