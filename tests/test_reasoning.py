"""Graph reasoning: nothing before training, a margin after it, no leak, and exact repeats."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from copersona.errors import ArtifactError, DataError
from copersona.method.corpus import Corpus
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig, fit_state
from copersona.method.masking import Hiding
from copersona.method.residuals import ResidualConfig, columns_of
from copersona.reasoning import training
from copersona.reasoning.examples import Examples, corrections, tensors
from copersona.reasoning.hidden import KEPT, Hidden, hide
from copersona.reasoning.neighbourhoods import neighbourhoods, of_lenders, units
from copersona.reasoning.network import Attention, PersonaGNN
from copersona.reasoning.objectives import confusion, misdirection, nats
from copersona.reasoning.reasoner import GraphReasoner
from copersona.reasoning.training import Trained, TrainingConfig, network_of, part_of, train
from copersona.testing import WorldSpec, planted_world

SPEC = WorldSpec(n_users=500, n_facets=4, n_groups=4, links=(0, 0, 0, 0), per_facet=5, dim=12,
                 noise=0.4)  # fmt: skip
"""One group in all facets, and tendencies that differ from facet to facet: the group tells all."""
CONFIG = TrainingConfig(width=32, n_peers=6, n_second=3, epochs=8, examples=1000, batch=64,
                        learning_rate=3e-3)  # fmt: skip


@cache
def corpus(n_groups: int = 4) -> Corpus:
    return planted_world(replace(SPEC, n_groups=n_groups)).corpus


@cache
def state(n_groups: int = 4) -> FittedState:
    config = MethodConfig(facets=FacetConfig(n_facets=4), residuals=ResidualConfig(dim=8))
    return fit_state(corpus(n_groups), encoder="planted", cut=2e9, config=config)


@cache
def trained() -> Trained:
    return train(state(), corpus(), CONFIG)


@cache
def hidden(seed: int = 5, *, kept: tuple[int, ...] = KEPT) -> Hidden:
    it = state()
    return hide(it, it.observe(corpus()), Hiding(kept=kept), are_lenders=True, n_peers=6, most=400,
                seed=seed)  # fmt: skip


def examples(found: Hidden | None = None, device: str = "cpu") -> Examples:
    views = state().residuals.views
    return Examples.of(
        hidden() if found is None else found, columns_of(views, np.arange(len(views))), device
    )


def lenders(device: str = "cpu") -> Any:
    return tensors(of_lenders(state(), 6), device)


def stirred(network: PersonaGNN) -> PersonaGNN:
    """With random last layers, so that everything inside shows."""
    torch.manual_seed(3)
    for last in (network.correction, network.doubt):
        torch.nn.init.normal_(last.weight, std=0.3)
    return network.eval()


# ---- what it sees ------------------------------------------------------------------------------


def test_nodes_are_own_tendencies_in_units_of_a_stranger() -> None:
    found, it = of_lenders(state(), 6), state()
    tendencies = np.concatenate([p.theta for p in it.states.posteriors], axis=2)
    n_columns = it.residuals.n_columns
    np.testing.assert_allclose(found.nodes[..., :n_columns] * units(it.models), tendencies,
                               atol=1e-4)  # fmt: skip
    assert ((found.credibility >= 0) & (found.credibility < 1)).all()
    listed = found.peers >= 0
    assert (found.alignments[listed] > 0).all()
    assert not found.alignments[~listed].any()
    assert (found.peers != np.arange(len(found))[:, None, None]).all()


def test_peers_who_do_not_lend_are_not_listened_to() -> None:
    it, may_lend = state(), np.arange(SPEC.n_users) % 2 == 0
    listed = [it.graph.candidates(row) for row in range(SPEC.n_users)]
    found = neighbourhoods(it, it.evidence, it.states, listed, 6, may_lend)
    assert set(np.unique(found.peers)) <= {-1, *np.flatnonzero(may_lend).tolist()}


def test_a_view_without_signal_has_a_unit_all_the_same() -> None:
    models = [replace(model, signal=0 * model.signal) for model in state().models]
    unit = units(models)
    assert (unit > 0).all()
    noise = np.concatenate([np.repeat(m.noise[:, None], m.view.stop - m.view.start, 1)
                            for m in models], axis=1)  # fmt: skip
    np.testing.assert_allclose(unit**2, 1e-3 * noise)


def test_hidden_interactions_are_in_no_node() -> None:
    found, it = hidden(kept=()), state()
    at = np.arange(len(found)), found.facets
    n = it.residuals.n_columns + len(it.models)
    assert not found.of.nodes[at][:, n:].any()  # no support
    assert (found.known < 1).all()
    assert ((found.variance > 0) & (found.variance <= 1)).all()


# ---- the network ---------------------------------------------------------------------------------


def test_before_training_it_corrects_nothing() -> None:
    guess, variance = corrections(network_of(state(), CONFIG), lenders(), examples())
    np.testing.assert_allclose(guess, hidden().closed, atol=1e-5)
    np.testing.assert_allclose(variance, hidden().variance, rtol=1e-4)


def test_one_is_answered_as_among_many() -> None:
    network = stirred(network_of(state(), CONFIG))
    whole, doubt = corrections(network, lenders(), examples())
    for row in (0, 17):
        one = corrections(network, lenders(), examples().take(torch.tensor([row])))
        np.testing.assert_allclose(one[0][0], whole[row], atol=1e-5)
        np.testing.assert_allclose(one[1][0], doubt[row], atol=1e-5)
    assert np.abs(whole - hidden().closed).max() > 0.05


def test_what_is_hidden_does_not_come_back_through_ones_peers() -> None:
    """Whoever asks is listed by peers with all evidence; changing that changes no answer."""
    network, found = stirred(network_of(state(), CONFIG)), examples()
    listed = of_lenders(state(), 6).peers
    before, _ = corrections(network, lenders(), found)
    asking, f = found.asked.themselves, found.asked.facets
    first = found.asked.users.peers[torch.arange(len(found)), f, 0]
    assert (listed[first, f, :3] == asking[:, None].numpy()).any()  # they do list who asks
    for row in range(0, len(found), 40):
        changed = lenders()
        changed.nodes[asking[row]] += 5.0
        rows = torch.tensor([row])
        after, _ = corrections(network, changed, found.take(rows))
        np.testing.assert_allclose(after[0], before[row], atol=1e-5)


@torch.no_grad()
def test_too_few_peers_say_nothing_and_none_has_more_than_half() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    asking, heard = torch.randn(1, 8), torch.randn(1, 4, 8)
    zero = torch.zeros(1, 4)
    for n, is_heard in ((2, False), (3, True)):
        may_speak = torch.arange(4)[None] < n
        said = attention(asking, heard, zero, may_speak, 3)
        assert bool(said.abs().sum() > 0) is is_heard
    loud = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    said = attention(asking, heard, loud, torch.ones(1, 4, dtype=torch.bool), 3)
    values = attention.value(heard)[0]
    for head in (slice(0, 4), slice(4, 8)):
        others = said[0, head] - 0.5 * values[0, head]  # a mean of the others, at half weight
        rest = torch.linalg.lstsq(values[1:, head].T, others[:, None]).solution.ravel()
        np.testing.assert_allclose(values[1:, head].T @ rest, others, atol=1e-4)
        assert float(rest.sum()) == pytest.approx(0.5, abs=1e-3)


def test_gradients_reach_every_weight() -> None:
    network = stirred(network_of(state(), CONFIG)).train()
    given = examples()
    guess, variance = given.corrected(*network(lenders(), given.asked))
    loss = nats(given.truth, guess, variance, given.noise, given.seen)
    (loss + confusion(given.truth, guess, given.are_rivals())).backward()  # type: ignore[no-untyped-call]
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert [name for name in silent if not name.endswith("key.bias")] == []  # cancels in a softmax


def test_a_step_touches_a_batch_its_peers_and_theirs_and_nobody_else() -> None:
    network, found = stirred(network_of(state(), CONFIG)), examples()
    some = found.take(torch.arange(4))
    before, _ = corrections(network, lenders(), some)
    everybody, asked = lenders(), some.asked
    peers = asked.users.peers[torch.arange(4), asked.facets]
    theirs = everybody.peers[peers, asked.facets[:, None], : CONFIG.n_second]
    touched = {*asked.users.peers.unique().tolist(), *theirs.unique().tolist()}
    others = [row for row in range(SPEC.n_users) if row not in touched]
    everybody.nodes[others], everybody.credibility[others] = torch.nan, torch.nan
    after, _ = corrections(network, everybody, some)
    np.testing.assert_array_equal(after, before)
    assert len(others) > SPEC.n_users / 4


def test_a_step_makes_all_its_tensors_on_the_named_device() -> None:
    """On the device that holds shapes only, which refuses to work with tensors of another."""
    network = network_of(state(), CONFIG).to("meta").train()
    given = examples(device="meta").take(torch.arange(64).to("meta"))
    guess, variance = given.corrected(*network(lenders("meta"), given.asked))
    loss = nats(given.truth, guess, variance, given.noise, given.seen)
    loss = loss + misdirection(given.truth, guess, given.seen)
    (loss + confusion(given.truth, guess, given.are_rivals())).backward()  # type: ignore[no-untyped-call]
    assert {p.grad.device.type for p in network.parameters() if p.grad is not None} == {"meta"}


# ---- objectives ----------------------------------------------------------------------------------


def test_nats_are_those_of_a_normal_distribution() -> None:
    truth, guess = torch.tensor([[1.0, 9.0]]), torch.tensor([[0.5, 0.0]])
    variance, noise = torch.tensor([[0.3, 1.0]]), torch.tensor([[0.2, 0.0]])
    seen = torch.tensor([[True, False]])
    normal = torch.distributions.Normal(0.5, 0.5**0.5)
    expected = -normal.log_prob(torch.tensor(1.0)) - 0.5 * np.log(2 * np.pi)
    assert float(nats(truth, guess, variance, noise, seen)) == pytest.approx(float(expected))


def test_misdirection_is_none_in_the_right_direction_and_one_in_the_opposite() -> None:
    truth, seen = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert float(misdirection(truth, 3 * truth, seen)) == pytest.approx(0, abs=1e-6)
    assert float(misdirection(truth, -truth, seen)) == pytest.approx(1, abs=1e-6)
    assert float(misdirection(truth, truth, ~seen)) == 0


def test_confusion_counts_rivals_only() -> None:
    truth = torch.eye(3)
    alone = torch.zeros(3, 3, dtype=torch.bool)
    assert float(confusion(truth, truth, alone)) == 0
    everybody = ~torch.eye(3, dtype=torch.bool)
    assert float(confusion(truth, truth, everybody)) < 0.01
    assert float(confusion(truth, truth.roll(1, 0), everybody)) > 5


def test_mutual_neighbours_and_oneself_are_no_rivals() -> None:
    rivals, given = examples().are_rivals(), examples()
    listed = given.asked.users.peers[torch.arange(len(given)), given.asked.facets]
    for i, j in rivals.nonzero().tolist()[:200]:
        assert given.asked.facets[i] == given.asked.facets[j]
        assert given.users[i] != given.users[j]
        assert not ((listed[i] == given.users[j]).any() and (listed[j] == given.users[i]).any())


# ---- training ------------------------------------------------------------------------------------


def test_what_was_planted_is_learnt_by_a_margin() -> None:
    """Strangers to training: everything is told by the group, which completion cannot turn."""
    found = hidden(99)
    held = np.array([part_of(state().lenders[u], 0) != "learn" for u in found.users])
    guess, _ = corrections(trained().network, lenders(), examples(found))
    text = held, slice(0, 8)
    sampling = found.noise[text].sum()  # nobody can foretell it
    before = ((found.truth - found.closed)[text] ** 2).sum() - sampling
    after = ((found.truth - guess)[text] ** 2).sum() - sampling
    assert after < 0.8 * before
    assert trained().losses[-1] < trained().losses[0]
    decided = {one.view: one for one in trained().decisions}
    assert decided["text"].is_used
    assert decided["text"].gain > 0.05
    assert 20 < decided["text"].n_users < 200


def test_the_correction_is_used_only_where_it_was_decided() -> None:
    found, made = hidden(99), trained()
    text = replace(made.decisions[0], lower=0.1)
    style = replace(made.decisions[1], lower=-0.1)
    reasoner = GraphReasoner(replace(made, decisions=(text, style)), state())
    guess, variance = reasoner.complete(found)
    anyway, doubt = reasoner.complete(found, everywhere=True)
    np.testing.assert_array_equal(guess[:, :8], anyway[:, :8])
    np.testing.assert_array_equal(guess[:, 8:], found.closed[:, 8:])
    np.testing.assert_array_equal(variance[:, 8:], found.variance[:, 8:])
    np.testing.assert_array_equal(variance[:, :8], doubt[:, :8])
    assert (anyway[:, 8:] != found.closed[:, 8:]).any()


def test_where_nothing_was_planted_completion_stays() -> None:
    found = train(state(1), corpus(1), CONFIG.model_copy(update={"epochs": 2}))
    assert [one.view for one in found.decisions if one.is_used] == []


def test_the_same_seed_gives_the_same_network_and_a_killed_training_goes_on(
    tmp_path: Path,
) -> None:
    short = CONFIG.model_copy(update={"epochs": 3, "examples": 200})
    straight = train(state(), corpus(), short)
    train(state(), corpus(), short.model_copy(update={"epochs": 1}), checkpoint=tmp_path)
    said: list[int] = []
    resumed = train(state(), corpus(), short, checkpoint=tmp_path,
                    progress=lambda epoch, *_: said.append(epoch))  # fmt: skip
    assert said == [2, 3]
    assert resumed.losses == straight.losses
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"epochs": 1, "examples": 200})
    train(state(), corpus(), short, checkpoint=tmp_path)
    with pytest.raises(ArtifactError, match="another training"):
        train(state(), corpus(), short.model_copy(update={"width": 16}), checkpoint=tmp_path)
    some = [n % 9 > 0 for n in range(SPEC.n_users)]
    with pytest.raises(ArtifactError, match="another training"):
        train(state(), corpus(), short, may_train=some, checkpoint=tmp_path)
    (tmp_path / "training.pt").write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match="delete it to train anew"):
        train(state(), corpus(), short, checkpoint=tmp_path)


def test_nobody_who_does_not_allow_it_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[set[int]] = []

    def watched(*args: Any, **options: Any) -> Hidden:
        found = hide(*args, **options)
        targets.append(set(found.users.tolist()))
        return found

    monkeypatch.setattr(training, "hide", watched)
    allowed = [n % 3 > 0 for n in range(SPEC.n_users)]
    short = CONFIG.model_copy(update={"epochs": 1, "examples": 200})
    train(state(), corpus(), short, may_train=allowed)
    assert len(targets) >= 3
    assert all(allowed[user] for found in targets for user in found)
    learnt, stopped, decided = targets[-1], targets[0], targets[1]
    assert not learnt & (stopped | decided)
    assert not stopped & decided


def test_too_few_people_are_refused() -> None:
    few = [n < 12 for n in range(SPEC.n_users)]
    with pytest.raises(DataError, match="needs more people who allow training"):
        train(state(), corpus(), CONFIG, may_train=few)
