"""Where training stands, kept in a folder so that a killed run goes on exactly there.

One file, written whole or not at all. What belongs to another state, other settings or other
training people is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from copersona.errors import ArtifactError

FILE = "training.pt"


@dataclass(frozen=True)
class Checkpoint:
    """After so many passes.

    Attributes:
        losses: of the stopping users, pass by pass; the first is that of the untrained network.
        best: weights of the best of them.
        n_worse: passes since.
    """

    epoch: int
    losses: tuple[float, ...]
    best: dict[str, Any]
    n_worse: int

    @classmethod
    def start(cls, network: nn.Module, loss: float) -> Checkpoint:
        """Before training."""
        return cls(0, (loss,), _copied(network), 0)

    def after(self, network: nn.Module, loss: float) -> Checkpoint:
        """One pass later."""
        is_better = loss < min(self.losses)
        return Checkpoint(
            self.epoch + 1, (*self.losses, loss), _copied(network) if is_better else self.best,
            0 if is_better else self.n_worse + 1,
        )  # fmt: skip


def _copied(network: nn.Module) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def save_checkpoint(
    folder: Path, mark: str, point: Checkpoint, network: nn.Module, optimizer: Any
) -> None:
    """Keep everything that is needed to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        "mark": mark, "epoch": point.epoch, "losses": list(point.losses), "best": point.best,
        "n_worse": point.n_worse, "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    partial = folder / f"{FILE}.{os.getpid()}"
    torch.save(kept, partial)
    partial.replace(folder / FILE)


def load_checkpoint(
    folder: Path, mark: str, network: nn.Module, optimizer: Any
) -> Checkpoint | None:
    """Put network and optimizer back where they were; None where nothing was kept.

    Raises:
        ArtifactError: the file is damaged, or of another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it to train anew") from error
    if kept.get("mark") != mark:
        raise ArtifactError(
            f"{path} is of another training (settings, people or what they said differ); "
            "give another folder, or delete it to train anew"
        )
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    return Checkpoint(kept["epoch"], tuple(kept["losses"]), kept["best"], kept["n_worse"])
