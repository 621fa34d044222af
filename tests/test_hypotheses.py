"""Hypothesis tests of circuits: every p value against its definition, calibrated on simulated nulls, and held against a
circuit that is known by construction.
"""

import json
import math
from collections import Counter
from fractions import Fraction
from itertools import product

import naive
import numpy as np
import pytest
import torch
from conftest import SHAPES, random_pairs, small_config, small_model

import circuitfind as cf
from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import hypotheses_of, random_circuits
from circuitfind.evaluation.hypotheses import decisions as hypothesis_tests
from circuitfind.evaluation.hypotheses.inflation import inflated, random_path
from circuitfind.evaluation.hypotheses.significance import (
    adjusted,
    at_least,
    at_most,
    benjamini_hochberg,
    equivalence_p,
    holm,
    hsic_test,
    share_bounds,
)
from circuitfind.scores import Provenance
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

ALPHA = 0.05
LOGIT_DIFF = METRICS["logit-diff"]


def chance(count: int, n: int, share: float) -> Fraction:
    """P(X = count) of a binomial X, exactly."""
    p = Fraction(share)
    return math.comb(n, count) * p**count * (1 - p) ** (n - count)


def assert_rate(rejected: np.ndarray, expected: float) -> None:
    """Simulated rejections are as frequent as they should be, within four standard errors of the simulation."""
    error = math.sqrt(max(expected * (1 - expected), 1e-4) / len(rejected))
    assert abs(float(np.mean(rejected)) - expected) <= 4 * error


# --- binomial tails and bounds ----------------------------------------------------------------------------------------


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


# --- equivalence ------------------------------------------------------------------------------------------------------


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


# --- independence -----------------------------------------------------------------------------------------------------


def plain_hsic(x, y) -> float:
    """trace(K H L H) / (n - 1)^2 with the matrices written out."""

    def kernel(values):
        apart = [abs(a - b) for a in values for b in values if a != b]
        width = float(np.median(apart)) if apart else 1.0
        return np.array([[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in values] for a in values])

    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(kernel(x) @ centring @ kernel(y) @ centring)) / (n - 1) ** 2


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
    monkeypatch.setattr("circuitfind.evaluation.hypotheses.significance.NUMBERS_AT_ONCE", 7 * 20**2)
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


# --- many tests -------------------------------------------------------------------------------------------------------


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


# --- tests against random edges and circuits --------------------------------------------------------------------------


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


# --- random paths -----------------------------------------------------------------------------------------------------


def test_a_random_path_leads_from_the_input_to_the_logits(model):
    graph, rng = model.graph, np.random.default_rng(0)
    for _ in range(50):
        path = np.array(random_path(graph, rng)[::-1])
        senders, receivers = graph.ends(path)
        assert senders[0] == 0
        assert graph.receiver_node[receivers[-1]] == graph.n_senders
        for receiver, sender in zip(receivers[:-1], senders[1:], strict=True):
            assert graph.receiver_node[receiver] <= sender < graph.receiver_stop[receiver]
        on_path = np.zeros(graph.n_edges, bool)
        on_path[path] = True
        assert (graph.prune(on_path, from_input=True) == on_path).all()


def test_each_edge_into_a_node_is_as_likely_to_be_on_the_path():
    graph, rng, n = small_model(**SHAPES["llama-groups"]).graph, np.random.default_rng(0), 6000
    found = Counter(random_path(graph, rng)[0] for _ in range(n))
    assert len(found) == graph.n_senders
    assert max(abs(count - n / len(found)) for count in found.values()) < 5 * math.sqrt(n / len(found))


def test_an_inflated_circuit_has_one_more_path_and_loses_an_edge_of_it():
    model = small_model()
    circuit = Circuit(model.graph, np.random.default_rng(0).random(model.graph.n_edges) < 0.3)
    found = inflated(circuit, 30, seed=0)
    assert len({one.edge for one in found}) > 10
    for one in found:
        assert one.larger[circuit.kept].all()
        assert one.larger[one.edge]
        assert not circuit.kept[one.edge]
        assert np.flatnonzero(one.larger != one.without).tolist() == [one.edge]
    with pytest.raises(OptionError, match="so no random path adds one"):
        inflated(Circuit(model.graph, np.ones(model.graph.n_edges, bool)), 1, seed=0)


