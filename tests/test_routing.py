"""Routing numbers against sums worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from copersona.answering.routing import Routing, borrowing_worth, own_need
from copersona.errors import ConfigError, ShapeError

unit_interval = st.floats(0, 1, allow_subnormal=False)


def test_need_is_the_routed_mean_of_the_shrinkage_weight():
    routed, support = np.array([0.75, 0.25, 0.0]), np.array([0.0, 2.0, 100.0])
    assert own_need(routed, support) == pytest.approx(0.75 * 1 + 0.25 * 0.5)
    assert own_need(routed, support, n0=6.0) == pytest.approx(0.75 * 1 + 0.25 * 0.75)


def test_need_is_one_without_history_and_falls_with_support():
    routed = np.array([0.4, 0.6])
    needs = [own_need(routed, np.full(2, n)) for n in (0.0, 1.0, 4.0, 1e9)]
    assert needs[0] == pytest.approx(1.0)
    assert needs == sorted(needs, reverse=True)
    assert needs[-1] == pytest.approx(0.0, abs=1e-8)


def test_worth_counts_gains_only_where_something_was_borrowed():
    routed = np.array([0.5, 0.3, 0.2])
    own, completed = np.array([0.1, 0.2, 0.6]), np.array([0.5, 0.9, 0.4])
    abstained = np.array([False, True, False])
    assert borrowing_worth(routed, own, completed, abstained) == pytest.approx(0.5 * 0.4)
    assert borrowing_worth(routed, own, completed, np.ones(3, dtype=bool)) == 0.0


@given(
    arrays(float, 4, elements=unit_interval),
    arrays(float, 4, elements=unit_interval),
    arrays(float, 4, elements=unit_interval),
    arrays(bool, 4),
)
def test_both_numbers_stay_in_the_unit_interval(raw, own, completed, abstained):
    routed = (raw + 1e-3) / (raw + 1e-3).sum()
    assert -1e-12 <= own_need(routed, 10 * own) <= 1 + 1e-12
    assert 0.0 <= borrowing_worth(routed, own, completed, abstained) <= 1 + 1e-12


def test_disagreeing_arrays_and_a_bad_n0_are_refused():
    with pytest.raises(ShapeError, match="one number a facet"):
        own_need(np.ones(2), np.ones(3))
    with pytest.raises(ShapeError):
        borrowing_worth(np.ones(2), np.ones(2), np.ones(2), np.ones((2, 1), dtype=bool))
    with pytest.raises(ConfigError, match="n0"):
        own_need(np.ones(2) / 2, np.ones(2), n0=0.0)


def test_routing_keeps_what_it_was_given():
    routing = Routing(np.array([1.0]), need=0.5, worth=0.25)
    assert (routing.need, routing.worth) == (0.5, 0.25)
