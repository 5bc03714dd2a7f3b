"""Soft prompts: nothing before training, users heard after it, exact repeats, and what leaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from copersona.errors import ArtifactError, BackendError, DataError, ShapeError
from copersona.language.softened import SoftScorer
from copersona.reasoning.training import part_of
from copersona.softprompts.canary import Exposure, exposure
from copersona.softprompts.config import SoftPromptConfig
from copersona.softprompts.projector import Known, PersonaVectors, Projector, ProjectorSize
from copersona.softprompts.training import (
    PHRASE,
    Example,
    Lesson,
    Trained,
    from_arrays,
    to_arrays,
    train,
)
from tiny_model import CONTEXT, save_tiny_model

CONFIG = SoftPromptConfig(
    hidden=32, learning_rate=1e-2, steps=120, round_steps=20, stop_examples=40
)
SHORT = CONFIG.model_copy(update={"steps": 12, "round_steps": 4})
SIZE = ProjectorSize(n_slots=2, slot_width=6, pool_width=5, query_width=4, n_pooled=2, hidden=16,
                     width=32, token_norm=3.0, knows_user=True)  # fmt: skip
SAID = ("ab ab", "yz yz")
"""What users of the two planted groups answer, whatever they are asked."""
GROUPS = np.random.default_rng(0).normal(size=(2, 6))


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> SoftScorer:
    return SoftScorer(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def trained(lm: SoftScorer) -> Trained:
    return train(lm, examples(), CONFIG)


def vectors(seed: int, k: int = 2, confidence: float = 0.5) -> PersonaVectors:
    random = np.random.default_rng(seed)
    return PersonaVectors(random.normal(size=(2, 6)), random.normal(size=(k, 5)),
                          random.random(k), random.normal(size=4), confidence)  # fmt: skip


def example(n: int) -> Example:
    """Two of each user, whose slots tell the group."""
    random, user = np.random.default_rng(n), n // 2
    slots = GROUPS[user % 2] + 0.3 * random.normal(size=(2, 6))
    bare = [{"role": "user", "content": f"Say {n % 5}"}]
    shown = [{"role": "system", "content": "Be brief."}, *bare]
    return Example(f"user {user}", shown, bare, SAID[user % 2],
                   replace(vectors(n, k=n % 3), slots=slots))  # fmt: skip


def examples(n: int = 120) -> list[Example]:
    return [example(row) for row in range(n)]


def stirred(size: ProjectorSize = SIZE) -> Projector:
    """With random base tokens and last layer, so that everything inside shows."""
    torch.manual_seed(3)
    projector = Projector(size)
    torch.nn.init.normal_(projector.base)
    if size.knows_user:
        torch.nn.init.normal_(projector.outer.weight)
    return projector


def weights(projector: Projector) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in projector.state_dict().items()}


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# ---- the projector -----------------------------------------------------------------------------


def test_every_token_is_as_long_as_a_token_of_the_model() -> None:
    tokens = stirred().soft(vectors(1))
    assert tokens is not None
    assert tokens.shape == (4, 32)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 3.0, rtol=1e-5)


def test_before_training_everybody_is_the_same_neutral_phrase() -> None:
    projector = Projector(SIZE)
    base = np.random.default_rng(2).normal(size=(3, 32)).astype("f4")
    projector.start(base, [vectors(n) for n in range(5)])
    expected = 3 * base / np.linalg.norm(base, axis=1)[:, None]
    for seed in (1, 2):
        np.testing.assert_allclose(projector.soft(vectors(seed)), expected[[0, 1, 2, 0]], rtol=1e-5)


def test_of_whom_nothing_is_known_there_are_no_tokens() -> None:
    assert stirred().soft(vectors(1, confidence=0.0)) is None
    assert stirred(replace(SIZE, knows_user=False)).soft(vectors(1, confidence=0.0)) is None


def test_the_control_says_the_same_of_everybody_and_the_projector_does_not() -> None:
    control, projector = stirred(replace(SIZE, knows_user=False)), stirred()
    assert np.array_equal(control.soft(vectors(1)), control.soft(vectors(2)))  # type: ignore[arg-type]
    assert [name for name, _ in control.named_parameters()] == ["base"]
    one, other = projector.soft(vectors(1)), projector.soft(vectors(2))
    assert one is not None
    assert other is not None
    assert (np.abs(one - other).max(axis=1) > 0.03).all()  # every token


def test_one_is_answered_as_among_many() -> None:
    projector = stirred()
    many = [vectors(n, k=n % 4) for n in range(8)]
    with torch.no_grad():
        whole = projector(Known.of(many)).numpy()
    for one, expected in zip(many, whole, strict=True):
        np.testing.assert_allclose(projector.soft(one), expected, atol=1e-5)


def test_an_empty_pool_adds_nothing_of_the_query_nor_of_the_pool() -> None:
    projector = stirred()
    nobody = vectors(1, k=0)
    asked = replace(nobody, query=nobody.query + 5)
    np.testing.assert_array_equal(projector.soft(nobody), projector.soft(asked))
    pooled = projector._entered(Known.of([nobody, vectors(2)]))[:, 2:]
    assert not pooled[0].any()
    assert pooled[1].any()


def test_the_query_and_the_bias_say_what_of_the_pool_is_heard() -> None:
    projector, known = stirred(), vectors(1, k=2)
    heard = [projector.soft(replace(known, bias=np.array(bias))) for bias in ([1, 1], [1, 0])]
    alone = projector.soft(replace(known, pool=known.pool[:1], bias=np.ones(1)))
    far, near = (np.abs(one - alone).max() for one in heard)  # type: ignore[operator]
    assert near < 0.2 * far
    asked = projector.soft(replace(known, query=-known.query))
    before = projector.soft(known)
    np.testing.assert_array_equal(asked[:2], before[:2])  # type: ignore[index]
    assert np.abs(asked[2:] - before[2:]).max() > 1e-3  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        (replace(SIZE, n_slots=0), (slice(0, 0), slice(0, 2))),  # PPlug
        (replace(SIZE, n_slots=1, n_pooled=0), (slice(0, 1), slice(0, 0))),  # E2P
    ],
)
def test_slots_alone_and_a_pool_alone_will_do(size: ProjectorSize, kept: Any) -> None:
    known = vectors(1)
    slots, pool = kept
    given = replace(known, slots=known.slots[slots], pool=known.pool[pool], bias=known.bias[pool])
    tokens = stirred(size).soft(given)
    assert tokens is not None
    assert tokens.shape == (size.n_tokens, 32)


def test_units_of_the_vectors_do_not_matter() -> None:
    found = []
    for unit in (1.0, 1e-3):
        many = [replace(vectors(n), slots=unit * vectors(n).slots, pool=unit * vectors(n).pool,
                        query=unit * vectors(n).query) for n in range(5)]  # fmt: skip
        projector = stirred()
        projector.start(np.ones((1, 32), "f4"), many)
        found.append(projector.soft(many[0]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_gradients_reach_every_weight() -> None:
    projector = stirred()
    torch.sin(projector(Known.of([vectors(n) for n in range(4)]))).sum().backward()
    silent = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in silent if not name.endswith("key.bias")] == []  # cancels in a softmax


def test_vectors_that_disagree_are_refused() -> None:
    with pytest.raises(ShapeError, match="vectors of a persona are"):
        _ = replace(vectors(1), bias=np.ones(3)).widths


# ---- training ----------------------------------------------------------------------------------


def test_what_was_planted_is_learnt_by_a_margin_and_by_knowing_the_user(
    lm: SoftScorer, trained: Trained
) -> None:
    control = train(lm, examples(), CONFIG.model_copy(update={"knows_user": False}))
    assert trained.after < 0.5 * trained.before
    assert trained.after < trained.without - 2
    assert control.after < control.before
    assert trained.after < 0.7 * control.after
    assert control.before == pytest.approx(trained.before, abs=1e-5)
    parts = [part_of(f"user {n}", 0) == "learn" for n in range(60)]
    assert (trained.n_users, trained.n_stopping) == (sum(parts), 60 - sum(parts))


def test_a_stranger_to_training_is_heard(lm: SoftScorer, trained: Trained) -> None:
    for row in (1001, 1003):
        new = example(row)
        soft = trained.projector.soft(new.vectors)
        own, other = new.reference, SAID[1 - SAID.index(new.reference)]
        right, wrong = lm.soft_nll([(new.messages, own), (new.messages, other)], [soft, soft])
        assert right.nats < wrong.nats - 5


def test_the_best_of_all_rounds_is_kept_and_training_stops_when_nothing_gains(
    lm: SoftScorer,
) -> None:
    wild = CONFIG.model_copy(
        update={"learning_rate": 10.0, "patience": 2, "steps": 60, "round_steps": 3}
    )
    found = train(lm, examples(), wild)
    best = found.losses.index(found.after)
    assert len(found.losses) == best + 1 + 2
    lesson = Lesson(lm, examples(), wild)
    assert lesson.stopping_loss(found.projector) == pytest.approx(found.after, abs=1e-6)


def test_a_step_depends_on_nothing_that_was_stepped_before(lm: SoftScorer) -> None:
    lesson = Lesson(lm, examples(), SHORT)
    projector = lesson.projector()
    optimizer = lesson.optimizer(projector)
    start, memory = weights(projector), optimizer.state_dict()
    lesson.step(projector, optimizer, 5)
    straight = weights(projector)
    assert not are_equal(straight, start)
    lesson.step(projector, optimizer, 3)
    projector.load_state_dict(start)
    optimizer = lesson.optimizer(projector)
    optimizer.load_state_dict(memory)
    lesson.step(projector, optimizer, 5)
    assert are_equal(weights(projector), straight)


def test_the_same_seed_gives_the_same_projector_and_another_another(lm: SoftScorer) -> None:
    first, again, other = (
        train(lm, examples(), SHORT.model_copy(update={"seed": seed})) for seed in (0, 0, 1)
    )
    assert first.losses == again.losses
    assert are_equal(weights(first.projector), weights(again.projector))
    assert not are_equal(weights(first.projector), weights(other.projector))


def test_a_training_killed_in_the_middle_of_a_round_goes_on_exactly(
    lm: SoftScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(lm, examples(), SHORT)
    n_left, step = 6, Lesson.step  # the second step of the second round is the last

    def killed(*arguments: Any) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Lesson, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(lm, examples(), SHORT, checkpoint=tmp_path)
    said: list[int] = []
    resumed = train(lm, examples(), SHORT, checkpoint=tmp_path,
                    progress=lambda done, *_: said.append(done))  # fmt: skip
    assert said == list(range(5, 13))
    assert resumed.losses == straight.losses
    assert are_equal(weights(resumed.projector), weights(straight.projector))


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(
    lm: SoftScorer, tmp_path: Path
) -> None:
    short = SHORT.model_copy(update={"steps": 4})
    train(lm, examples(), short, checkpoint=tmp_path)
    train(lm, examples(), short, checkpoint=tmp_path)  # goes on: there is nothing left to do
    others = [replace(one, reference="other") for one in examples()]
    moved = [replace(one, vectors=vectors(3)) for one in examples()]
    for given, config in (
        (others, short),
        (moved, short),
        (examples(), short.model_copy(update={"learning_rate": 0.1})),
    ):
        with pytest.raises(ArtifactError, match="another training"):
            train(lm, given, config, checkpoint=tmp_path)
    (tmp_path / "training.pt").write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match="delete it to train anew"):
        train(lm, examples(), short, checkpoint=tmp_path)


class Watched:
    """Which prompts a language model was asked about."""

    def __init__(self, lm: SoftScorer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        losses = lm.losses

        def watched(prepared: Any, soft: Any) -> Any:
            self.asked += [lm._tokenizer.decode(row.before) for row in prepared]
            return losses(prepared, soft)

        monkeypatch.setattr(lm, "losses", watched)

    @property
    def bare_share(self) -> float:
        return sum("Be brief." not in text for text in self.asked) / len(self.asked)


@pytest.fixture
def watched(lm: SoftScorer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(lm, monkeypatch)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_text_branch_is_left_out_as_often_as_was_asked(
    lm: SoftScorer, watched: Watched, share: float
) -> None:
    config = SHORT.model_copy(update={"branch_dropout": share})
    lesson = Lesson(lm, examples(), config)
    projector = lesson.projector()
    optimizer = lesson.optimizer(projector)
    for number in range(25):
        lesson.step(projector, optimizer, number)
    assert watched.bare_share == pytest.approx(share, abs=0.08 if 0 < share < 1 else 0)
    watched.asked.clear()
    lesson.stopping_loss(projector)
    assert watched.bare_share == 0


def test_every_example_is_learnt_from_once_in_a_pass_and_no_stopping_user_is(
    lm: SoftScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    of = Known.of
    monkeypatch.setattr(
        Known, "of", lambda rows, *a: (seen.extend(r.slots[0, 0] for r in rows), of(rows, *a))[1]
    )
    lesson = Lesson(lm, examples(), SHORT)
    projector = lesson.projector()
    optimizer = lesson.optimizer(projector)
    own = [e.vectors.slots[0, 0] for e in examples() if part_of(e.user, 0) == "learn"]
    for number in range(len(own) // SHORT.batch):
        lesson.step(projector, optimizer, number)
    assert len(seen) == len(set(seen)) == len(own) // SHORT.batch * SHORT.batch
    assert set(seen) <= set(own)


def test_who_says_when_to_stop_is_spread_over_users(lm: SoftScorer, watched: Watched) -> None:
    stopping = sum(part_of(f"user {n}", 0) != "learn" for n in range(60))
    lesson = Lesson(lm, examples(), SHORT.model_copy(update={"stop_examples": stopping}))
    lesson.stopping_loss(None)
    assert (lesson.n_stopping, len(watched.asked)) == (stopping, stopping)


def test_too_little_to_learn_from_is_refused(lm: SoftScorer) -> None:
    with pytest.raises(DataError, match="need more people who allow training"):
        train(lm, examples(30), SHORT)
    learnt = [one for one in examples() if part_of(one.user, 0) == "learn"]
    with pytest.raises(DataError, match="and 0 to stop by"):
        train(lm, learnt, SHORT)
    unknown = [replace(one, vectors=vectors(1, confidence=0.0)) for one in examples()]
    with pytest.raises(DataError, match="0 examples to learn from"):
        train(lm, unknown, SHORT)


def test_examples_that_cannot_be_learnt_from_are_refused(lm: SoftScorer) -> None:
    first, *rest = examples()
    with pytest.raises(ShapeError, match="unlike widths"):
        train(lm, [replace(first, vectors=replace(first.vectors, query=np.ones(9))), *rest], SHORT)
    blank = replace(first.vectors, slots=first.vectors.slots * np.nan)
    with pytest.raises(DataError, match="'user 0' are not finite"):
        train(lm, [replace(first, vectors=blank), *rest], SHORT)
    with pytest.raises(BackendError, match=f"holds {CONTEXT} tokens"):
        train(lm, [replace(first, reference="x" * CONTEXT), *rest], SHORT)
    bare = [replace(e, vectors=replace(e.vectors, slots=np.ones((0, 6)))) for e in examples()]
    with pytest.raises(ShapeError, match="there is nothing to train"):
        train(lm, bare, SHORT.model_copy(update={"n_pooled": 0}))


def test_base_tokens_start_as_the_models_own_words(lm: SoftScorer) -> None:
    base = Lesson(lm, examples(), SHORT).projector().base.detach().numpy()
    np.testing.assert_array_equal(base, lm.embeddings(PHRASE)[:4])


# ---- kept in a fitted state --------------------------------------------------------------------


def test_what_was_trained_comes_back_from_arrays_and_facts(
    lm: SoftScorer, trained: Trained
) -> None:
    arrays, facts = to_arrays(trained)
    for array in arrays.values():
        array.flags.writeable = False  # as of a published state
    back = from_arrays(arrays, json.loads(json.dumps(facts)), language_model=lm.identity)
    np.testing.assert_array_equal(
        back.projector.soft(vectors(1)), trained.projector.soft(vectors(1))
    )
    assert replace(back, projector=trained.projector) == trained
    assert back.projector.size == trained.projector.size


def test_soft_prompts_of_another_language_model_or_broken_ones_are_refused(
    trained: Trained,
) -> None:
    arrays, facts = to_arrays(trained)
    with pytest.raises(ArtifactError, match="not for local:other@0: train them anew"):
        from_arrays(arrays, facts, language_model="local:other@0")
    own = facts["language_model"]
    with pytest.raises(ArtifactError, match="cannot be read"):
        from_arrays({}, facts, language_model=own)
    with pytest.raises(ArtifactError, match="cannot be read"):
        from_arrays(arrays, {**facts, "size": {}}, language_model=own)


# ---- whether a planted text can be drawn out ---------------------------------------------------


def test_exposure_counts_what_is_likelier() -> None:
    assert Exposure(1, 256).bits == 8
    assert Exposure(256, 256).bits == 0


def test_a_text_learnt_by_heart_is_exposed_and_one_never_seen_is_not(lm: SoftScorer) -> None:
    secret, asked = "pin 4711", example(0).messages
    planted = [replace(one, reference=secret) for one in examples()]
    leaking = train(lm, planted, CONFIG)
    known = planted[0].vectors
    found = exposure(lm, leaking.projector, asked, known, secret, n=64)
    before = exposure(lm, None, asked, known, secret, n=64)
    stranger = exposure(lm, leaking.projector, asked, replace(known, confidence=0.0), secret, n=64)
    assert found.bits == 6
    assert before.bits < 4
    assert stranger == before


def test_candidates_are_different_and_of_one_form(
    lm: SoftScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    nll = lm.soft_nll
    monkeypatch.setattr(lm, "soft_nll", lambda pairs, softs: (
        asked.extend(text for _, text in pairs), nll(pairs, softs))[1])  # fmt: skip
    exposure(lm, None, example(0).messages, vectors(1), "no 4-2", n=90)
    assert len(set(asked)) == 90
    assert asked[0] == "no 4-2"
    assert all(text[:3] + text[4] == "no -" and len(text) == 6 for text in asked)
    with pytest.raises(DataError, match="a text with 2 digits has no 100 others"):
        exposure(lm, None, example(0).messages, vectors(1), "no 4-2", n=101)