def test_random_circuits_of_the_complement_share_no_edge_with_the_circuit():
    model = small_model()
    avoid = np.random.default_rng(0).random(model.graph.n_edges) < 0.2
    masks = random_circuits(model.graph, 10, 20, ablation="corrupted", avoid=avoid)
    assert (masks.sum(1) >= 10).all()
    assert not (masks & avoid).any()
    assert (masks[0] != masks[1]).any()
    everything = random_circuits(model.graph, 10, 3, ablation="corrupted", avoid=np.ones_like(avoid))
    np.testing.assert_array_equal(everything, random_circuits(model.graph, 10, 3, ablation="corrupted"))


# --- a circuit, measured ----------------------------------------------------------------------------------------------


def plain_scores(model, pairs, masks, ablation) -> np.ndarray:
    """The logit difference of every circuit on every prompt, one prompt, circuit and node at a time."""
    clean, corrupted = (
        [torch.as_tensor(ids[row, : pairs.length[row]]) for row in range(len(pairs))]
        for ids in (pairs.clean, pairs.corrupted)
    )
    ablated = naive.ablated_values(model, ablation, corrupted)
    out = np.empty((len(masks), len(pairs)))
    for number, mask in enumerate(masks):
        kept = set(model.graph.edge_names(np.flatnonzero(mask).tolist()))
        for row, tokens in enumerate(clean):
            logits = naive.circuit_logits(model, tokens, ablated[row], kept)[-1].numpy()
            out[number, row] = logits[pairs.correct[row]].mean() - logits[pairs.incorrect[row]].mean()
    return out


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_what_is_tested_was_measured_as_the_definitions_say(ablation):
    model = small_model(n_layers=1, n_heads=2)
    pairs, graph = random_pairs(model, 5), model.graph
    kept = graph.prune(np.random.default_rng(1).random(graph.n_edges) < 0.5, from_input=ablation == "corrupted")
    circuit = Circuit(graph, kept)
    how = {"n_random": 6, "n_permutations": 30, "seed": 2}
    found = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, ablation=ablation, **how)

    own, full, rest = plain_scores(model, pairs, [kept, np.ones_like(kept), ~kept], ablation)
    assert found["equivalence"].statistic == np.mean(own > full)
    assert found["equivalence"].p == pytest.approx(equivalence_p(int((own > full).sum()), 0, 5, 0.1))
    assert found["independence"].statistic == pytest.approx(plain_hsic(rest, full), rel=1e-6)

    without = [np.where(np.arange(len(kept)) == edge, False, kept) for edge in np.flatnonzero(kept)]
    effects = np.abs(plain_scores(model, pairs, without, ablation) - own).mean(1)
    np.testing.assert_allclose(found.minimality.effects, effects, atol=1e-9)
    larger = inflated(circuit, 6, seed=2)
    with_edge, one_less = (
        plain_scores(model, pairs, [getattr(one, side) for one in larger], ablation) for side in ("larger", "without")
    )
    references = np.abs(with_edge - one_less).mean(1)
    np.testing.assert_allclose(found.minimality.references, references, atol=1e-9)
    tie = hypothesis_tests.rounding_of(own)
    assert found.minimality.outdone.tolist() == [sum(e > r + tie for r in references) for e in effects]

    controls = random_circuits(graph, circuit.n_edges, 6, ablation=ablation, seed=2)
    random = plain_scores(model, pairs, controls, ablation)
    removed = plain_scores(model, pairs, ~controls, ablation)
    beaten = [np.abs(score - full).mean() > np.abs(own - full).mean() + 1e-5 for score in random]
    assert found["sufficiency"].statistic == np.mean(beaten)
    beaten = [np.abs(score - full).mean() < np.abs(rest - full).mean() - 1e-5 for score in removed]
    assert found["partial necessity"].statistic == np.mean(beaten)
    p = [test.p for test in found.tests]
    np.testing.assert_allclose([test.adjusted for test in found.tests], holm(p))


def test_circuits_of_every_architecture_can_be_tested(model, pairs):
    graph = model.graph
    kept = graph.prune(np.random.default_rng(0).random(graph.n_edges) < 0.5, from_input=True)
    few = {"n_random": 2, "n_permutations": 9, "edges": 2}
    found = hypotheses_of(model, pairs, Circuit(graph, kept), LOGIT_DIFF, **few)
    own, full, rest = plain_scores(model, pairs, [kept, np.ones_like(kept), ~kept], "corrupted")
    assert found["sufficiency"].details["distance"] == pytest.approx(np.abs(own - full).mean())
    assert found["partial necessity"].details["distance"] == pytest.approx(np.abs(rest - full).mean())
    assert all(0 <= test.p <= test.adjusted <= 1 for test in found.tests)


