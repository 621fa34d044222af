"""The size at which a curve reaches a target: smoothed, rising, with a margin, and stable under noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from circuitfind.selection.size_rule import (
    doublings_of,
    grid_of,
    monotone,
    sizes_on_resamples,
    sizes_reaching,
    with_margin,
)

SIZES = np.array([4, 8, 16, 32, 64, 128], dtype=float)


def pooled_neighbours(values):
    """Isotonic regression by pooling what falls, on neighbours' means: plain loops."""
    padded = [values[0], *values, values[-1]]
    blocks = []
    for at in range(1, len(padded) - 1):
        blocks.append([(padded[at - 1] + 2 * padded[at] + padded[at + 1]) / 4, 1])
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
    assert sizes_reaching(SIZES, curve, 0.5) == pytest.approx(4 * 2 ** (5 * with_margin(0.5)))
    many = sizes_reaching(SIZES, np.stack([curve, curve + 0.1, curve - 2]), 0.5)
    assert many[1] < many[0] < many[2] == math.inf


def test_a_single_size_that_passes_by_chance_is_not_taken_and_a_dip_moves_the_size_little():
    passing = np.array([0.1, 0.9, 0.2, 0.3, 0.9, 0.95])
    assert sizes_reaching(SIZES, passing, 0.85) > 32
    steady = sizes_reaching(SIZES, np.array([0.1, 0.4, 0.8, 0.9, 0.92, 0.95]), 0.85)
    dipped = sizes_reaching(SIZES, np.array([0.1, 0.4, 0.8, 0.9, 0.86, 0.95]), 0.85)
    assert steady <= dipped < 2 * steady


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
    everywhere, size = np.ones(6, bool), float(sizes_reaching(SIZES, np.linspace(0.2, 1.1, 6), 0.85))
    ranges = [
        sizes_on_resamples(SIZES, curve + noise * rng.standard_normal((400, 1)), everywhere, 0.85)
        for noise in (0, 0.02, 0.1)
    ]
    assert ranges[0] == pytest.approx((size, size))
    widths = [high / low for low, high in ranges]
    assert widths[0] < widths[1] < widths[2]
    assert all(low <= size <= high for low, high in ranges)


def test_a_size_at_which_the_curve_falls_short_gives_way_to_the_next_that_does_not():
    step = np.array([0.5, 0.5, 0.5, 0.5, 1.0, 1.0])
    smooth = float(sizes_reaching(SIZES, step, 0.85))
    measured = np.append(SIZES[:4], [63.6, 64, 128])
    regular = measured != 63.6
    low, high = sizes_on_resamples(measured, np.tile([0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0], (9, 1)), regular, 0.85)
    assert smooth < 63.6 < low == high <= 64
    assert sizes_on_resamples(SIZES, np.tile(step - 1, (9, 1)), np.ones(6, bool), 0.85) == (math.inf, math.inf)
