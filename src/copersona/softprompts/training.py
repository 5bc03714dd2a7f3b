"""Training a projector so that a frozen language model finds likelier what its users really said.

Users are split by hash: most are learnt from, the others say when to stop, and the best of what
they saw is kept. Training goes on exactly where it was stopped, and the same seed gives the same
projector on a CPU. Who may be trained on is the caller's to see to.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from copersona.errors import ArtifactError, DataError, ShapeError
from copersona.language.generation import Messages
from copersona.language.softened import Prepared, SoftScorer
from copersona.reasoning.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from copersona.reasoning.training import part_of, repeatable
from copersona.softprompts.config import SoftPromptConfig
from copersona.softprompts.projector import Known, PersonaVectors, Projector, ProjectorSize

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

PHRASE = "Answer the following request."
"""What the base tokens start as; says nothing of anybody."""
_LEAST = 30
"""Examples below which nothing can be learnt."""


@dataclass(frozen=True)
class Example:
    """A request, what was really said, and what is known of who said it.

    Attributes:
        messages: as they would be sent, text branch and all.
        bare: the same without the text branch.
        vectors: made without the reference; of confidence 0 they are learnt nothing from.
    """

    user: str
    messages: Messages
    bare: Messages
    reference: str
    vectors: PersonaVectors


@dataclass(frozen=True)
class Trained:
    """A projector and what it was made with.

    Attributes:
        language_model: the identity of the one that it speaks to.
        losses: nats per token of the stopping users, round by round; the first is that of the
            untrained projector.
        without: the same without any soft tokens.
        n_users: learnt from.
        n_stopping: users who said when to stop.
    """

    projector: Projector
    config: SoftPromptConfig
    language_model: str
    losses: tuple[float, ...]
    without: float
    n_users: int
    n_stopping: int

    @property
    def before(self) -> float:
        """Nats per token of the stopping users before training."""
        return self.losses[0]

    @property
    def after(self) -> float:
        """The same of the projector that is kept."""
        return min(self.losses)


def train(
    lm: SoftScorer,
    examples: Sequence[Example],
    config: SoftPromptConfig,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a projector for one language model, on the device where that is.

    Args:
        checkpoint: a folder to go on from, and to save to after every round.

    Raises:
        DataError: too few examples, or none of the users is to say when to stop.
        BackendError: the language model cannot hold an example.
        ArtifactError: the checkpoint is damaged, or of another training.

    Source: method steps 10 and 12. Deviates: graph reasoning is not trained
    further; the learning rate is ten times the step's.
    """
    with repeatable(lm.device):
        lesson = Lesson(lm, examples, config)
        try:
            return _trained(lesson, config, checkpoint, progress)
        finally:
            lm.forget_beginnings()