def known_model() -> tuple[Transformer, np.ndarray]:
    """A model that does everything with two heads of layer 0, and their edges.

    The embedding writes into one half of the stream and the logits read the other, which heads 1 and 2 alone write into.
    """
    config = small_config(n_layers=3, n_heads=4, d_mlp=0, norm="none")
    random = Transformer.random(config, seed=0, scale=2.5, dtype=torch.float64)
    weights = {key: part.clone() for key, part in random.weights.items() if "b_" not in key}
    for layer in range(3):
        written = weights[f"layers.{layer}.W_O"].view(4, config.d_head, config.d_model)
        written[[0, 3] if layer == 0 else slice(None)] = 0
        written[..., :6] = 0
    for key in ("W_E", "W_pos"):
        weights[key][:, 6:] = 0
    weights["W_U"][:6] = 0
    model = Transformer(config, weights, name="known")
    names = [f"input->a0.h{head}<{port}>" for head in (1, 2) for port in "qkv"]
    return model, model.graph.mask([*names, "a0.h1->logits", "a0.h2->logits"])


def known_pairs(model: Transformer, n: int = 90) -> TokenPairs:
    """Prompts on which the model prefers token 0 to token 1 clearly, each beside another random one."""
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(0, model.config.d_vocab, (2, 20 * n, 6))
    logits = model.logits(torch.as_tensor(clean))[:, -1]
    best = torch.argsort(logits[:, 1] - logits[:, 0])[:n].numpy()
    answers = np.zeros((n, 1), dtype=np.int64)
    return TokenPairs.from_ids(clean[best], corrupted[:n], answers, answers + 1)


@pytest.fixture(scope="module")
def known():
    model, truth = known_model()
    return model, known_pairs(model), truth


def test_a_circuit_that_is_known_passes_every_test(known):
    model, pairs, truth = known
    found = hypotheses_of(model, pairs, Circuit(model.graph, truth), LOGIT_DIFF, reference="complement")
    assert [test.passed for test in found.tests] == [True] * 5, found.lines()
    assert found["sufficiency"].statistic == 1
    assert found["partial necessity"].adjusted < 0.001


def test_a_random_circuit_fails_every_test(known):
    model, pairs, truth = known
    other = random_circuits(model.graph, int(truth.sum()), 1, ablation="corrupted", seed=5, avoid=truth)[0]
    found = hypotheses_of(model, pairs, Circuit(model.graph, other), LOGIT_DIFF)
    assert [test.passed for test in found.tests] == [False] * 5, found.lines()
    assert found["independence"].p == 1 / 1001
    assert "pass 0 of 5" in found.lines()[0]


def test_an_idle_edge_is_found(known):
    model, pairs, truth = known
    larger = truth | model.graph.mask(["input->a1.h0<v>", "a1.h0->logits"])
    found = hypotheses_of(model, pairs, Circuit(model.graph, larger), LOGIT_DIFF, n_permutations=20)
    table = found.edges_frame()
    assert set(table["name"][table["p_adjusted"] <= ALPHA]) == {"input->a1.h0<v>", "a1.h0->logits"}
    assert table["effect"].is_monotonic_increasing
    assert not found["minimality"].passed
    some = hypotheses_of(model, pairs, Circuit(model.graph, larger), LOGIT_DIFF, n_permutations=20, edges=4)
    assert len(some.minimality.edges) == 4
    assert larger[some.minimality.edges].all()


def test_a_loss_is_turned_round(known):
    """A circuit that is better than the model beats it, also where less is better."""
    model, pairs, truth = known
    kept = truth.copy()
    kept[model.graph.edge_index("input->a0.h1<q>")] = False
    circuit, few = Circuit(model.graph, kept), {"n_random": 2, "n_permutations": 10}
    measured = [hypotheses_of(model, pairs, circuit, METRICS[name], **few) for name in ("logit-diff", "nll")]
    diff, nll = (found["equivalence"].statistic for found in measured)
    flipped = TokenPairs.from_ids(pairs.clean, pairs.corrupted, pairs.incorrect, pairs.correct)
    other = hypotheses_of(model, flipped, circuit, LOGIT_DIFF, **few)["equivalence"].statistic
    assert diff == pytest.approx(1 - other)
    assert diff < 0.5
    assert nll < 0.5


