"""The smallest faithful prefix is faithful and where its rule says, and random circuits are as large as promised."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from builders import SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind as cf
from circuitfind.circuit import Layout, prune
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.evaluation import random_circuits
from circuitfind.execution import ABLATIONS, make_batches, measure_circuits, prepare_ablation
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection import smallest_faithful
from circuitfind.selection.prefixes import alive_counts, best_edges, edges_above, greedy_edges, top_edges
from circuitfind.selection.size_rule import CLOSE, first_reaching, with_margin
from circuitfind.statistics import bootstrap, faithfulness, quantiles
from circuitfind.task import Spans
from circuitfind.task.metrics import METRICS

LOGIT_DIFF = METRICS["logit-diff"]
MODEL = small_model()
PAIRS = random_pairs(MODEL, 12, seed=3)


def scores_of(model, pairs, ablation="corrupted", name="eap") -> EdgeScores:
    return ALGORITHMS[name](Problem(model, pairs, LOGIT_DIFF, ablation))


def reached(model, pairs, scores, size, absolute=True) -> tuple[float, float]:
    """Faithfulness of the best ``size`` edges, and what it exceeds with 95 % confidence: measured anew."""
    ablation = prepare_ablation(scores.provenance.ablation, model, make_batches(model, pairs))
    edges = scores.graph.n_edges
    masks = np.stack([top_edges(scores, size, absolute=absolute).kept, np.zeros(edges, bool), np.ones(edges, bool)])
    values = measure_circuits(model, pairs, masks, [LOGIT_DIFF], ablation)["logit-diff"]
    return float(faithfulness(*values)), quantiles(bootstrap(*values), 0.05)[0]


# --- the smallest faithful prefix -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.3, 0.85])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_prefix_reaches_its_target_when_measured_anew_and_says_so(ablation, absolute, target):
    scores = scores_of(MODEL, PAIRS, ablation)
    circuit = smallest_faithful(MODEL, PAIRS, scores, LOGIT_DIFF, target, absolute=absolute)
    size, selection = circuit.selection["asked"], circuit.selection
    mean, sure = reached(MODEL, PAIRS, scores, size, absolute)
    assert mean >= target
    assert (selection["reached_on_train"], selection["sure_on_train"]) == pytest.approx((mean, sure))
    assert (selection["rule"], selection["target"], selection["absolute"]) == ("faithfulness", target, absolute)
    assert (circuit.kept == top_edges(scores, size, absolute=absolute).kept).all()
    assert size >= 1


@pytest.mark.parametrize("target", [0.5, 0.85])
def test_the_size_is_between_the_last_measured_below_the_target_and_the_next(target):
    scores, goal = scores_of(MODEL, PAIRS), with_margin(target)

    def f(n: int) -> float:
        return reached(MODEL, PAIRS, scores, n)[0] if top_edges(scores, n).n_edges else 0.0

    doubling = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if f(n) >= goal)
    around = [n for n in (1, 2, 4, *map(round, 2 ** np.arange(2.25, 8, 0.25))) if n > doubling / 2]
    stop = next(at for at in range(1, len(around)) if f(around[at - 1]) >= goal <= f(around[at])) + 1
    tried = sorted({*(2**step for step in range(doubling.bit_length())), *around[:stop]})
    at = first_reaching(np.array([f(n) for n in tried]), goal)
    size = smallest_faithful(MODEL, PAIRS, scores, LOGIT_DIFF, target).selection["asked"]
    assert tried[at - 1] < size <= tried[at]
    assert f(size) >= goal
    assert f(size) <= goal + CLOSE or f(size - 1) < goal


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SHAPES)), st.sampled_from(ABLATIONS))
def test_on_any_model_the_target_is_reached_again_when_measured_again(seed, shape, ablation):
    model = small_model(seed=seed, **SHAPES[shape])
    pairs = random_pairs(model, 6, seed)
    scores = scores_of(model, pairs, ablation)
    circuit = smallest_faithful(model, pairs, scores, LOGIT_DIFF, 0.6)
    assert reached(model, pairs, scores, circuit.selection["asked"])[0] >= 0.6


def test_the_batch_size_does_not_change_the_choice():
    scores = scores_of(MODEL, PAIRS)
    whole, small = (smallest_faithful(MODEL, PAIRS, scores, LOGIT_DIFF, 0.85, batch_size=size) for size in (None, 5))
    assert (whole.kept == small.kept).all()


@pytest.mark.parametrize("target", [0, -0.5, float("nan")])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(OptionError, match=r"give a number above 0, such as 0\.85"):
        smallest_faithful(MODEL, PAIRS, scores_of(MODEL, PAIRS), LOGIT_DIFF, target)


def test_a_target_that_nothing_reaches_is_refused():
    with pytest.raises(OptionError, match="no prefix of the ranking reaches faithfulness 100; the whole model has 1"):
        smallest_faithful(MODEL, PAIRS, scores_of(MODEL, PAIRS), LOGIT_DIFF, 100)


def test_prompts_that_show_no_behaviour_are_refused():
    same = replace(PAIRS, corrupted=PAIRS.clean)
    with pytest.raises(OptionError, match=r"have the same logit-diff .*these prompts do not show the behaviour"):
        smallest_faithful(MODEL, same, scores_of(MODEL, PAIRS), LOGIT_DIFF, 0.85)


# --- the call from Python ---------------------------------------------------------------------------------------------


def test_select_applies_one_rule():
    scores = scores_of(MODEL, PAIRS)
    for chosen, expected in (
        (cf.select(scores, top=20), best_edges(scores, 20)),
        (cf.select(scores, top=20, refill=False), top_edges(scores, 20)),
        (cf.select(scores, threshold=0.5, absolute=False), edges_above(scores, 0.5, absolute=False)),
        (cf.select(scores, greedy=15), greedy_edges(scores, 15)),
        (cf.select(scores, MODEL, pairs=PAIRS), smallest_faithful(MODEL, PAIRS, scores, LOGIT_DIFF, 0.85)),
        (
            cf.select(scores, MODEL, pairs=PAIRS, faithfulness=0.4),
            smallest_faithful(MODEL, PAIRS, scores, LOGIT_DIFF, 0.4),
        ),
    ):
        assert (chosen.kept == expected.kept).all()
        assert chosen.selection == expected.selection


def test_select_refuses_two_rules_and_a_faithfulness_without_a_model():
    scores = scores_of(MODEL, PAIRS)
    with pytest.raises(OptionError, match="give one selection rule, not top and greedy"):
        cf.select(scores, top=3, greedy=3)
    for given_ in ((), (MODEL,), (None, "ioi")):
        with pytest.raises(OptionError, match="choosing by faithfulness runs the model: give model and task"):
            cf.select(scores, *given_)


def test_the_size_is_chosen_on_the_scores_own_and_on_other_train_prompts_of_the_same_kind():
    model, task, options = cf.load_model("tasks-4l"), cf.load_task("ioi"), {"corruption": "flip"}
    scores = cf.discover(model, task, n=16, seed=5, algorithm="eap", task_options=options)
    chosen_on = cf.Setting(task, model, n=16, seed=5, task_options=options).choosing
    chosen = cf.select(scores, model, task, faithfulness=0.5)
    assert chosen.selection == cf.select(scores, model, pairs=chosen_on, faithfulness=0.5).selection
    prompts = {
        (split, seed): {pair.clean for pair in task.pairs(64, split=split, seed=seed, **options)}
        for split in ("train", "held-out")
        for seed in (5, 6)
    }
    own, fresh = chosen_on
    assert {pair.clean for pair in own.text} <= prompts["train", 5]
    used = {pair.clean for pair in fresh.text}
    assert len(used) == 64  # few prompts would leave the size to chance
    assert not used & (prompts["train", 5] | prompts["held-out", 5] | prompts["held-out", 6])
    flipped = {pair.corrupted for pair in fresh.text}
    assert not flipped & {pair.corrupted for pair in cf.Setting(task, model, n=16, seed=5).choosing[1].text}


def test_sets_of_prompts_are_pooled():
    model, task = cf.load_model("tasks-4l"), cf.load_task("greater-than")
    scores = cf.discover(model, task, n=16, algorithm="eap")
    sets = cf.Setting(task, model, n=16).with_fresh(16)
    assert [pairs.n_pairs for pairs in sets] == [16, 16]
    chosen = cf.select(scores, model, pairs=sets, faithfulness=0.7)
    runners = [CircuitRunner(model, pairs, METRICS["prob-diff"], "corrupted") for pairs in sets]
    whole = runners[0].whole
    values, empty, full = np.concatenate([one.run(np.stack([chosen.kept, ~whole, whole])) for one in runners], axis=1)
    assert chosen.selection["reached_on_train"] == pytest.approx(float(faithfulness(values, empty, full)))


def test_scores_of_one_task_do_not_choose_a_circuit_of_another():
    model = cf.load_model("tasks-4l")
    scores = cf.discover(model, "ioi", n=4, algorithm="eap")
    with pytest.raises(OptionError, match="the scores are of task 'ioi', not 'induction'"):
        cf.select(scores, model, "induction")


# --- random circuits --------------------------------------------------------------------------------------------------

GRAPHS = st.builds(ComputationGraph, st.integers(1, 3), st.integers(1, 3), has_mlp=st.booleans())


@settings(max_examples=40, deadline=None)
@given(GRAPHS, st.floats(0, 1), st.sampled_from(ABLATIONS), st.integers(0, 1000))
def test_random_circuits_have_the_size_asked_for_after_pruning_and_no_smaller_prefix_has(graph, share, ablation, seed):
    size = round(share * graph.n_edges)
    masks = random_circuits(graph, size, 3, ablation=ablation, seed=seed)
    assert masks.shape == (3, graph.n_edges)
    for number, mask in enumerate(masks):
        drawn = np.random.default_rng([seed, number]).random(graph.n_edges)
        sizes = alive_counts(EdgeScores(graph, drawn, Provenance(ablation=ablation)))
        assert mask.sum() >= size
        assert mask.sum() == min(sizes[sizes >= size])


def test_random_circuits_are_the_same_for_a_seed_and_differ_among_each_other():
    graph = ComputationGraph(3, 3)
    one, same, other = (random_circuits(graph, 40, 6, ablation="corrupted", seed=seed) for seed in (0, 0, 1))
    assert (one == same).all()
    assert len({mask.tobytes() for mask in [*one, *other]}) == 12
    assert (random_circuits(graph, 40, 2, ablation="corrupted") == one[:2]).all()


def test_no_random_circuits_are_an_empty_array_and_fewer_are_refused():
    graph = ComputationGraph(2, 2)
    assert random_circuits(graph, 5, 0, ablation="zero").shape == (0, graph.n_edges)
    assert not random_circuits(graph, 0, 2, ablation="zero").any()
    for n, seed in ((-1, 0), (1, -1)):
        with pytest.raises(OptionError, match="give 0 or more of both"):
            random_circuits(graph, 5, n, ablation="zero", seed=seed)


# --- circuits with parts ----------------------------------------------------------------------------------------------


def scores_by_part(pairs=PAIRS, ablation="corrupted") -> EdgeScores:
    return ALGORITHMS["eap"](Problem(MODEL, pairs, LOGIT_DIFF, ablation, parts="position"))


def reached_by_part(scores, layout, size) -> float:
    """The faithfulness of the best ``size`` (part, edge): measured anew."""
    ablation = prepare_ablation(scores.provenance.ablation, MODEL, make_batches(MODEL, PAIRS))
    kept = top_edges(scores, size, layout=layout).kept
    masks = np.stack([kept, np.zeros_like(kept), np.ones_like(kept)])
    values = measure_circuits(MODEL, PAIRS, masks, [LOGIT_DIFF], ablation, spans=scores.spans)["logit-diff"]
    return float(faithfulness(*values))


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_the_prefix_with_parts_reaches_its_target(ablation):
    scores = scores_by_part(ablation=ablation)
    circuit = cf.select(scores, MODEL, pairs=PAIRS, parts=True, faithfulness=0.7)
    size = circuit.selection["asked"]
    assert circuit.selection["target"] == 0.7
    assert reached_by_part(scores, circuit.layout, size) >= 0.7
    assert (circuit.kept == top_edges(scores, size, layout=circuit.layout).kept).all()


def test_where_all_prompts_are_one_part_the_circuit_with_parts_is_the_plain_one():
    one = Spans(("rest",), np.zeros(PAIRS.clean.shape, dtype=np.int64))
    plain = scores_of(MODEL, PAIRS)
    scores = ALGORITHMS["eap"](Problem(MODEL, PAIRS, LOGIT_DIFF, parts="span", spans=one))
    layout = Layout.of(one, PAIRS)
    for n in (5, 30, 60):
        assert (top_edges(scores, n, layout=layout).kept[0] == top_edges(plain, n).kept).all()


def test_rules_with_parts_are_checked():
    scores = scores_by_part()
    top = cf.select(scores, MODEL, pairs=PAIRS, parts=True, top=30, refill=False)
    assert (top.kept == top_edges(scores, 30, layout=top.layout).kept).all()
    assert cf.select(scores, MODEL, pairs=PAIRS, parts=True, threshold=0.3).selection["threshold"] == 0.3
    with pytest.raises(OptionError, match="greedy= grows circuits without parts"):
        cf.select(scores, MODEL, pairs=PAIRS, parts=True, greedy=4)
    with pytest.raises(OptionError, match="depends on how the parts of prompts lie: give model and task"):
        cf.select(scores, parts=True, top=4)
    with pytest.raises(OptionError, match="discover with parts='span', 'position' or 'length'"):
        cf.select(scores_of(MODEL, PAIRS), MODEL, pairs=PAIRS, parts=True)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_random_circuits_with_parts_are_the_smallest_prefixes_of_random_rankings_that_are_large_enough(ablation):
    graph = ComputationGraph(2, 2)
    layout = Layout(("rest", "S", "END"), np.triu(np.ones((3, 3), bool)), np.array([False, False, True]))
    masks = random_circuits(graph, 25, 3, ablation=ablation, seed=4, layout=layout)
    for number, mask in enumerate(masks):
        order = np.argsort(np.random.default_rng([4, number]).random(mask.size), kind="stable")

        def pruned(n, order=order):
            kept = np.zeros(order.size, dtype=bool)
            kept[order[:n]] = True
            return prune(graph, kept.reshape(3, -1), ablation, layout)

        first = next(n for n in range(order.size + 1) if pruned(n).sum() >= 25)
        assert (mask == pruned(first)).all()
    assert not random_circuits(graph, 0, 2, ablation=ablation, layout=layout).any()


# --- a circuit of n edges ---------------------------------------------------------------------------------------------

TINY = (
    ComputationGraph(1, 1),
    ComputationGraph(1, 2, has_mlp=False),
    ComputationGraph(1, 1, parallel=True),
    ComputationGraph(1, 2, has_mlp=False, n_kv_groups=1),
)


def sizes_that_exist(graph: ComputationGraph, ablation: str) -> set[int]:
    """How many edges a circuit that needs no pruning can have, from every subset of edges."""
    subsets = (np.array(bits) for bits in itertools.product([False, True], repeat=graph.n_edges))
    return {int(kept.sum()) for kept in subsets if (prune(graph, kept, ablation) == kept).all()}


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
@pytest.mark.parametrize("graph", TINY, ids=str)
def test_asking_for_n_edges_gives_n_alive_edges_where_they_exist(graph, ablation):
    sizes = sizes_that_exist(graph, ablation)
    for seed in range(20):
        values = np.random.default_rng(seed).standard_normal(graph.n_edges)
        scores = EdgeScores(graph, values, Provenance(ablation=ablation))
        for n in sizes:
            circuit = best_edges(scores, n)
            assert (prune(graph, circuit.kept, ablation) == circuit.kept).all()
            assert circuit.n_edges == n
            if top_edges(scores, n).n_edges == n:  # where nothing is pruned, there is nothing to refill
                assert (circuit.kept == top_edges(scores, n).kept).all()


def test_refilling_keeps_the_pruned_prefix_and_takes_the_next_best_edges_between_its_nodes():
    graph = ComputationGraph(4, 8)
    scores = EdgeScores(
        graph, np.random.default_rng(0).standard_normal(graph.n_edges), Provenance(ablation="corrupted")
    )
    circuit, counts = best_edges(scores, 200), alive_counts(scores)
    assert circuit.n_edges == circuit.selection["kept"] == 200
    prefix = top_edges(scores, int(np.searchsorted(counts, 200, side="right")) - 1)
    assert prefix.n_edges < 200
    assert (circuit.kept >= prefix.kept).all()
    added = np.flatnonzero(circuit.kept & ~prefix.kept)
    alone = [edge for edge in np.flatnonzero(~circuit.kept) if is_alive_in(graph, prefix.kept, edge)]
    assert all(is_alive_in(graph, prefix.kept, edge) for edge in added)
    assert np.abs(scores.values[added]).min() >= np.abs(scores.values[alone]).max()


def is_alive_in(graph, kept, edge):
    """Whether an edge that is added to a circuit survives pruning."""
    more = kept.copy()
    more[edge] = True
    return prune(graph, more, "corrupted")[edge]
