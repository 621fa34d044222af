"""The size at which a curve reaches a target: rising, with a margin, and stable under noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from circuitfind.selection.size_rule import (
    doublings_of,
    first_reaching,
    grid_of,
    monotone,
    sizes_on_resamples,
    sizes_reaching,
    with_margin,
)

SIZES = np.array([4, 8, 16, 32, 64, 128], dtype=float)


def pooled_neighbours(values):
    """Isotonic regression by pooling neighbours that fall: plain loops."""
    blocks = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, n), (other, m) = blocks[-2:]
            blocks[-2:] = [[(one * n + other * m) / (n + m), n + m]]
    return [mean for mean, n in blocks for _ in range(n)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 2), min_size=1, max_size=12))
def test_the_rising_curve_is_the_pooled_one(values):
    assert_allclose(monotone(np.array(values)), pooled_neighbours(values), atol=1e-9)
    assert_allclose(monotone(np.array([values, values[::-1]]))[1], pooled_neighbours(values[::-1]), atol=1e-9)


def test_a_straight_curve_is_met_where_it_stands_and_between_sizes():
    curve = np.linspace(0, 1, 6)
    assert sizes_reaching(SIZES, curve, 0.5) == pytest.approx(4 * 2**2.5)
    many = sizes_reaching(SIZES, np.stack([curve, curve + 0.1, curve - 2]), 0.5)
    assert many[1] < many[0] < many[2] == math.inf
    assert [first_reaching(one, 0.5) for one in (curve, curve + 0.1, curve - 2)] == [3, 2, None]


def test_a_single_size_that_passes_by_chance_is_not_taken_and_a_dip_moves_the_size_little():
    assert first_reaching(np.array([0.1, 0.9, 0.2, 0.3, 0.9, 0.95]), 0.85) == 4
    steady = sizes_reaching(SIZES, np.array([0.1, 0.4, 0.8, 0.9, 0.92, 0.95]), 0.87)
    dipped = sizes_reaching(SIZES, np.array([0.1, 0.4, 0.8, 0.9, 0.86, 0.95]), 0.87)
    assert steady <= dipped < 1.5 * steady


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 2), min_size=1, max_size=12), st.floats(-1, 2))
def test_where_the_rising_curve_reaches_a_goal_the_measured_one_does(values, goal):
    at = first_reaching(np.array(values), goal)
    assert (at is None) == bool(max(monotone(np.array(values))) < goal - 1e-12)
    assert at is None or values[at] >= goal - 1e-9


def test_the_margin_is_small_and_none_where_nothing_is_left():
    assert with_margin(0.85) == pytest.approx(0.87)
    assert with_margin(0.95) == pytest.approx(0.96)
    assert with_margin(1) == 1
    assert with_margin(1.3) == 1.3


def test_four_sizes_per_doubling_and_the_whole():
    assert grid_of(20) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 20]
    assert grid_of(1) == doublings_of(1) == [1]
    assert doublings_of(20) == [1, 2, 4, 8, 16, 20]
    assert doublings_of(16) == [1, 2, 4, 8, 16]


def test_the_range_holds_the_size_and_grows_with_the_noise():
    curve, rng = np.linspace(0.2, 1.1, 6), np.random.default_rng(0)
    size = float(sizes_reaching(SIZES, np.linspace(0.2, 1.1, 6), 0.87))
    ranges = [
        sizes_on_resamples(SIZES, curve + noise * rng.standard_normal((400, 1)), 0.85) for noise in (0, 0.02, 0.1)
    ]
    assert ranges[0] == pytest.approx((size, size))
    widths = [high / low for low, high in ranges]
    assert widths[0] < widths[1] < widths[2]
    assert all(low <= size <= high for low, high in ranges)


def test_a_range_is_open_where_the_target_is_not_reached():
    assert sizes_on_resamples(SIZES, np.full((9, 6), 0.5), 0.85) == (math.inf, math.inf)
