"""Own evidence: the closed form is Gaussian conditioning, and the moments are what was planted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona.method.profiles import (
    DEFAULT_KAPPA,
    LowSupportWarning,
    Observed,
    OwnEvidence,
    ProfileConfig,
    ViewModel,
    average,
    decay_weights,
    fit_view_models,
)
from copersona.method.residuals import View

Array = NDArray[Any]

VIEW = View("text", 0, 3)
AS_MEASURED = ProfileConfig(cross_facet_shrinkage=0)


def model_of(signal: Array, noise: Array) -> ViewModel:
    n_facets = len(noise)
    return ViewModel(VIEW, np.zeros((n_facets, 3)), np.asarray(noise, float), signal)


def random_model(n_facets: int, rng: np.random.Generator) -> ViewModel:
    root = rng.normal(size=(n_facets, n_facets + 2))
    return model_of(root @ root.T / n_facets, rng.uniform(0.5, 3, n_facets))


def conditioned(model: ViewModel, support: Array, means: Array, seen: Array) -> tuple[Array, Array]:
    """θ given the means of some facets: textbook conditioning of one joint Gaussian."""
    cov = model.signal[np.ix_(seen, seen)] + np.diag(model.noise[seen] / support[seen])
    gain = model.signal[:, seen] @ np.linalg.inv(cov)
    variance = model.signal - gain @ model.signal[seen]
    return gain @ means[seen], np.diag(variance)


@pytest.mark.parametrize("seed", range(6))
def test_posterior_is_dense_gaussian_conditioning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(5, rng)
    support = rng.integers(0, 6, 5).astype(float)
    support[0] = 2
    means = rng.normal(size=(5, 3)) * (support > 0)[:, None]
    found = model.posterior(support[None], means[None])
    seen = np.flatnonzero(support > 0)
    theta, variance = conditioned(model, support, means, seen)
    np.testing.assert_allclose(found.theta[0], theta, atol=1e-9)
    np.testing.assert_allclose(found.variance[0], variance, atol=1e-9)
    for f in range(5):
        rest = seen[seen != f]
        theta, variance = conditioned(model, support, means, rest)
        np.testing.assert_allclose(found.others[0, f], theta[f], atol=1e-9)
        np.testing.assert_allclose(found.others_variance[0, f], variance[f], atol=1e-9)


def test_with_one_facet_it_is_plain_james_stein_shrinkage() -> None:
    model = model_of(np.array([[0.5]]), np.array([2.0]))
    means = np.array([[[1.0, -2.0, 0.0]]])
    for n in (1.0, 3.0, 50.0):
        found = model.posterior(np.array([[n]]), means)
        share = n / (n + 2.0 / 0.5)
        np.testing.assert_allclose(found.theta, share * means)
        np.testing.assert_allclose(found.variance, [[0.5 * (1 - share)]])
        np.testing.assert_allclose(found.others, 0, atol=1e-12)
        np.testing.assert_allclose(found.others_variance, [[0.5]])


def test_without_evidence_it_is_the_prior() -> None:
    model = random_model(3, np.random.default_rng(1))
    found = model.posterior(np.zeros((1, 3)), np.zeros((1, 3, 3)))
    assert not found.theta.any()
    assert not found.others.any()
    np.testing.assert_allclose(found.variance[0], np.diag(model.signal))
    np.testing.assert_allclose(found.others_variance[0], np.diag(model.signal))


def test_own_evidence_wins_as_it_grows() -> None:
    model = random_model(3, np.random.default_rng(2))
    means = np.random.default_rng(3).normal(size=(1, 3, 3))
    errors, variances = [], []
    for n in (1.0, 10.0, 1e3, 1e6):
        found = model.posterior(np.full((1, 3), n), means)
        errors.append(np.abs(found.theta - means).max())
        variances.append(found.variance.max())
    assert errors == sorted(errors, reverse=True)
    assert variances == sorted(variances, reverse=True)
    assert errors[-1] < 1e-4
    assert variances[-1] < 1e-4


Sample = tuple[Array, Array, Array, Array]


def drawn(signal: Array, noise: Array, n_users: int, per_facet: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    n_facets = len(noise)
    theta = np.einsum(
        "fg,ugd->ufd", np.linalg.cholesky(signal), rng.normal(size=(n_users, n_facets, 3))
    )
    users = np.repeat(np.arange(n_users), n_facets * per_facet)
    facets = np.tile(np.repeat(np.arange(n_facets), per_facet), n_users)
    spread = np.sqrt(noise)[facets, None] * rng.normal(size=(len(users), 3))
    return 0.7 + theta[users, facets] + spread, np.ones((len(users), 1), bool), users, facets


def fitted(sample: Sample, n_users: int, n_facets: int, config: ProfileConfig) -> ViewModel:
    evidence = average(*sample, n_users=n_users, n_facets=n_facets, views=[VIEW])
    observed = Observed(*sample, n_users, n_facets, [VIEW])
    return fit_view_models(observed, evidence, config)[0]


@pytest.mark.parametrize("per_facet", [2, 4])
def test_moments_recover_what_was_planted(per_facet: int) -> None:
    signal = np.array([[1.0, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 0.5]])
    noise = np.array([1.0, 2.0, 4.0])
    model = fitted(drawn(signal, noise, 4000, per_facet), 4000, 3, AS_MEASURED)
    np.testing.assert_allclose(model.noise, noise, rtol=0.06)
    np.testing.assert_allclose(model.signal, signal, atol=0.07)
    np.testing.assert_allclose(model.center, 0.7, atol=0.06)
    np.testing.assert_allclose(model.kappa, noise / np.diag(signal), rtol=0.2)
    assert not model.is_assumed


def test_the_estimate_is_calibrated_on_the_population_it_was_fitted_on() -> None:
    signal, noise = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([2.0, 2.0])
    rng = np.random.default_rng(4)
    theta = np.einsum("fg,ugd->ufd", np.linalg.cholesky(signal), rng.normal(size=(5000, 2, 3)))
    means = theta + rng.normal(size=theta.shape) * np.sqrt(2.0 / 3)
    found = model_of(signal, noise).posterior(np.full((5000, 2), 3.0), means)
    error = ((found.theta - theta) ** 2).mean(axis=(0, 2))
    np.testing.assert_allclose(error, found.variance[0], rtol=0.05)
    error = ((found.others - theta) ** 2).mean(axis=(0, 2))
    np.testing.assert_allclose(error, found.others_variance[0], rtol=0.05)


def test_signal_is_positive_semi_definite_whatever_the_sample() -> None:
    rng = np.random.default_rng(5)
    for seed in range(5):
        users, facets = rng.integers(12, size=60), rng.integers(4, size=60)
        sample = (rng.normal(size=(60, 3)), np.ones((60, 1), bool), users, facets)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LowSupportWarning)
            model = fitted(sample, 12, 4, ProfileConfig(cross_facet_shrinkage=0.1 * seed))
        assert np.linalg.eigvalsh(model.signal).min() > 0
        assert (model.noise > 0).all()


@pytest.mark.parametrize("n_users", [1, 4, 300])
def test_users_who_never_repeat_themselves_get_the_stated_ratio(n_users: int) -> None:
    sample = drawn(np.eye(1), np.ones(1), n_users, per_facet=1)
    with pytest.warns(LowSupportWarning, match="noise ratio of 20 is assumed"):
        model = fitted(sample, n_users, 1, ProfileConfig())
    assert model.is_assumed
    if n_users > 1:
        assert model.kappa[0] == pytest.approx(DEFAULT_KAPPA)


def test_identical_users_have_almost_no_signal() -> None:
    users, facets = np.repeat(np.arange(50), 8), np.tile(np.arange(2), 200)
    answers = np.tile(np.random.default_rng(6).normal(size=(8, 3)), (50, 1))
    model = fitted((answers, np.ones((400, 1), bool), users, facets), 50, 2, ProfileConfig())
    assert model.signal_share < 0.01


def test_average_is_the_mean_of_each_user_and_facet() -> None:
    residuals = np.array([[1.0, 0, 0], [3, 0, 0], [5, 1, 0], [9, 9, 9]])
    present = np.array([[True], [True], [True], [False]])
    users, facets = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    residuals[3] = 0
    found = average(residuals, present, users, facets, n_users=3, n_facets=2, views=[VIEW])
    assert found.support[..., 0].tolist() == [[2, 1], [0, 0], [0, 0]]
    assert found.means[0].tolist() == [[2, 0, 0], [5, 1, 0]]
    assert not found.means[1:].any()
    hidden = found.without_facet(0)
    assert hidden.support[0, :, 0].tolist() == [0, 1]
    assert not hidden.means[0, 0].any()
    assert found.take(np.array([1, 0])).support.tolist() == found.support[[1, 0]].tolist()


def test_decay_halves_the_weight_and_lowers_the_support() -> None:
    at, now = np.array([0.0, 10.0, 20.0, np.nan]) * 86_400, 20 * 86_400.0
    weights = decay_weights(at, 10.0, now)
    assert weights is not None
    np.testing.assert_allclose(weights, [0.25, 0.5, 1, 1])
    assert decay_weights(at, None, now) is None
    assert decay_weights(np.array([99 * 86_400.0]), 10.0, now) == pytest.approx(1)
    rows = np.zeros(3, int)
    residuals = np.array([[4.0, 0, 0], [2, 0, 0], [1, 0, 0]])
    found = average(residuals, np.ones((3, 1), bool), rows, rows, n_users=1, n_facets=1,
                    views=[VIEW], weights=weights[:3])  # fmt: skip
    assert found.support[0, 0, 0] == pytest.approx(1.75**2 / (0.0625 + 0.25 + 1))
    assert found.means[0, 0, 0] == pytest.approx((1 + 1 + 1) / 1.75)


def test_empty_evidence_has_no_users() -> None:
    nobody = OwnEvidence(np.zeros((0, 2, 1)), np.zeros((0, 2, 3)))
    model = random_model(2, np.random.default_rng(0))
    assert model.posterior(nobody.support[..., 0], nobody.means).theta.shape == (0, 2, 3)