def test_results_are_the_same_bits_every_time_and_do_not_depend_on_micro_batches(known):
    model, pairs, truth = known
    circuit, few = Circuit(model.graph, truth), {"n_random": 5, "n_permutations": 50, "seed": 4}
    first = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **few).to_json()
    assert hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **few).to_json() == first
    other = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, batch_size=17, **few).to_json()
    assert [test["p"] for test in other["tests"]] == pytest.approx([test["p"] for test in first["tests"]])
    assert hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **(few | {"seed": 5})).to_json() != first


def test_what_cannot_be_tested_is_refused(known):
    model, pairs, truth = known
    circuit = Circuit(model.graph, truth)
    refused = {
        "no edges": (Circuit(model.graph, np.zeros_like(truth)), LOGIT_DIFF, {}),
        "on a path": (Circuit(model.graph, model.graph.mask(["input->a0.h0<q>"])), LOGIT_DIFF, {}),
        "compares with the full model": (circuit, METRICS["kl"], {}),
        "eps=0.5: give a number above 0 and below 0.5": (circuit, LOGIT_DIFF, {"eps": 0.5}),
        "alpha=0: give a number above 0 and below 1": (circuit, LOGIT_DIFF, {"alpha": 0.0}),
        "random=0: give 1 or more": (circuit, LOGIT_DIFF, {"n_random": 0}),
        "reference='half'": (circuit, LOGIT_DIFF, {"reference": "half"}),
        "unknown correction": (circuit, LOGIT_DIFF, {"correction": "none"}),
    }
    for message, (given, metric, how) in refused.items():
        with pytest.raises((OptionError, UnknownNameError), match=message):
            hypotheses_of(model, pairs, given, metric, **how)
    most = Circuit(model.graph, ~model.graph.mask(["input->a0.h0<q>"]))
    with pytest.raises(OptionError, match="complement of the circuit holds no circuit"):
        hypotheses_of(model, pairs, most, LOGIT_DIFF, reference="complement", n_random=2)
    layout = Layout(("rest", "END"), np.ones((2, 2), dtype=bool), np.array([False, True]))
    apart = Circuit(model.graph, np.stack([truth, truth]), layout=layout)
    with pytest.raises(OptionError, match="without parts of prompts"):
        hypotheses_of(model, pairs, apart, LOGIT_DIFF)


# --- in Python and on the command line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder whose scores are kept apart by prompt."""
    from runs import run

    config = {
        "algorithm": "eap",
        "n": 16,
        "n_held_out": 6,
        "n_random": 1,
        "rule": "top",
        "value": 25,
        "parts": "prompt",
    }
    return run(config, tmp_path_factory.mktemp("evidence") / "run").folder


FEW = ("--prompts", "6", "--random", "3", "--permutations", "19", "--edges", "4")


def test_python_tests_a_circuit_on_held_out_prompts_with_its_own_metric(folder):
    model, circuit = cf.load_model("tasks-4l"), Circuit.load(folder / "circuit.json")
    few = {"n": 6, "n_random": 3, "n_permutations": 19, "edges": 4}
    found = cf.hypotheses(model, "ioi", circuit, **few)
    assert (found.metric, found.ablation, found.split, found.n_prompts) == ("logit-diff", "corrupted", "held-out", 6)
    of_kl = Circuit(circuit.graph, circuit.kept, provenance=Provenance(metric="kl", ablation="corrupted", task="ioi"))
    assert cf.hypotheses(model, "ioi", of_kl, **few).to_json()["tests"] == found.to_json()["tests"]
    with pytest.raises(OptionError, match="evaluate it on the model it was found in"):
        cf.hypotheses(cf.load_model("induction-2l"), "induction", circuit)
    frame = found.to_frame()
    assert list(frame["name"]) == [test.name for test in found.tests]
    assert len(frame) == 5


def test_the_command_line_says_and_writes_the_same(command_line, folder):
    code, out, err = command_line("hypotheses", folder, *FEW)
    assert (code, err) == (0, "")
    assert "hypothesis tests (6 held-out prompts, logit-diff, corrupted ablation; holm)" in out
    code, text, _ = command_line("hypotheses", folder / "circuit.json", *FEW, "--json")
    values = json.loads(text)
    assert code == 0
    assert [test["name"] for test in values["tests"]] == [
        "equivalence",
        "independence",
        "minimality",
        "sufficiency",
        "partial necessity",
    ]
    assert len(values["minimality"]["edges"]) == 4
    for test in values["tests"]:
        assert test["meaning"] in out
        assert test["passed"] == (test["decision"] == test["ideal"])
    code, out, err = command_line("hypotheses", folder, "--metric", "kl")
    assert code == 2
    assert "compares with the full model" in err
