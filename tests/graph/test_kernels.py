"""The compiled graph passes give what their plain twins in ``naive_graph`` give."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import naive_graph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from circuitfind import kernels

# The first example of a pass waits for the compiler, so no deadline.
prove = settings(deadline=None, max_examples=150)


@st.composite
def graphs(draw, max_nodes=8, max_edges=20):
    """Edges in execution order between a few nodes, many of them parallel, some nodes without any.

    Nodes between the input and the logits are numbered at random: the passes may rely on the order of the edges alone.
    """
    n_nodes = draw(st.integers(2, max_nodes))
    numbers = [0, *draw(st.permutations(range(1, n_nodes - 1))), n_nodes - 1]
    steps = st.integers(1, n_nodes - 1).flatmap(lambda late: st.tuples(st.just(late), st.integers(0, late - 1)))
    edges = sorted(draw(st.lists(steps, max_size=max_edges)), key=lambda edge: edge[0])
    source = np.array([numbers[early] for _, early in edges], np.int32)
    target = np.array([numbers[late] for late, _ in edges], np.int32)
    return source, target, n_nodes


@st.composite
def graphs_with_edge_set(draw):
    source, target, n_nodes = draw(graphs())
    kept = draw(st.lists(st.booleans(), min_size=source.size, max_size=source.size))
    return source, target, np.array(kept, bool), n_nodes


@st.composite
def graphs_with_ranking(draw):
    source, target, n_nodes = draw(graphs())
    return source, target, np.array(draw(st.permutations(range(source.size))), np.int64), n_nodes


@st.composite
def scored_edges(draw):
    """Scores with many ties, infinities and both zeros, beside a known circuit."""
    scores = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, 2.5, -1.0, math.inf, -math.inf]), st.floats(allow_nan=False, width=32)
    )
    pairs = draw(st.lists(st.tuples(scores, st.booleans()), max_size=30))
    return np.array([score for score, _ in pairs], float), np.array([true for _, true in pairs], bool)


# One attention head (node 1, reads through three ports), an MLP (2) that hears only the head, and an MLP (3) that
# hears only the input. Node 4 is the logits.
#                 in->1q in->1k in->1v 1->2 in->3 in->4 1->4 2->4 3->4
SOURCE = np.array([0, 0, 0, 1, 0, 0, 1, 2, 3], np.int32)
TARGET = np.array([1, 1, 1, 2, 3, 4, 4, 4, 4], np.int32)
N_NODES = 5


def flags(*edges):
    kept = np.zeros(SOURCE.size, bool)
    kept[list(edges)] = True
    return kept


# --- a set of edges ---


@prove
@given(graphs_with_edge_set(), st.booleans())
def test_prune_equals_taking_away_dead_ends_one_by_one(graph, from_input):
    assert_array_equal(kernels.prune(*graph, from_input), naive_graph.prune(*graph, from_input))


@prove
@given(graphs_with_edge_set())
def test_reachability_equals_networkx(graph):
    assert_array_equal(kernels.reached_from_input(*graph), naive_graph.reached_from_input(*graph))
    assert_array_equal(kernels.reaching_output(*graph), naive_graph.reaching_output(*graph))


@prove
@given(graphs_with_edge_set(), st.booleans())
def test_pruning_twice_changes_nothing(graph, from_input):
    source, target, kept, n_nodes = graph
    once = kernels.prune(source, target, kept, n_nodes, from_input)
    assert_array_equal(kernels.prune(source, target, once, n_nodes, from_input), once)


def test_prune_drops_what_feeds_nothing_and_what_nothing_feeds():
    # in->1v, 1->2 and in->3 feed nothing; 2->4 and 3->4 would be fed by nothing without them.
    dead_ends = flags(2, 3, 4, 5)
    assert_array_equal(kernels.prune(SOURCE, TARGET, dead_ends, N_NODES, False), flags(5))
    unfed = flags(3, 5, 7, 8)
    assert_array_equal(kernels.prune(SOURCE, TARGET, unfed, N_NODES, True), flags(5))
    assert_array_equal(kernels.prune(SOURCE, TARGET, unfed, N_NODES, False), unfed)


def test_prune_keeps_parallel_edges_apart():
    assert_array_equal(kernels.prune(SOURCE, TARGET, flags(1, 6), N_NODES, True), flags(1, 6))


@pytest.mark.parametrize("from_input", [True, False])
def test_the_empty_circuit_stays_empty_and_the_full_one_full(from_input):
    empty, full = flags(), flags(*range(SOURCE.size))
    assert_array_equal(kernels.prune(SOURCE, TARGET, empty, N_NODES, from_input), empty)
    assert_array_equal(kernels.prune(SOURCE, TARGET, full, N_NODES, from_input), full)
    assert_array_equal(kernels.reached_from_input(SOURCE, TARGET, empty, N_NODES), [1, 0, 0, 0, 0])
    assert_array_equal(kernels.reaching_output(SOURCE, TARGET, empty, N_NODES), [0, 0, 0, 0, 1])


def test_a_graph_without_edges_is_no_special_case():
    nodes, ranks = np.zeros(0, np.int32), np.zeros(0, np.int64)
    assert kernels.prune(nodes, nodes, np.zeros(0, bool), 2, True).shape == (0,)
    assert_array_equal(kernels.alive_counts(kernels.alive_after(nodes, nodes, ranks, 2, True)), [0])
    assert kernels.grow_greedily(nodes, nodes, ranks, 2).shape == (0,)


# --- a ranking of edges ---


@prove
@given(graphs_with_ranking(), st.booleans())
def test_alive_after_equals_pruning_every_prefix(graph, from_input):
    alive_after = kernels.alive_after(*graph, from_input)
    assert_array_equal(alive_after, naive_graph.alive_after(*graph, from_input))
    assert_array_equal(kernels.alive_counts(alive_after), naive_graph.alive_counts(*graph, from_input))


@prove
@given(graphs_with_ranking(), st.booleans())
def test_alive_after_agrees_with_prune_at_every_length(graph, from_input):
    source, target, rank, n_nodes = graph
    alive_after = kernels.alive_after(source, target, rank, n_nodes, from_input)
    for length in range(source.size + 1):
        pruned = kernels.prune(source, target, rank < length, n_nodes, from_input)
        assert_array_equal(alive_after <= length, pruned)


def test_an_edge_comes_alive_with_the_worst_edge_of_its_best_path():
    #                in->1q k v 1->2 in->3 in->4 1->4 2->4 3->4
    rank = np.array([3, 8, 6, 0, 7, 5, 4, 1, 2])
    # 1->2 and 2->4 are first but wait for in->1q, the fourth; 3->4 waits for in->3, the eighth.
    alive_after = kernels.alive_after(SOURCE, TARGET, rank, N_NODES, True)
    assert_array_equal(alive_after, [4, 9, 7, 4, 8, 6, 5, 4, 8])
    assert_array_equal(kernels.alive_counts(alive_after), [0, 0, 0, 0, 3, 4, 5, 6, 8, 9])
    # From the output side alone, 1->2 waits for 2->4 and nothing else.
    alive_after = kernels.alive_after(SOURCE, TARGET, rank, N_NODES, False)
    assert_array_equal(alive_after, [4, 9, 7, 2, 8, 6, 5, 2, 3])


def test_an_edge_that_never_comes_alive_is_one_past_the_end():
    source, target = np.array([0, 0, 2], np.int32), np.array([1, 3, 3], np.int32)
    rank = np.array([0, 1, 2])
    assert_array_equal(kernels.alive_after(source, target, rank, 4, True), [4, 2, 4])
    assert_array_equal(kernels.alive_after(source, target, rank, 4, False), [4, 2, 3])


@prove
@given(graphs_with_ranking())
def test_greedy_growth_equals_searching_all_edges_at_every_step(graph):
    assert_array_equal(kernels.grow_greedily(*graph), naive_graph.grow_greedily(*graph))


@prove
@given(graphs_with_ranking())
def test_greedy_growth_names_every_edge_once(graph):
    assert_array_equal(np.sort(kernels.grow_greedily(*graph)), np.arange(graph[0].size))


def test_greedy_growth_takes_the_best_edge_in_reach():
    #                in->1q k v 1->2 in->3 in->4 1->4 2->4 3->4
    rank = np.array([3, 8, 6, 0, 7, 5, 4, 1, 2])
    # 1->2 is the best of all but waits for 2->4; in->1q waits for node 1, which 1->2 brings.
    assert_array_equal(kernels.grow_greedily(SOURCE, TARGET, rank, N_NODES), [7, 3, 8, 0, 6, 5, 2, 4, 1])


def test_greedy_growth_ends_with_what_it_never_reaches_in_rank_order():
    source, target = np.array([0, 0, 1, 0], np.int32), np.array([1, 2, 2, 3], np.int32)
    assert_array_equal(kernels.grow_greedily(source, target, np.array([2, 0, 1, 3]), 4), [3, 1, 2, 0])


# --- scores against a known circuit ---


@prove
@given(scored_edges())
def test_curves_and_areas_equal_their_definitions(scored):
    curves = kernels.ranking_curves(*scored)
    for fast, plain in zip(curves, naive_graph.ranking_curves(*scored), strict=True):
        assert_array_equal(fast, plain)
    assert_allclose(kernels.roc_auc(*curves[:2]), naive_graph.roc_auc(*scored), rtol=1e-12)
    assert_allclose(kernels.average_precision(*curves[:2]), naive_graph.average_precision(*scored), rtol=1e-12)


@prove
@given(scored_edges(), st.randoms(use_true_random=False))
def test_curves_do_not_depend_on_the_order_of_edges(scored, random):
    order = list(range(scored[0].size))
    random.shuffle(order)
    shuffled = kernels.ranking_curves(*(array[order] for array in scored))
    for given_order, any_order in zip(kernels.ranking_curves(*scored), shuffled, strict=True):
        assert_array_equal(given_order, any_order)


def test_a_tie_is_one_step_of_the_curve():
    scores, truth = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    true_positives, false_positives, thresholds = kernels.ranking_curves(scores, truth)
    assert_array_equal(true_positives, [0, 1, 2, 2])
    assert_array_equal(false_positives, [0, 0, 1, 2])
    assert_array_equal(thresholds, [0.9, 0.5, 0.1])
    assert kernels.roc_auc(true_positives, false_positives) == 3.5 / 4
    assert kernels.average_precision(true_positives, false_positives) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("truth", [[True, True], [False, False], []])
def test_areas_without_both_kinds_of_edges_are_nan(truth):
    curves = kernels.ranking_curves(np.arange(len(truth), dtype=float), np.array(truth, bool))
    assert math.isnan(kernels.roc_auc(*curves[:2]))
    assert math.isnan(kernels.average_precision(*curves[:2]))


def test_an_area_at_the_size_of_an_8b_model_does_not_overflow():
    half = 800_000
    scores = np.arange(2 * half, dtype=float)
    curves = kernels.ranking_curves(scores, scores >= half)
    assert kernels.roc_auc(*curves[:2]) == 1.0
    assert kernels.average_precision(*curves[:2]) == 1.0


# --- checks ---


@pytest.mark.parametrize("rank", [[0] * 9, range(1, 10), range(-1, 8), [0, 1, 2, 3, 4, 5, 6, 7, 2**62]])
def test_a_ranking_that_is_no_permutation_is_refused(rank):
    rank = np.array(rank, np.int64)
    with pytest.raises(ValueError, match="rank: a permutation of 0 to 8"):
        kernels.alive_after(SOURCE, TARGET, rank, N_NODES, True)
    with pytest.raises(ValueError, match="rank: a permutation of 0 to 8"):
        kernels.grow_greedily(SOURCE, TARGET, rank, N_NODES)


@pytest.mark.parametrize("stray", [-1, N_NODES])
def test_a_node_outside_the_graph_is_refused_before_compiled_code_writes_there(stray):
    nodes = SOURCE.copy()
    nodes[3] = stray
    with pytest.raises(ValueError, match="source: node numbers are 0 to 4"):
        kernels.prune(nodes, TARGET, flags(), N_NODES, True)
    with pytest.raises(ValueError, match="target: node numbers are 0 to 4"):
        kernels.grow_greedily(SOURCE, nodes, np.arange(9), N_NODES)


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="kept: one entry per edge"):
        kernels.prune(SOURCE, TARGET, flags()[1:], N_NODES, True)
    with pytest.raises(ValueError, match="target: one entry per edge"):
        kernels.reached_from_input(SOURCE, TARGET[1:], flags(), N_NODES)
    with pytest.raises(ValueError, match="truth: one entry per edge"):
        kernels.ranking_curves(np.zeros(3), np.zeros(2, bool))


def test_edge_numbers_are_not_taken_for_a_mask():
    with pytest.raises(TypeError, match="Cannot cast"):
        kernels.prune(SOURCE, TARGET, np.arange(9), N_NODES, True)


def test_a_graph_needs_two_nodes():
    with pytest.raises(ValueError, match="at least the input and the logits"):
        kernels.reached_from_input(SOURCE[:0], TARGET[:0], flags()[:0], 1)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="1 of 2 are NaN"):
        kernels.ranking_curves(np.array([0.0, math.nan]), np.array([True, False]))


def test_arguments_are_left_as_they_were_and_may_be_read_only_or_strided():
    wide = np.repeat(SOURCE, 2).astype(np.int64)
    frozen = TARGET.copy()
    frozen.flags.writeable = False
    rank, kept = np.arange(9), flags(0, 6)
    assert_array_equal(kernels.prune(wide[::2], frozen, kept, N_NODES, True), kept)
    kernels.alive_after(wide[::2], frozen, rank, N_NODES, True)
    kernels.grow_greedily(wide[::2], frozen, rank, N_NODES)
    assert_array_equal(wide[::2], SOURCE)
    assert_array_equal(rank, np.arange(9))
    assert wide.flags.writeable
    assert rank.flags.writeable
    assert_array_equal(kept, flags(0, 6))


def test_an_installation_that_nobody_can_write_to_still_works(tmp_path):
    # Files in the place of every cache folder: not even the superuser can write there.
    package = tmp_path / "circuitfind"
    shutil.copytree(Path(kernels.__file__).parent, package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("")
    (package / "kernels" / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    home = str(tmp_path / "home")
    hidden = {
        "HOME": home,
        "XDG_CACHE_HOME": home,
        "LOCALAPPDATA": home,
        "NUMBA_CACHE_DIR": home,
        "NUMBA_DISABLE_JIT": "0",
    }
    program = (
        "from circuitfind import kernels\nimport numpy as np\n"
        "print(kernels.reached_from_input(np.array([0]), np.array([1]), np.array([True]), 2))\n"
        "print(type(kernels.edges._reached._cache).__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=os.environ | hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["[ True  True]", "NullCache"]
