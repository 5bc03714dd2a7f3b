"""Training graph reasoning on masked facets, and deciding whether it is used at all.

Users are split three ways by hash: most are learnt from, some tell when to stop, and some, seen by
neither, decide view by view whether the correction beats completion in closed form. Where it does
not, it is switched off, and says so. Training goes on exactly where it was stopped, and the same
seed gives the same network on a CPU.

A step touches the users of its batch, their peers and `n_second` peers of each peer, nobody else:
its memory does not grow with the population. What does is the table of lenders, made once. Tensors
are made on the named device; on a GPU this is untested.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copersona.errors import DataError
from copersona.method.corpus import Corpus
from copersona.method.fitted import FittedState
from copersona.method.masking import Hiding
from copersona.method.residuals import columns_of
from copersona.reasoning.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from copersona.reasoning.config import TrainingConfig
from copersona.reasoning.examples import Examples, corrections, tensors
from copersona.reasoning.hidden import KEPT, Hidden, hide
from copersona.reasoning.neighbourhoods import of_lenders, width_of
from copersona.reasoning.network import PersonaGNN, Size
from copersona.reasoning.objectives import confusion, misdirection, nats

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

_PARTS = {"learn": "learn from", "stop": "stop by", "decide": "decide by"}
_LEAST = 30
"""Examples below which nothing can be learnt, or decided."""
_ONE_SIDED_95 = 1.645


@dataclass(frozen=True)
class Decision:
    """What the deciding users say of one view.

    Attributes:
        gain: share of the squared error of completion that the correction removes.
        lower: its lower bound, one-sided 95 %, users resampled as wholes (normal approximation).
    """

    view: str
    gain: float
    lower: float
    n_users: int

    @property
    def is_used(self) -> bool:
        """Whether the correction is used in this view: its bound is above 0."""
        return self.lower > 0

    @property
    def sentence(self) -> str:
        """What was decided, and by which numbers."""
        told = f"removes {self.gain:.1%} of the squared error (at least {self.lower:.1%})"
        chosen = "is used" if self.is_used else "is not used, completion in closed form is"
        return f"{self.view}: {chosen}; on {self.n_users:,} other users it {told}"


@dataclass(frozen=True)
class Trained:
    """A network, what it was made with, and where it may be used.

    Attributes:
        losses: of the stopping users, pass by pass.
    """

    network: PersonaGNN
    config: TrainingConfig
    decisions: tuple[Decision, ...]
    losses: tuple[float, ...]


def train(
    state: FittedState,
    corpus: Corpus,
    config: TrainingConfig,
    *,
    may_train: Sequence[bool] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train on lenders who allow it; nobody else's evidence is a target.

    Args:
        corpus: what the state was fitted on.
        may_train: of each lender; all where None.
        checkpoint: a folder to go on from, and to save to after every pass.

    Raises:
        DataError: too few people with facets that could be hidden.

    Source: method step 7.
    """
    with repeatable(device):
        return _trained(_Lesson(state, corpus, config, may_train, device), config, checkpoint,
                        progress)  # fmt: skip


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Sums on a CPU in the same order every time; on a GPU no such order is promised."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(torch.device(device).type == "cpu" or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _trained(
    lesson: _Lesson, config: TrainingConfig, checkpoint: Path | None, progress: Progress | None
) -> Trained:
    network = lesson.network()
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    point = load_checkpoint(checkpoint, lesson.mark, network, optimizer) if checkpoint else None
    if point is None:
        point = Checkpoint.start(network, lesson.stopping_loss(network))
    while point.epoch < config.epochs and point.n_worse < config.patience:
        begun = time.monotonic()
        lesson.learn(network, optimizer, point.epoch)
        point = point.after(network, lesson.stopping_loss(network))
        if checkpoint:
            save_checkpoint(checkpoint, lesson.mark, point, network, optimizer)
        if progress:
            took = time.monotonic() - begun
            said = f"loss {point.losses[-1]:.4f}, best {min(point.losses):.4f}, {took:.1f} s a pass"
            progress(point.epoch, config.epochs, said)
    network.load_state_dict(point.best)
    network.eval()
    return Trained(network, config, lesson.decisions(network), point.losses)


def part_of(user: str, seed: int) -> str:
    """Which of the three parts a user belongs to: seven in ten are learnt from."""
    number = hashlib.sha256(f"{seed} {user}".encode()).digest()[0] % 20
    return "learn" if number < 14 else ("stop", "decide")[number % 2]