def _trained(
    lesson: Lesson, config: SoftPromptConfig, checkpoint: Path | None, progress: Progress | None
) -> Trained:
    projector = lesson.projector()
    optimizer = lesson.optimizer(projector)
    point = load_checkpoint(checkpoint, lesson.mark, projector, optimizer) if checkpoint else None
    if point is None:
        point = Checkpoint.start(projector, lesson.stopping_loss(projector))
    n_rounds = -(-config.steps // config.round_steps)
    while point.epoch < n_rounds and point.n_worse < config.patience:
        for step in lesson.steps_of(point.epoch):
            lesson.step(projector, optimizer, step)
            if progress:
                said = f"loss {point.losses[-1]:.4f}, best {min(point.losses):.4f}"
                progress(step + 1, n_rounds * config.round_steps, said)
        point = point.after(projector, lesson.stopping_loss(projector))
        if checkpoint:
            save_checkpoint(checkpoint, lesson.mark, point, projector, optimizer)
    projector.load_state_dict(point.best)
    projector.eval()
    return Trained(
        projector, config, lesson.language_model, point.losses, lesson.stopping_loss(None),
        lesson.n_users, lesson.n_stopping,
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """An example in tokens."""

    whole: Prepared
    bare: Prepared
    vectors: PersonaVectors


class Lesson:
    """One language model, its examples and who says when to stop."""

    def __init__(
        self, lm: SoftScorer, examples: Sequence[Example], config: SoftPromptConfig
    ) -> None:
        self._lm, self._config, self.language_model = lm, config, lm.identity
        known = [each for each in examples if each.vectors.confidence > 0]
        learnt = [each for each in known if part_of(each.user, config.seed) == "learn"]
        stopping = [each for each in known if part_of(each.user, config.seed) != "learn"]
        if len(learnt) < _LEAST or not stopping:
            raise DataError(
                f"{len(learnt)} examples to learn from and {len(stopping)} to stop by, of users "
                f"of whom something is known: {_LEAST} and 1 are needed; soft prompts need more "
                "people who allow training, or longer histories"
            )
        stopping = _spread(stopping, config.stop_examples)
        self.n_users, self.n_stopping = _n_users(learnt), _n_users(stopping)
        self._size = self._size_of([*learnt, *stopping])
        self.mark = self._mark([*learnt, *stopping])
        self._learn, self._stop = (
            [self._row(each) for each in some] for some in (learnt, stopping)
        )

    def _size_of(self, examples: Sequence[Example]) -> ProjectorSize:
        widths = {each.vectors.widths for each in examples}
        if len(widths) > 1:
            raise ShapeError(f"vectors of users have unlike widths: {sorted(widths)}")
        config, lm = self._config, self._lm
        size = ProjectorSize(
            *widths.pop(), n_pooled=config.n_pooled, hidden=config.hidden, width=lm.width,
            token_norm=lm.token_norm, knows_user=config.knows_user,
        )  # fmt: skip
        if not size.n_tokens:
            raise ShapeError("neither slots nor pooled tokens: there is nothing to train")
        return size

    def _mark(self, examples: Sequence[Example]) -> str:
        """What has the same mark trains the same projector."""
        config = self._config.model_copy(update={"steps": 1, "patience": 1})
        mark = hashlib.sha256(f"{self.language_model} {config.model_dump_json()}".encode())
        for each in examples:
            said = [each.user, list(map(dict, each.messages)), list(map(dict, each.bare)),
                    each.reference, each.vectors.confidence]  # fmt: skip
            mark.update(json.dumps(said).encode())
            for array in (each.vectors.slots, each.vectors.pool, each.vectors.bias,
                          each.vectors.query):  # fmt: skip
                if not np.isfinite(array).all():
                    raise DataError(f"vectors of user {each.user!r} are not finite numbers")
                mark.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return mark.hexdigest()

    def _row(self, each: Example) -> _Row:
        n_soft = self._size.n_tokens
        return _Row(
            self._lm.prepare(each.messages, each.reference, n_soft),
            self._lm.prepare(each.bare, each.reference, n_soft),
            each.vectors,
        )

    def projector(self) -> Projector:
        """As it is before training: it says nothing of anybody."""
        torch.manual_seed(self._config.seed)
        projector = Projector(self._size)
        projector.start(self._lm.embeddings(PHRASE), [row.vectors for row in self._learn])
        return projector.to(self._lm.device)

    def optimizer(self, projector: Projector) -> torch.optim.Optimizer:
        """For all weights of a projector."""
        config = self._config
        return torch.optim.AdamW(
            projector.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )

    def steps_of(self, number: int) -> range:
        """Steps of one round."""
        size = self._config.round_steps
        return range(number * size, (number + 1) * size)

    def step(self, projector: Projector, optimizer: torch.optim.Optimizer, number: int) -> None:
        """One step; which examples it sees depends on its number and the seed alone."""
        config = self._config
        batch = min(config.batch, len(self._learn))
        epoch, place = divmod(number, len(self._learn) // batch)
        order = np.random.default_rng((config.seed, epoch)).permutation(len(self._learn))
        rows = [self._learn[at] for at in order[place * batch : (place + 1) * batch]]
        drawn = np.random.default_rng((config.seed, epoch, place)).random(len(rows))
        prepared = [
            row.bare if one < config.branch_dropout else row.whole
            for row, one in zip(rows, drawn, strict=True)
        ]
        projector.train()
        loss = self._losses(projector, rows, prepared).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()

    def _losses(
        self, projector: Projector | None, rows: Sequence[_Row], prepared: Sequence[Prepared]
    ) -> torch.Tensor:
        soft = None
        if projector is not None:
            soft = projector(Known.of([row.vectors for row in rows], self._lm.device))
        losses: torch.Tensor = self._lm.losses(prepared, soft)
        return losses

    @torch.no_grad()
    def stopping_loss(self, projector: Projector | None) -> float:
        """Mean nats per token of people who are not learnt from; without soft tokens where None."""
        size, total = self._config.batch, 0.0
        for start in range(0, len(self._stop), size):
            rows = self._stop[start : start + size]
            total += float(self._losses(projector, rows, [row.whole for row in rows]).sum())
        return total / len(self._stop)


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """One example of every user, then a second, until there are enough."""
    seen: Counter[str] = Counter()
    turns = []
    for each in examples:
        turns.append(seen[each.user])
        seen[each.user] += 1
    return [examples[at] for at in np.argsort(turns, kind="stable")[:most]]


def _n_users(examples: Sequence[Example]) -> int:
    return len({each.user for each in examples})


def to_arrays(trained: Trained) -> tuple[dict[str, Array], dict[str, Any]]:
    """Weights as arrays, and everything else as facts that JSON can hold."""
    weights = trained.projector.state_dict()
    facts = {
        "language_model": trained.language_model, "size": asdict(trained.projector.size),
        "config": trained.config.model_dump(mode="json"), "losses": list(trained.losses),
        "without": trained.without, "n_users": trained.n_users,
        "n_stopping": trained.n_stopping,
    }  # fmt: skip
    return {name: value.cpu().numpy() for name, value in weights.items()}, facts


def from_arrays(
    arrays: Mapping[str, Array], facts: Mapping[str, Any], *, language_model: str
) -> Trained:
    """What `to_arrays` was given.

    Args:
        language_model: the identity of the one that is to be spoken to.

    Raises:
        ArtifactError: it was trained for another language model, or something is missing.
    """
    try:
        if facts["language_model"] != language_model:
            raise ArtifactError(
                f"soft prompts were trained for {facts['language_model']}, not for "
                f"{language_model}: train them anew, or use that language model"
            )
        projector = Projector(ProjectorSize(**facts["size"]))
        projector.load_state_dict({name: torch.tensor(each) for name, each in arrays.items()})
        return Trained(
            projector.eval(), SoftPromptConfig.model_validate(facts["config"]), language_model,
            tuple(facts["losses"]), facts["without"], facts["n_users"], facts["n_stopping"],
        )  # fmt: skip
    except (KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise ArtifactError(f"soft prompts cannot be read ({error}); train them anew") from error
