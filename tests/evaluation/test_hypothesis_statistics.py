"""Every p value of the hypothesis tests against its definition, calibrated on simulated nulls."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from chances import plain_hsic

from circuitfind.errors import UnknownNameError
from circuitfind.evaluation.hypotheses import outcomes as hypothesis_tests
from circuitfind.evaluation.hypotheses.p_values import (
    adjusted,
    at_least,
    at_most,
    benjamini_hochberg,
    equivalence_p,
    holm,
    hsic_test,
    share_bounds,
)

ALPHA = 0.05


def chance(count: int, n: int, share: float) -> Fraction:
    """P(X = count) of a binomial X, exactly."""
    p = Fraction(share)
    return math.comb(n, count) * p**count * (1 - p) ** (n - count)


def assert_rate(rejected: np.ndarray, expected: float) -> None:
    """Simulated rejections are as frequent as they should be, within four standard errors of the simulation."""
    error = math.sqrt(max(expected * (1 - expected), 1e-4) / len(rejected))
    assert abs(float(np.mean(rejected)) - expected) <= 4 * error


@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (7, 0.1), (20, 0.9), (33, 0.6)])
def test_tails_are_sums_of_binomial_chances(n, share):
    counts = np.arange(-1, n + 2)
    upper = [float(sum((chance(i, n, share) for i in range(max(k, 0), n + 1)), Fraction(0))) for k in counts]
    lower = [float(sum((chance(i, n, share) for i in range(min(k, n) + 1)), Fraction(0))) for k in counts]
    np.testing.assert_allclose(at_least(counts, n, share), upper, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(at_most(counts, n, share), lower, rtol=1e-10, atol=1e-15)


def test_a_bound_is_the_share_at_which_the_count_is_just_too_unlikely():
    low, high = share_bounds(np.arange(13), 12, 0.03)
    assert (low[0], high[12]) == (0, 1)
    for k in range(1, 13):
        assert float(at_least(k, 12, low[k])) == pytest.approx(0.03, rel=1e-9)
        assert float(at_most(k - 1, 12, high[k - 1])) == pytest.approx(0.03, rel=1e-9)


def plain_equivalence(wins: int, n: int, eps: float) -> Fraction:
    """The worst chance, over the whole null, of a count as far from n / 2 (without ties)."""
    far = [k for k in range(n + 1) if abs(2 * k - n) >= abs(2 * wins - n)]
    shares = [0.5 - eps, *np.linspace(0.5 - eps, 0.5 + eps, 21), 0.5 + eps]
    return max(sum((chance(k, n, share) for k in far), Fraction(0)) for share in shares)


@pytest.mark.parametrize("n", [1, 2, 9, 24])
@pytest.mark.parametrize("eps", [0.05, 0.1, 0.3])
def test_the_equivalence_p_value_is_the_worst_over_the_null(n, eps):
    for wins in range(n + 1):
        assert equivalence_p(wins, 0, n, eps) == pytest.approx(float(plain_equivalence(wins, n, eps)), rel=1e-9)


@pytest.mark.parametrize("n", [5, 8])
def test_a_tie_is_half_a_win_rounded_towards_one_half(n):
    for wins, ties in product(range(n + 1), range(n + 1)):
        if wins + ties <= n:
            nearer = [k for k in range(n + 1) if abs(k - n / 2) <= abs(wins + ties / 2 - n / 2)]
            p = [equivalence_p(k, 0, n, 0.1) for k in nearer]
            assert equivalence_p(wins, ties, n, 0.1) == pytest.approx(min(p, default=1.0))
    assert equivalence_p(0, n, n, 0.1) == 1


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_equivalence_errs_as_often_as_it_says_at_the_edge_of_its_null(share):
    n, rng = 64, np.random.default_rng(0)
    p = np.array([equivalence_p(wins, 0, n, 0.1) for wins in range(n + 1)])
    exact = float(sum(chance(k, n, share) for k in range(n + 1) if p[k] <= ALPHA))
    assert ALPHA / 2 < exact <= ALPHA
    assert_rate(p[rng.binomial(n, share, 20_000)] <= ALPHA, exact)
    assert (p[rng.binomial(n, 0.5, 20_000)] <= ALPHA).mean() < exact / 5


def test_equivalence_errs_no_more_often_with_ties():
    rng, n = np.random.default_rng(1), 64
    wins, losses, ties = rng.multinomial(n, [0.4, 0.2, 0.4], 20_000).T
    rejected = np.array([equivalence_p(w, t, n, 0.1) <= ALPHA for w, t in zip(wins, ties, strict=True)])
    assert (wins + losses + ties == n).all()
    assert rejected.mean() <= ALPHA + 4 * math.sqrt(ALPHA / len(rejected))


def test_a_circuit_that_is_the_model_but_for_rounding_is_not_told_from_it():
    full = np.random.default_rng(0).normal(2, 1, 200)
    same = hypothesis_tests.equivalence(full - 1e-7, full, eps=0.1, alpha=ALPHA)
    assert (same.p, same.passed, same.details["ties"]) == (1, True, 200)
    worse = hypothesis_tests.equivalence(full - 0.01, full, eps=0.1, alpha=ALPHA)
    assert worse.p < 1e-30
    assert not worse.passed
    assert "beats the model on 0%" in worse.meaning


def test_the_independence_statistic_and_its_p_value_are_the_plain_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=15)
    y = 0.6 * x + rng.normal(size=15)
    statistic, p = hsic_test(x, y, 99, seed=3)
    assert statistic == pytest.approx(plain_hsic(x, y), rel=1e-9)
    order = np.random.default_rng(3)
    larger = sum(plain_hsic(x, y[order.permutation(15)]) >= statistic * (1 - 1e-9) for _ in range(99))
    assert p == (1 + larger) / 100


def test_permutations_in_several_blocks_give_the_same_p_value(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    expected = hsic_test(x, y, 50, seed=1)
    monkeypatch.setattr("circuitfind.evaluation.hypotheses.p_values.NUMBERS_AT_ONCE", 7 * 20**2)
    assert hsic_test(x, y, 50, seed=1) == expected


def test_independence_errs_as_often_as_it_says():
    rng = np.random.default_rng(0)
    p = np.array([hsic_test(*rng.normal(size=(2, 10)), 39, seed)[1] for seed in range(3000)])
    assert_rate(p <= ALPHA, ALPHA)  # 40 equally likely ranks, of which 2 reject
    assert_rate(p <= 0.5, 0.5)


def test_independence_errs_no_more_often_where_scores_repeat():
    rng = np.random.default_rng(1)
    p = np.array([hsic_test(*rng.integers(0, 2, (2, 12)).astype(float), 39, seed)[1] for seed in range(2000)])
    assert (p <= ALPHA).mean() <= ALPHA + 4 * math.sqrt(ALPHA / len(p))


def test_dependence_without_correlation_is_seen():
    x = np.random.default_rng(0).normal(size=80)
    x = np.concatenate([x, -x])
    assert abs(np.corrcoef(x, x**2)[0, 1]) < 1e-9
    assert hsic_test(x, x**2, 199, seed=0)[1] == 1 / 200


def test_a_rest_that_always_says_the_same_is_independent_even_if_rounding_is_not():
    full = np.random.default_rng(0).normal(3, 1, 60)
    test = hypothesis_tests.independence(1 + 1e-8 * full, full, n_permutations=99, seed=0, alpha=ALPHA)
    assert (test.statistic, test.p, test.passed) == (0, 1, True)
    assert hypothesis_tests.independence(1 + 0.1 * full, full, n_permutations=99, seed=0, alpha=ALPHA).p == 0.01


def plain_holm(p, alpha) -> set[int]:
    """Reject step by step, from the smallest p value, until one is too large."""
    rejected = set()
    for step, place in enumerate(np.argsort(p, kind="stable")):
        if p[place] > alpha / (len(p) - step):
            break
        rejected.add(int(place))
    return rejected


def plain_benjamini_hochberg(p, alpha) -> set[int]:
    """Reject the k smallest, for the largest k whose p value is at most alpha k / m."""
    order = np.argsort(p, kind="stable")
    sizes = [k for k in range(1, len(p) + 1) if p[order[k - 1]] <= alpha * k / len(p)]
    return set(order[: max(sizes, default=0)].tolist())


@pytest.mark.parametrize(("fast", "plain"), [(holm, plain_holm), (benjamini_hochberg, plain_benjamini_hochberg)])
def test_adjusted_p_values_reject_what_the_procedure_rejects(fast, plain):
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 30):
        p = np.round(rng.random(m) ** 3, 3)  # with ties
        for alpha in (0.01, 0.05, 0.2, 0.7):
            assert set(np.flatnonzero(fast(p) <= alpha).tolist()) == plain(p, alpha)
        assert (fast(p) >= p).all()


def test_holm_keeps_the_chance_of_any_error_and_benjamini_hochberg_the_share_of_errors():
    rng = np.random.default_rng(0)
    nulls = rng.random((4000, 10))
    assert np.mean([holm(p).min() <= ALPHA for p in nulls]) <= ALPHA + 4 * math.sqrt(ALPHA / 4000)
    shares = []
    for p in nulls:
        p[:5] /= 1000  # five that are no nulls
        rejected = benjamini_hochberg(p) <= 0.2
        shares.append(rejected[5:].sum() / max(1, rejected.sum()))
    assert np.mean(shares) <= 0.2 * 5 / 10 + 4 * np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) > 0.05


def test_an_unknown_correction_is_refused():
    with pytest.raises(UnknownNameError, match="benjamini-hochberg"):
        adjusted([0.1], "bonferoni")


def exact_size(n: int, share: float, alpha: float, upper: bool) -> float:
    """How often a binomial test rejects at the edge of its null."""
    tail = at_least if upper else at_most
    counts = np.arange(n + 1)
    rejected = tail(counts, n, share) <= alpha
    return float(sum(chance(int(k), n, share) for k in counts[rejected]))


def test_minimality_errs_as_often_as_it_says():
    """An edge at the 90 % quantile of random edges is the least important that the null allows."""
    rng, how = np.random.default_rng(0), {"quantile": 0.9, "correction": "holm", "alpha": ALPHA, "rounding": 0.0}
    p = [hypothesis_tests.minimality(np.array([0.9]), rng.random(100), **how)[0].p for _ in range(4000)]
    assert_rate(np.array(p) <= ALPHA, exact_size(100, 0.9, ALPHA, upper=False))
    many = [hypothesis_tests.minimality(np.full(12, 0.9), rng.random(100), **how)[0].p for _ in range(4000)]
    assert np.mean(np.array(many) <= ALPHA) <= ALPHA + 4 * math.sqrt(ALPHA / 4000)


def test_minimality_counts_edge_by_edge():
    effects, references = np.array([0.0, 0.5, 2.0]), np.linspace(0, 1, 50)
    test, outdone, each = hypothesis_tests.minimality(
        effects, references, quantile=0.9, correction="holm", alpha=ALPHA, rounding=1e-9
    )
    assert outdone.tolist() == [0, sum(r + 1e-9 < 0.5 for r in references), 50]
    p = [float(sum(chance(i, 50, 0.9) for i in range(k + 1))) for k in outdone]
    np.testing.assert_allclose(each, holm(p))
    assert (test.p, test.details["idle"], test.passed) == (each.min(), 2, False)


@pytest.mark.parametrize("name", ["sufficiency", "partial_necessity"])
def test_tests_against_random_circuits_err_as_often_as_they_say(name):
    """A circuit at the 90 % quantile of random ones is the best that the null allows."""
    rng, full = np.random.default_rng(0), np.ones(1)
    test = getattr(hypothesis_tests, name)
    own = full + (0.1 if name == "sufficiency" else 0.9)  # distances of random circuits are uniform
    drawn = 1 + rng.random((4000, 100, 1))
    rejected = [test(own, random, full, quantile=0.9, alpha=ALPHA).rejected for random in drawn]
    assert_rate(np.array(rejected), exact_size(100, 0.9, ALPHA, upper=True))