class _Lesson:
    """One state, its lenders and their parts, on one device."""

    def __init__(
        self,
        state: FittedState,
        corpus: Corpus,
        config: TrainingConfig,
        may_train: Sequence[bool] | None,
        device: str,
    ) -> None:
        self._state, self._config, self._device = state, config, device
        self._observed = state.observe(corpus)
        self._lenders = tensors(of_lenders(state, config.n_peers), device)
        allowed = np.ones(corpus.n_users, bool) if may_train is None else np.array(may_train)
        parts = np.array([part_of(user, config.seed) for user in corpus.user_ids])
        self._users = {name: allowed & (parts == name) for name in _PARTS}
        views = state.residuals.views
        self._views = columns_of(views, np.arange(len(views)))
        self._stop, self._decide = self._hidden("stop", 0), self._hidden("decide", 0)

    @property
    def mark(self) -> str:
        """What has the same mark trains the same network."""
        state, config = self._state, self._config.model_copy(update={"epochs": 1, "patience": 1})
        said = [state.encoder, state.config.model_dump_json(), config.model_dump_json(),
                [user for user, may in zip(state.lenders, self._allowed(), strict=True) if may],
                state.fitted_ids.tolist()]  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _allowed(self) -> list[bool]:
        allowed: list[bool] = np.any(list(self._users.values()), axis=0).tolist()
        return allowed

    def network(self) -> PersonaGNN:
        """As it is before training: it corrects nothing."""
        torch.manual_seed(self._config.seed)
        return network_of(self._state, self._config).to(self._device)

    def _hidden(self, part: str, number: int) -> Hidden:
        """Masked facets of one part; other ones for every number."""
        config = self._config
        found = hide(
            self._state, self._observed, Hiding(kept=KEPT, among=self._users[part]),
            are_lenders=True, n_peers=config.n_peers, most=config.examples,
            seed=config.seed * 100_003 + number,
        )  # fmt: skip
        if len(found) < _LEAST:
            raise DataError(
                f"only {len(found)} facets could be hidden to {_PARTS[part]}, {_LEAST} are needed: "
                "graph reasoning needs more people who allow training, or longer histories"
            )
        return found

    def _examples(self, hidden: Hidden) -> Examples:
        return Examples.of(hidden, self._views, self._device)

    def learn(self, network: PersonaGNN, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """One pass over newly hidden facets, in an order of its own."""
        torch.manual_seed(self._config.seed * 100_003 + epoch)
        examples = self._examples(self._hidden("learn", epoch))
        network.train()
        for rows in torch.split(torch.randperm(len(examples)), self._config.batch):
            loss = self._loss(network, examples.take(rows.to(self._device)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    def _loss(self, network: PersonaGNN, given: Examples) -> torch.Tensor:
        guess, variance = given.corrected(*network(self._lenders, given.asked))
        loss = nats(given.truth, guess, variance, given.noise, given.seen)
        loss = loss + 0.5 * misdirection(given.truth, guess, given.seen)
        if not self._config.nce:
            return loss
        rivals = given.are_rivals()
        return loss + self._config.nce * confusion(given.truth, guess * given.seen, rivals)

    @torch.no_grad()
    def stopping_loss(self, network: PersonaGNN) -> float:
        """On people who are not learnt from."""
        network.eval()
        examples = self._examples(self._stop)
        batches = torch.split(torch.arange(len(examples), device=self._device), self._config.batch)
        sums = [float(self._loss(network, examples.take(rows))) * len(rows) for rows in batches]
        return sum(sums) / len(examples)

    def decisions(self, network: PersonaGNN) -> tuple[Decision, ...]:
        """View by view, on people seen by neither training nor stopping."""
        hidden = self._decide
        corrected, _ = corrections(network, self._lenders, self._examples(hidden))
        found = []
        for view in self._state.residuals.views:
            part, seen = view.slice, np.isfinite(hidden.noise[:, view.start])
            truth = hidden.truth[seen, part]
            before = ((truth - hidden.closed[seen, part]) ** 2).sum(axis=1)
            after = ((truth - corrected[seen, part]) ** 2).sum(axis=1)
            found.append(_decision(view.name, before, after, hidden.users[seen]))
        return tuple(found)


def _decision(view: str, before: Array, after: Array, users: Array) -> Decision:
    names, place = np.unique(users, return_inverse=True)
    total = float(before.sum())
    if len(names) < 2 or total <= 0:
        return Decision(view, 0.0, 0.0, len(names))
    gains = np.bincount(place, before - after)
    error = float(np.sqrt(len(names) * gains.var(ddof=1)))
    gain = float(gains.sum())
    return Decision(view, gain / total, (gain - _ONE_SIDED_95 * error) / total, len(names))


def network_of(state: FittedState, config: TrainingConfig) -> PersonaGNN:
    """An untrained network of the size that a state and settings ask for."""
    size = Size(
        width_of(state), state.residuals.n_columns, len(state.models), config.width,
        config.n_heads, config.n_second, state.config.completion.min_donors,
    )  # fmt: skip
    links = torch.tensor(state.transfer[:, 1:], dtype=torch.float32)
    return PersonaGNN(size, links, edge_dropout=config.edge_dropout)
