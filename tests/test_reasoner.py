"""Serving graph reasoning: one user as many at once, consent in both hops, kept and erased."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import copersona
from copersona import Branches, CoPersona, CoPersonaConfig, Interaction, curriculum
from copersona.errors import ArtifactError, ConfigError, DataError
from copersona.learnt import GRAPH, TRAINED_ON, Weights, learnt_from_arrays, learnt_to_arrays
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig, UserView, fit_state
from copersona.method.masking import mask_facets
from copersona.method.profiles import OwnEvidence
from copersona.method.residuals import ResidualConfig
from copersona.reasoning.config import TrainingConfig
from copersona.reasoning.hidden import Hidden, hidden_of
from copersona.reasoning.neighbourhoods import units
from copersona.reasoning.reasoner import GraphReasoner, reasoner_of, to_weights
from copersona.reasoning.training import Decision, Trained, network_of
from copersona.testing import WorldSpec, planted_world

N = 160
SPEC = WorldSpec(n_users=N, n_facets=3, n_groups=3, links=(0, 0, 0), per_facet=5, dim=12,
                 noise=0.4)  # fmt: skip
CONFIG = TrainingConfig(width=16, n_peers=6, n_second=3)


@cache
def state() -> FittedState:
    method = MethodConfig(facets=FacetConfig(n_facets=3), residuals=ResidualConfig(dim=6))
    return fit_state(planted_world(SPEC).corpus, encoder="planted", cut=2e9, config=method)


def trained(used: bool = True) -> Trained:
    """A network that was never trained, stirred so that it says something."""
    torch.manual_seed(3)
    network = network_of(state(), CONFIG)
    for last in (network.correction, network.doubt):
        torch.nn.init.normal_(last.weight, std=0.3)
    lower = 0.1 if used else -0.1
    decisions = tuple(Decision(v.name, 0.2, lower, 50) for v in state().residuals.views)
    return Trained(network, CONFIG, decisions, (1.0, 0.9))


@cache
def strangers() -> tuple[Hidden, OwnEvidence]:
    """Masked facets of people like the lenders, who are none; and what is left of them."""
    it, others = state(), planted_world(replace(SPEC, n_users=60, seed=9)).corpus
    masked = mask_facets(it.observe(others), it.models, it.lending,
                         it.calibration.agreement_floor, it.config.completion,
                         are_lenders=False)  # fmt: skip
    return hidden_of(it, masked, are_lenders=False, n_peers=CONFIG.n_peers), masked.evidence


def anybody(user: str) -> bool:
    return True


def view_of(row: int, it: FittedState | None = None) -> UserView:
    evidence = strangers()[1].take(np.array([row]))
    return (it or state()).view("stranger", evidence, may_lend=anybody)


def test_one_user_gets_what_many_at_once_get() -> None:
    reasoner, (hidden, _) = GraphReasoner(trained(), state()), strangers()
    guess, variance = reasoner.complete(hidden)
    moved = 0
    for row in range(20):
        f = int(hidden.facets[row])
        done = reasoner.corrected(view_of(row), anybody).facets[f]
        wanted = guess[row] * units(state().models)[f]
        np.testing.assert_allclose(done.completed, wanted, rtol=1e-3, atol=1e-4)
        first = [view.start for view in state().residuals.views]
        left = np.minimum(variance[row, first], 1)  # less than a stranger's is known
        np.testing.assert_allclose(1 - done.confidence, left, rtol=1e-2, atol=1e-3)
        moved += not np.allclose(guess[row], hidden.closed[row], atol=1e-3)
    assert moved == 20


def test_where_it_was_not_found_to_help_nothing_changes() -> None:
    view = view_of(0)
    assert GraphReasoner(trained(used=False), state()).corrected(view, anybody) is view


def test_who_does_not_lend_now_is_heard_in_neither_hop() -> None:
    it, silent = state(), {f"user-{n:05d}" for n in range(0, N, 2)}

    def lends(user: str) -> bool:
        return user not in silent

    changed = np.array([user in silent for user in it.lenders])
    means = it.evidence.means + 5 * changed[:, None, None]
    posteriors = tuple(
        replace(p, theta=p.theta + 5 * changed[:, None, None]) for p in it.states.posteriors
    )
    other = replace(it, evidence=replace(it.evidence, means=means),
                    states=replace(it.states, posteriors=posteriors))  # fmt: skip
    listed = GraphReasoner(trained(), it)
    same = listed._peers, listed._alignments
    for row in range(10):
        evidence = strangers()[1].take(np.array([row]))
        view = it.view("stranger", evidence, may_lend=lends)
        said = [
            GraphReasoner(trained(), one, listed=same).corrected(view, lends).facets[f].completed
            for one in (it, other) for f in view.facets
        ]  # fmt: skip
        np.testing.assert_allclose(said[:3], said[3:], atol=1e-6)


def test_those_who_are_heard_are_counted_and_named_as_views() -> None:
    done = GraphReasoner(trained(), state()).corrected(view_of(0), anybody).facets
    for one in done.values():
        assert one.reasoned_views == ("text", "style")
        assert all(n == 0 or n >= 3 for n in one.borrowed_views.values())
    assert any(one.borrowed_views for one in done.values())


def test_where_nobody_near_lends_nothing_changes() -> None:
    alone = state().view("stranger", strangers()[1].take(np.array([0])), may_lend=lambda _: False)
    assert GraphReasoner(trained(), state()).corrected(alone, lambda _: False) is alone


def test_kept_weights_say_the_same(tmp_path: Path) -> None:
    weights = to_weights(trained(), state(), [True] * N)
    arrays, meta = learnt_to_arrays({GRAPH: weights})
    again = learnt_from_arrays(arrays, meta)[GRAPH]
    before = GraphReasoner(trained(), state()).corrected(view_of(1), anybody)
    after = reasoner_of(again, state()).corrected(view_of(1), anybody)
    for f, done in before.facets.items():
        np.testing.assert_allclose(after.facets[f].completed, done.completed, atol=1e-6)


def test_weights_of_another_state_are_refused() -> None:
    weights = to_weights(trained(), state(), [True] * N)
    method = MethodConfig(facets=FacetConfig(n_facets=2), residuals=ResidualConfig(dim=4))
    other = fit_state(planted_world(SPEC).corpus, encoder="planted", cut=2e9, config=method)
    with pytest.raises(ArtifactError, match="train anew"):
        reasoner_of(weights, other)


def test_a_forgotten_lender_leaves_no_row_and_no_link() -> None:
    weights = to_weights(trained(), state(), [True, *[False] * (N - 1)])
    assert weights.saw(0)
    assert not weights.saw(1)
    left = weights.without(7)
    old, new = weights.arrays["peers"], left.arrays["peers"]
    assert len(new) == len(left.arrays[TRAINED_ON]) == N - 1
    kept = np.delete(old, 7, axis=0)
    assert (kept == 7).any()
    assert (new[kept == 7] == -1).all()
    np.testing.assert_array_equal(new[kept > 7], kept[kept > 7] - 1)


# ---- on a store --------------------------------------------------------------------------------

THEMES = {"soup": "pot", "rail": "train", "rust": "compiler"}


def people(n_users: int = 90) -> list[Interaction]:
    """Users of three groups, each with a manner of its own, about three themes."""
    rng = np.random.default_rng(0)
    manners = ["ok fine", "Well, I would say that it is, all in all, rather splendid!!!",
               "no. 12 g, 30 min"]  # fmt: skip
    return [
        Interaction(f"user {u:03d}", f"{theme} {word} number {rng.integers(50)}?",
                    f"{manners[u % 3]} {rng.integers(9)} {word}", facet=theme)
        for u in range(n_users) for theme, word in THEMES.items() for _ in range(6)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cp(tmp_path_factory: pytest.TempPathFactory) -> CoPersona:
    config = CoPersonaConfig(
        method=MethodConfig(facets=FacetConfig(n_facets=3), residuals=ResidualConfig(dim=6)),
        reasoning=TrainingConfig(width=16, n_peers=5, n_second=3, epochs=2, examples=200),
    )
    opened = copersona.open(tmp_path_factory.mktemp("people") / "p.db", encoder="hashing",
                            generator="echo", config=config)  # fmt: skip
    opened.add(people())
    opened.fit()
    return opened


def test_nobody_is_trained_on_who_does_not_allow_it(cp: CoPersona) -> None:
    with pytest.raises(DataError, match="no lender allows training"):
        cp.train()


def test_training_publishes_says_what_it_decided_and_is_dropped_by_a_fit(cp: CoPersona) -> None:
    before = cp._required()
    for n in range(80):
        cp.set_consent(f"user {n:03d}", train=True)
    stages: list[str] = []
    report = cp.train(progress=lambda stage, done, total: stages.append(stage))
    assert "trained on 80 of 90 lenders" in report.said[0]
    assert [line.split(":")[0] for line in report.said[1:]] == ["text", "style"]
    assert any("pass" in stage for stage in stages)
    now = cp._required()
    assert now.version == report.state != before.version
    assert now.learnt[GRAPH].arrays[TRAINED_ON].sum() == 80
    assert not cp._states.training_folder.joinpath("training.pt").exists()
    np.testing.assert_array_equal(now.state.evidence.means, before.state.evidence.means)
    gone = cp.forget("user 004")
    assert gone.traces_found == ()
    assert len(cp._required().learnt[GRAPH].arrays["peers"]) == 89
    cp.forget("user 005", strict=True)
    assert not cp._required().learnt


def let_train(cp: CoPersona) -> None:
    for user in set(cp.state().lenders[:80]):
        cp.set_consent(user, train=True)


def test_who_leaves_while_others_are_trained_is_not_published_again(
    cp: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_train(cp)
    elsewhere = CoPersona(cp.store, namespace=cp.namespace, state_root=cp._root,
                          encoder="hashing", generator="echo", config=cp.config)  # fmt: skip
    leaves = [lambda: elsewhere.forget("user 070"),
              lambda: elsewhere.set_consent("user 071", train=False)]  # fmt: skip
    real = curriculum.train_graph

    def train_graph(*args: Any, **options: Any) -> Any:
        done = real(*args, **options)
        if leaves:
            leaves.pop(0)()
        return done

    monkeypatch.setattr(curriculum, "train_graph", train_graph)
    cp.train()
    now = cp._required()
    taught = now.learnt[GRAPH].arrays[TRAINED_ON]
    assert "user 070" not in now.state.lenders
    assert not taught[now.state.row_of["user 071"]]
    assert taught[now.state.row_of["user 072"]]


def test_a_state_that_is_always_replaced_is_said(
    cp: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_train(cp)
    real = curriculum.train_graph

    def train_graph(*args: Any, **options: Any) -> Any:
        done = real(*args, **options)
        cp._states.publish(*cp._required()[1:])
        return done

    monkeypatch.setattr(curriculum, "train_graph", train_graph)
    with pytest.raises(ArtifactError, match="train again"):
        cp.train()


def used_everywhere(cp: CoPersona) -> None:
    """Publish a network that says something, as if it had been found to help."""
    _, it, items, words, _ = cp._required()
    torch.manual_seed(1)
    network = network_of(it, cp.config.reasoning)
    torch.nn.init.normal_(network.correction.weight, std=0.5)
    decisions = tuple(Decision(v.name, 0.2, 0.1, 50) for v in it.residuals.views)
    made = Trained(network, cp.config.reasoning, decisions, (1.0,))
    weights = to_weights(made, it, [True] * len(it.lenders))
    cp._states.publish(it, items, words, {GRAPH: weights})


def test_personas_follow_what_was_trained_and_the_trace_says_so(cp: CoPersona) -> None:
    cp.fit()  # anew, without what was trained
    user, text = "user 010", "rail train number 7?"
    desk = cp._desk(cp._required())
    closed = desk.view(user, desk.own(user).corpus)
    used_everywhere(cp)
    desk = cp._desk(cp._required())
    reasoned = desk.view(user, desk.own(user).corpus)
    assert not np.allclose(closed.facets[0].completed, reasoned.facets[0].completed)
    lines = cp.explain(cp.prompt(user, text).trace_id).lines()
    assert any("corrected by graph reasoning in text, style" in line for line in lines)
    unasked = cp.explain_query(user, text, branches=Branches(graph=False)).lines()
    assert not any("graph reasoning" in line for line in unasked)
    cp.set_consent(user, learn=False)
    alone = cp._desk(cp._required()).view(user, desk.own(user).corpus)
    assert not any(done.reasoned_views for done in alone.facets.values())
    cp.set_consent(user, learn=True)


def test_without_torch_the_closed_form_is_served_and_that_is_said(
    cp: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_everywhere(cp)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    fresh = CoPersona(cp.store, namespace=cp.namespace, state_root=cp._root, encoder="hashing",
                      generator="echo", config=cp.config)  # fmt: skip
    context = fresh.prompt("user 011", "rail train number 7?")
    assert any("graph reasoning was trained and is not used" in one for one in context.warnings)
    assert context.is_personalised


# ---- branches ----------------------------------------------------------------------------------


def test_branches_are_named_as_they_are_shown() -> None:
    for names in ("text,graph", "text", "graph", "none"):
        assert str(Branches.named(names)) == names
    assert Branches.named(" graph , text ") == Branches()
    for wrong in ("", "words", "text;graph"):
        with pytest.raises(ConfigError, match="text, graph, none"):
            Branches.named(wrong)


def test_each_branch_speaks_alone_both_together_and_none_leaves_the_request(cp: CoPersona) -> None:
    text = "soup pot number 3?"
    kinds = {
        str(branches): {part.kind for part in cp.prompt("user 001", text, branches=branches).parts}
        for branches in (Branches(), Branches(graph=False), Branches(text=False),
                         Branches(text=False, graph=False))
    }  # fmt: skip
    assert "own" in kinds["text,graph"]
    assert kinds["text"] <= {"own", "peers", "population"}
    assert kinds["graph"] <= {"tendencies", "borrowed"}
    assert kinds["text"] | kinds["graph"] == kinds["text,graph"]
    assert kinds["none"] == set()
    bare = cp.prompt("user 001", text, branches=Branches(text=False, graph=False))
    assert bare.messages == ({"role": "user", "content": text},)
    assert not bare.is_personalised


def test_the_choice_among_answers_belongs_to_the_graph(cp: CoPersona) -> None:
    asked = "rust compiler number 4?"
    both = cp.answer(cp.prompt("user 001", asked), n=2)
    text = cp.answer(cp.prompt("user 001", asked, branches=Branches(graph=False)), n=2)
    assert len(both.scores) == 2
    assert text.scores == ()


def test_votes_have_both_branches_too(tmp_path: Path) -> None:
    with copersona.open(tmp_path / "v.db", encoder="hashing", generator="echo") as voting:
        voting.add([
            replace(row, id="", rating=1.0 + int(row.user[-3:]) % 3 * 2) for row in people(30)
        ])  # fmt: skip
        voting.fit()
        found = {
            str(branches): voting.vote("user 002", "soup pot number 3?", branches=branches)
            for branches in (Branches(), Branches(graph=False), Branches(text=False),
                             Branches(text=False, graph=False))
        }  # fmt: skip
    assert found["none"].n_own == found["graph"].n_own == 0
    assert found["text"].n_own > 0
    expected = {name: vote.expected_rating for name, vote in found.items()}
    assert expected["text"] > expected["none"]
    assert expected["graph"] > expected["none"]


def test_parts_hold_for_one_state_alone(cp: CoPersona) -> None:
    used_everywhere(cp)
    assert isinstance(cp._required().learnt.get(GRAPH), Weights)
    cp.fit()
    assert not cp._required().learnt
