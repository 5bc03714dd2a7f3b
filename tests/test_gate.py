"""The gate on planted losses, where it is known on which requests evidence helps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona.answering.gate import (
    CHOICES,
    FEATURES,
    NONE,
    Choice,
    Gate,
    GateFeatures,
    combined,
    design,
    routing_entropy,
)
from copersona.answering.gate_config import GateConfig
from copersona.answering.gate_fitting import choice_costs, fit_gate, policy_cost
from copersona.answering.gate_report import GateReport, build_gate_report
from copersona.answering.omega_fitting import fit_omega
from copersona.errors import ArtifactError, ConfigError, DataError, ShapeError

Array = NDArray[Any]

TEXTS = CHOICES[:5]
RELEVANCE = FEATURES.index("own_relevance")
FREE = GateConfig(price=0)
ASKED = GateFeatures(0.5, 0.1, 0.9, 0.2, 0.4, 0.0, 1.6, 0.3, 0.5)


@dataclass(frozen=True)
class Planted:
    """Requests and what each choice really cost on them."""

    features: Array
    losses: Array
    tokens: Array
    users: tuple[str, ...]

    def fit(self, config: GateConfig = FREE, n_choices: int = 5) -> tuple[Gate, GateReport]:
        return fit_gate(
            self.features, self.losses[:, :n_choices], self.tokens[:, :n_choices], self.users,
            config, choices=TEXTS[:n_choices],
        )  # fmt: skip


@cache
def planted(kind: str, n_users: int = 80, per_user: int = 6, noise: float = 0.08) -> Planted:
    """A world in which `own` and all beyond it `helps` somewhere, `harms`, or is `best` always."""
    rng = np.random.default_rng(7)
    n = n_users * per_user
    features = rng.normal(size=(n, len(FEATURES)))
    features[:, RELEVANCE] = rng.uniform(0, 1, n)
    effect = {
        "helps": np.where(features[:, RELEVANCE] > 0.6, -0.15, 0.1),
        "harms": np.full(n, 0.1),
        "best": np.full(n, -0.15),
        "nothing": np.zeros(n),
    }[kind]
    losses = np.repeat(2.5 + rng.normal(0, 0.3, (n, 1)), 5, axis=1)
    losses[:, 1:] += effect[:, None] + np.array([0, 0.04, 0.04, 0.04])
    losses[:, 1:] += rng.normal(0, noise, (n, 4))
    tokens = np.tile([0.0, 100.0, 200.0, 200.0, 300.0], (n, 1))
    return Planted(features, losses, tokens, tuple(f"user-{i // per_user}" for i in range(n)))


# ---- what is chosen among --------------------------------------------------------------------


def test_every_mix_of_texts_comes_with_and_without_soft_tokens_and_none_is_first():
    assert CHOICES[0] is NONE
    assert (NONE.name, NONE.origins, NONE.has_soft) == ("none", frozenset(), False)
    assert [choice.name for choice in TEXTS] == [
        "none", "own", "own + peers", "own + population", "all",
    ]  # fmt: skip
    kinds = {(choice.origins, choice.has_soft) for choice in CHOICES}
    assert len(kinds) == len({choice.name for choice in CHOICES}) == len(CHOICES) == 10
    assert {choice.name for choice in CHOICES if not choice.origins} == {"none", "soft"}


def test_features_are_read_in_the_order_of_their_fields():
    assert ASKED.as_array()[RELEVANCE] == 0.9
    assert len(ASKED.as_array()) == len(FEATURES)


def test_entropy_of_a_routing_goes_from_one_facet_to_all_alike():
    assert routing_entropy(np.array([1.0, 0, 0])) == pytest.approx(0)
    assert routing_entropy(np.full(4, 0.25)) == pytest.approx(1)
    assert routing_entropy(np.array([0.5, 0.5, 0, 0])) == pytest.approx(0.5)
    assert routing_entropy(np.array([1.0])) == pytest.approx(0)


# ---- planted worlds --------------------------------------------------------------------------


def test_a_gate_beats_every_fixed_choice_where_own_evidence_helps_only_when_relevant():
    _, report = planted("helps").fit()
    assert not report.is_constant
    best = report.fixed[report.best_fixed].loss
    assert report.oracle < report.gate.loss < best - 0.03
    assert report.high < -0.03
    assert report.gate.false_injection < 0.15 * report.fixed["own"].false_injection
    assert report.lost_by_abstaining < -0.05
    assert report.gate.tokens < report.fixed["own"].tokens


def test_the_gate_that_is_kept_reads_the_feature_that_tells():
    gate, _ = planted("helps").fit()
    assert gate.choose(ASKED).name == "own"
    assert gate.choose(replace(ASKED, own_relevance=0.2)) == NONE
    shares = gate.shares(np.stack([ASKED.as_array()] * 3))
    assert shares.shape == (3, 5)
    assert shares.sum(axis=1) == pytest.approx(1)


def test_where_everything_harms_nothing_enters_and_the_report_says_so():
    gate, report = planted("harms").fit()
    assert report.abstained > 0.99
    assert report.gate.false_injection < 0.01 < 0.7 < report.fixed["all"].false_injection
    assert report.lost_by_abstaining < -0.05
    assert gate.choose(ASKED) == NONE
    assert any(line.startswith("gate: always none") for line in report.lines())
    assert any(line.startswith("none in 100% of requests") for line in report.lines())


def test_where_evidence_only_adds_noise_none_is_not_left_for_a_lucky_choice():
    gate, report = planted("nothing").fit()
    assert report.is_constant
    assert gate.choose(ASKED) == NONE


def test_where_one_choice_is_always_best_the_gate_is_constant_and_says_why():
    gate, report = planted("best").fit()
    assert report.is_constant
    assert "always own;" in report.why
    assert gate.choose(ASKED).name == gate.choose(replace(ASKED, own_relevance=0.0)).name == "own"
    assert gate.shares(ASKED.as_array())[1] > 0.99
    assert report.difference == pytest.approx(0)
    assert np.isnan(report.lost_by_abstaining)


def test_caution_makes_the_gate_abstain_more_often_and_harm_less():
    world = planted("helps", noise=0.2)
    plain, careful = (world.fit(GateConfig(price=0, caution=by))[1] for by in (1, 2))
    assert careful.abstained > plain.abstained + 0.03
    assert careful.gate.false_injection < plain.gate.false_injection


def test_caution_and_price_enter_the_cost_as_stated():
    losses, tokens = np.array([[2.0, 1.9, 2.1]]), np.array([[0.0, 50.0, 200.0]])
    costs = choice_costs(losses, tokens, GateConfig(price=0.01, caution=3))
    assert costs[0] == pytest.approx([0, -0.1 + 0.005, 0.3 + 0.02])


def test_a_price_of_tokens_moves_the_choice_to_a_cheaper_one_as_good():
    world = planted("best")
    losses = world.losses.copy()
    losses[:, 4] = losses[:, 1] - 0.002  # all: a little better than own for 200 tokens more
    equal = replace(world, losses=losses)
    assert equal.fit(FREE)[0].choose(ASKED).name == "all"
    gate, report = equal.fit(GateConfig(price=0.01))
    assert gate.choose(ASKED).name == "own"
    assert report.gate.tokens == pytest.approx(100)


def test_soft_tokens_alone_may_be_chosen():
    world = planted("best")
    losses = world.losses[:, :2].copy()
    losses[:, 1] -= 0.1
    choices = (NONE, CHOICES[5])
    gate, _ = fit_gate(world.features, losses, world.tokens[:, :2], world.users, FREE,
                       choices=choices)  # fmt: skip
    assert gate.choose(ASKED) == Choice(frozenset(), True, "soft")


def test_a_gate_may_be_fitted_on_some_of_the_choices():
    gate, report = planted("helps").fit(n_choices=2)
    assert [choice.name for choice in gate.choices] == list(report.fixed) == ["none", "own"]
    assert gate.choose(ASKED).name == "own"
    assert report.gate.loss < report.fixed[report.best_fixed].loss - 0.03


# ---- fitting ---------------------------------------------------------------------------------


def test_the_gradient_agrees_with_finite_differences():
    world, rng = planted("helps"), np.random.default_rng(0)
    columns = design(world.features, np.zeros(len(FEATURES)), np.ones(len(FEATURES)))
    costs = choice_costs(world.losses, world.tokens, GateConfig(caution=2))
    weights = rng.normal(0, 0.3, (columns.shape[1], 5))
    _, gradient = policy_cost(weights, columns, costs, 0.1)
    for place in [(0, 0), (1, 3), (3, 1), (9, 4)]:
        step = np.zeros_like(weights)
        step[place] = 1e-5
        rise = (policy_cost(weights + step, columns, costs, 0.1)[0]
                - policy_cost(weights - step, columns, costs, 0.1)[0])  # fmt: skip
        assert gradient[place] == pytest.approx(rise / 2e-5, rel=1e-5, abs=1e-9)


def test_the_order_of_requests_does_not_matter():
    world = planted("helps")
    order = np.random.default_rng(1).permutation(len(world.users))
    mixed = Planted(world.features[order], world.losses[order], world.tokens[order],
                    tuple(world.users[row] for row in order.tolist()))  # fmt: skip
    (gate, report), (other, other_report) = world.fit(), mixed.fit()
    shares = gate.shares(world.features)
    assert other.shares(world.features) == pytest.approx(shares, abs=0.01)
    assert other_report.gate.loss == pytest.approx(report.gate.loss, abs=1e-3)


def test_a_feature_that_never_varies_is_no_trouble():
    world = planted("helps")
    features = world.features.copy()
    features[:, 0] = 1.0
    _, report = replace(world, features=features).fit()
    assert report.gate.loss < report.fixed[report.best_fixed].loss - 0.03


def test_a_gate_survives_being_stored():
    gate, _ = planted("helps").fit()
    arrays, facts = gate.to_arrays()
    again = Gate.from_arrays(arrays, json.loads(json.dumps(facts)))
    assert again.choices == gate.choices
    assert again.price == gate.price
    features = planted("helps").features
    assert np.array_equal(again.shares(features), gate.shares(features))


def test_a_stored_gate_that_does_not_fit_is_refused():
    arrays, facts = planted("helps").fit()[0].to_arrays()
    with pytest.raises(ArtifactError, match="other features"):
        Gate.from_arrays(arrays, {**facts, "features": ["need"]})
    with pytest.raises(ArtifactError, match="oracle"):
        Gate.from_arrays(arrays, {**facts, "choices": ["none", "oracle"]})
    with pytest.raises(ArtifactError, match="weights"):
        Gate.from_arrays({}, facts)


# ---- the report ------------------------------------------------------------------------------


def test_the_report_counts_as_its_words_say():
    losses = np.array([[2.0, 1.9, 2.5], [2.0, 2.01, 1.0], [2.0, 2.1, 2.4], [2.0, 2.3, 1.9]])
    tokens = np.tile([0.0, 10.0, 20.0], (4, 1))
    shares = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.5, 0.1, 0.4]])
    report = build_gate_report(losses, tokens, ["a", "a", "b", "c"], ["none", "own", "all"], shares,
                               margin=0.02, kept=(False, "learnt"))  # fmt: skip
    assert report.gate.loss == pytest.approx((1.9 + 2.01 + 2.1 + 2.0) / 4)
    assert report.gate.false_injection == 0.25  # only the third is worse by more than the margin
    assert report.fixed["own"].false_injection == report.fixed["all"].false_injection == 0.5
    assert report.fixed["none"].false_injection == 0
    assert report.oracle == pytest.approx((1.9 + 1.0 + 2.0 + 1.9) / 4)
    assert report.abstained == 0.25
    assert report.lost_by_abstaining == pytest.approx(2.0 - 1.9)  # `all`, which comes second
    assert report.gate.tokens == 7.5
    assert report.best_fixed == "all"
    assert report.difference == pytest.approx(report.gate.loss - 1.95)
    assert report.low < report.difference < report.high
    assert any("falsely in 33% of these" in line for line in report.lines())


def test_requests_of_one_user_are_not_counted_as_independent():
    world = planted("helps", n_users=40)
    doubled = [np.concatenate([table] * 4) for table in (world.losses, world.tokens)]
    shares = np.concatenate([np.eye(5)[world.losses.argmin(axis=1)]] * 4)
    once, four_times = (
        build_gate_report(
            losses, tokens, users, [c.name for c in TEXTS], chosen, margin=0.02, kept=(False, ""),
        )
        for losses, tokens, users, chosen in (
            (world.losses, world.tokens, world.users, shares[: len(world.users)]),
            (*doubled, world.users * 4, shares),
        )
    )  # fmt: skip
    assert four_times.high - four_times.low == pytest.approx(once.high - once.low)


# ---- bad input -------------------------------------------------------------------------------


def test_too_little_to_learn_from_is_said_with_what_is_needed():
    with pytest.raises(DataError, match=r"30 requests of 15 users.*needed are 40 requests"):
        planted("helps", n_users=15, per_user=2).fit()
    with pytest.raises(DataError, match="of 10 users in"):
        planted("helps", n_users=8, per_user=10).fit()


def test_tables_that_disagree_or_lack_a_number_are_refused():
    world = planted("helps")
    with pytest.raises(ShapeError, match="losses has shape"):
        replace(world, losses=world.losses[:-1]).fit()
    with pytest.raises(ShapeError, match="tokens has shape"):
        replace(world, tokens=world.tokens[:, :3]).fit()
    with pytest.raises(ShapeError, match="features has shape"):
        replace(world, features=world.features[:, :3]).fit()
    losses = world.losses.copy()
    losses[3, 2] = np.nan
    with pytest.raises(DataError, match=r"losses.*1 values"):
        replace(world, losses=losses).fit()
    with pytest.raises(ShapeError, match="9 are read"):
        world.fit()[0].shares(np.zeros(4))


@pytest.mark.parametrize("choices", [TEXTS[1:3], TEXTS[:1], (NONE, TEXTS[1], TEXTS[1])])
def test_none_must_be_first_among_different_choices(choices: tuple[Choice, ...]):
    world, n = planted("helps"), len(choices)
    with pytest.raises(ConfigError, match="none, first"):
        fit_gate(world.features, world.losses[:, :n], world.tokens[:, :n], world.users, FREE,
                 choices=choices)  # fmt: skip


# ---- two opinions about labels ---------------------------------------------------------------


def test_two_opinions_are_joined_in_log_space():
    llm, vote = np.log([0.7, 0.2, 0.1]), np.log([0.1, 0.8, 0.1])
    assert combined(llm, vote, 0) == pytest.approx(llm)
    assert combined(llm, vote, 1) == pytest.approx(vote)
    both = np.sqrt([0.07, 0.16, 0.01])
    assert np.exp(combined(llm, vote, 0.5)) == pytest.approx(both / both.sum())
    rows = combined(np.stack([llm, llm]), np.stack([vote, vote]), np.array([0.0, 1.0]))
    assert rows == pytest.approx(np.stack([llm, vote]))


def test_opinions_that_disagree_in_shape_or_rule_a_label_out_are_refused():
    with pytest.raises(ShapeError, match="log_vote"):
        combined(np.zeros(3), np.zeros(2), 0.5)
    with pytest.raises(DataError, match="floor"):
        combined(np.zeros(2), np.array([0.0, -np.inf]), 0.5)


def opinions(is_told: bool) -> tuple[Array, Array, Array, Array, Planted]:
    """The vote is right where own relevance is high, the model elsewhere – or each by chance."""
    world, rng = planted("helps"), np.random.default_rng(3)
    n = len(world.users)
    truth = rng.integers(3, size=n)
    trusts_vote = world.features[:, RELEVANCE] > 0.5 if is_told else rng.random(n) > 0.5
    right, wrong = (np.log(np.where(np.equal.outer(guess, np.arange(3)), 0.8, 0.1))
                    for guess in (truth, (truth + 1) % 3))  # fmt: skip
    llm = np.where(trusts_vote[:, None], wrong, right)
    return llm, right + wrong - llm, truth, trusts_vote, world


def test_the_weight_of_the_vote_follows_the_feature_that_tells_who_is_right():
    llm, vote, truth, trusts_vote, world = opinions(is_told=True)
    omega = fit_omega(world.features, llm, vote, truth, world.users).at(world.features)
    assert ((omega >= 0) & (omega <= 1)).all()
    assert np.median(omega[trusts_vote]) > 0.8
    assert np.median(omega[~trusts_vote]) < 0.2
    said = combined(llm, vote, omega).argmax(axis=1)
    assert (said == truth).mean() > 0.9


def test_one_weight_for_all_where_no_feature_tells():
    llm, vote, truth, _, world = opinions(is_told=False)
    omega = fit_omega(world.features, llm, vote, truth, world.users)
    assert np.ptp(omega.at(world.features)) < 0.2
    assert omega.at(ASKED.as_array()) == pytest.approx(0.5, abs=0.1)


def test_a_label_nobody_could_give_and_rows_that_disagree_are_refused():
    llm, vote, truth, _, world = opinions(is_told=True)
    with pytest.raises(DataError, match="none of the 3"):
        fit_omega(world.features, llm, vote, truth + 1, world.users)
    with pytest.raises(ShapeError, match="log_vote has shape"):
        fit_omega(world.features, llm, vote[:, :2], truth, world.users)
    with pytest.raises(ShapeError, match="truth"):
        fit_omega(world.features, llm, vote, truth[:-1], world.users)
