"""Completeness and minimality: every number beside a run of the plain engine, and the paper's own example of each."""

import json
from dataclasses import replace
from itertools import combinations

import naive
import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import completeness, evaluate_circuit, minimality
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric

LOGIT_DIFF = METRICS["logit-diff"]
MODEL = small_model()
PAIRS = random_pairs(MODEL, 3)


def circuit_of(model, share=0.6, seed=0, ablation="corrupted") -> Circuit:
    kept = np.random.default_rng(seed).random(model.graph.n_edges) < share
    circuit = Circuit(model.graph, prune(model.graph, kept, ablation))
    assert 5 < circuit.n_edges < model.graph.n_edges
    return circuit


def performance(model, pairs, kept, ablation) -> float:
    """F of a circuit, given by the names of its edges, by the plain engine: the mean logit difference."""
    rows = [slice(0, int(length)) for length in pairs.length]
    corrupted = [torch.tensor(pairs.corrupted[n, row]) for n, row in enumerate(rows)]
    values = []
    for n, ablated in enumerate(naive.ablated_values(model, ablation, corrupted)):
        clean = torch.tensor(pairs.clean[n, rows[n]])
        logits = naive.circuit_logits(model, clean, ablated, kept)[int(pairs.answer_position[n])].tolist()
        wrong = [logits[answer] for answer in pairs.incorrect[n]]
        values.append(logits[pairs.correct[n, 0]] - sum(wrong) / len(wrong))
    return sum(values) / len(values)


def knocked_out(graph, kept, of, names):
    """The names of a circuit's edges without some nodes (the edges that they send) or edges."""
    edges = {name for name, is_kept in zip(graph.edge_names(), kept, strict=True) if is_kept}
    return edges - set(names) if of == "edges" else {name for name in edges if name.split("->")[0] not in names}


@pytest.mark.parametrize(
    ("shape", "ablation", "of"),
    [("layernorm-mlp", "corrupted", "edges"), ("llama-groups", "mean", "edges"), ("gemma2", "corrupted", "nodes")],
)
def test_knock_outs_of_circuit_and_model_are_those_of_the_plain_engine(shape, ablation, of):
    model = small_model(**SHAPES[shape])
    pairs, circuit = random_pairs(model, 3), circuit_of(model, ablation=ablation)
    found = completeness(model, pairs, circuit, LOGIT_DIFF, ablation=ablation, of=of, n_random=3, greedy=1, steps=2)
    assert [part.kind for part in found.knockouts] == ["none", "random", "random", "random", "greedy"]
    whole = np.ones(model.graph.n_edges, bool)
    for part in found.knockouts:
        for kept, measured in ((circuit.kept, part.circuit), (whole, part.model)):
            left = knocked_out(model.graph, kept, of, part.names)
            assert measured == pytest.approx(performance(model, pairs, left, ablation), abs=1e-9)
    assert found.span == pytest.approx(
        abs(
            performance(model, pairs, set(model.graph.edge_names()), ablation)
            - performance(model, pairs, set(), ablation)
        )
    )
    assert found.random_mean == pytest.approx(
        np.mean([abs(part.circuit - part.model) for part in found.knockouts[1:4]])
    )
    assert found.worst.score == max(abs(part.circuit - part.model) for part in found.knockouts)
    assert len({part.names for part in found.knockouts}) > 2


@pytest.mark.parametrize("of", ["nodes", "edges"])
def test_minimality_is_the_largest_change_over_the_sets_that_are_tried(of):
    """Against the plain engine, over sets that are given: all of one thing and of two."""
    circuit = circuit_of(MODEL)
    names = [name for name in circuit.nodes if name not in ("input", "logits")]
    if of == "edges":
        names = [edge["name"] for edge in circuit.edges][:3]
    sets = [chosen for size in (1, 2) for chosen in combinations(names, size)][:6]
    found = minimality(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", of=of, n_random=0, sets=sets)
    assert {need.name for need in found.needs} >= set(names)
    for need in found.needs:
        if need.name not in names:
            continue
        changes = []
        for out in [(), *sets]:
            rest = set(out) - {need.name}
            before, after = (
                performance(MODEL, PAIRS, knocked_out(MODEL.graph, circuit.kept, of, chosen), "corrupted")
                for chosen in (rest, rest | {need.name})
            )
            changes.append(abs(after - before))
        assert need.score == pytest.approx(max(changes), abs=1e-9)
        assert need.score == abs(need.after - need.before)
        assert need.name not in need.without
    assert found.least.score == min(need.score for need in found.needs)


def test_more_sets_can_only_show_more_need():
    circuit = circuit_of(MODEL)
    alone, tried = (
        minimality(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=n, seed=1) for n in (0, 8)
    )
    assert all(few.without == () for few in alone.needs)
    assert all(many.score >= few.score for few, many in zip(alone.needs, tried.needs, strict=True))
    assert any(many.without for many in tried.needs)


def test_the_whole_model_is_complete_and_its_unfaithfulness_is_the_score_of_knocking_out_nothing():
    whole = Circuit(MODEL.graph, np.ones(MODEL.graph.n_edges, bool))
    found = completeness(MODEL, PAIRS, whole, LOGIT_DIFF, ablation="corrupted", n_random=4, greedy=1)
    assert [part.score for part in found.knockouts] == [0] * 6
    part = circuit_of(MODEL)
    done = evaluate_circuit(MODEL, PAIRS, part, LOGIT_DIFF, n_random=0)
    nothing_out = completeness(MODEL, PAIRS, part, LOGIT_DIFF, ablation="corrupted", n_random=0).knockouts
    assert [knockout.names for knockout in nothing_out] == [()]
    assert nothing_out[0].score == pytest.approx(abs(done.circuit.mean() - done.full.mean()))


# --- the paper's example: two equal parts, of which one is enough -------------------------------------------------------


def or_gate():
    """Two equal heads that add up, measured by whether at least one of them works: 1, else 0."""
    model = small_model(n_layers=1, n_heads=2, d_mlp=0, norm="none", biases=False)
    weights = {key: tensor.clone() for key, tensor in model.weights.items()}
    for port in "QKV":
        weights[f"layers.0.W_{port}"][:, 4:] = weights[f"layers.0.W_{port}"][:, :4]
    weights["layers.0.W_O"][4:] = weights["layers.0.W_O"][:4]
    model = model.with_weights(weights)
    pairs = TokenPairs(*(np.array(part) for part in ([[3, 5, 2]], [[7, 1, 4]], [3], [2], [[6]], [[9]])))
    none, one, two = (difference(model, pairs, heads) for heads in ((), ("a0.h0",), ("a0.h0", "a0.h1")))
    assert two - none == pytest.approx(2 * (one - none))

    def works(logits, targets):
        return ((LOGIT_DIFF(logits, targets) - none) / (one - none)).clamp(0, 1)

    return model, pairs, Metric("works", "share", works, needs_incorrect=True)


def edges_of(model, heads):
    """The circuit of some of the heads; what the input itself says is in all of them."""
    through = [f"input->{head}<{port}>" for head in heads for port in "qkv"] + [f"{head}->logits" for head in heads]
    return [*through, "input->logits"]


def difference(model, pairs, heads) -> float:
    return evaluate_circuit(model, pairs, gate(model, heads), LOGIT_DIFF, n_random=0).circuit.item()


def gate(model, heads) -> Circuit:
    return Circuit(model.graph, model.graph.mask(edges_of(model, heads)))


def test_half_of_an_or_gate_is_faithful_and_not_complete():
    model, pairs, metric = or_gate()
    half, both = gate(model, ["a0.h0"]), gate(model, ["a0.h0", "a0.h1"])
    without = completeness(model, pairs, half, metric, ablation="corrupted", n_random=0, sets=[["a0.h0"]])
    nothing, head = without.knockouts
    assert nothing.score == pytest.approx(0)
    assert (head.circuit, head.model) == pytest.approx((0, 1))
    assert (without.worst.names, without.worst.kind) == (("a0.h0",), "given")
    greedy = completeness(model, pairs, half, metric, ablation="corrupted", n_random=0, greedy=2)
    assert [part.names for part in greedy.knockouts] == [(), ("a0.h0",), ("a0.h0",)]
    full = completeness(model, pairs, both, metric, ablation="corrupted", n_random=0, sets=[["a0.h0"]])
    assert full.worst.score == pytest.approx(0, abs=1e-12)


def test_both_halves_of_an_or_gate_are_needed_once_the_other_is_out():
    model, pairs, metric = or_gate()
    both = gate(model, ["a0.h0", "a0.h1"])
    alone = minimality(model, pairs, both, metric, ablation="corrupted", n_random=0)
    assert [need.score for need in alone.needs] == pytest.approx([0, 0])
    found = minimality(model, pairs, both, metric, ablation="corrupted", n_random=0, sets=[["a0.h0", "a0.h1"]])
    assert [(need.name, need.without) for need in found.needs] == [("a0.h0", ("a0.h1",)), ("a0.h1", ("a0.h0",))]
    assert [need.score for need in found.needs] == pytest.approx([1, 1])
    drawn = minimality(model, pairs, both, metric, ablation="corrupted", n_random=8)
    assert [need.score for need in drawn.needs] == pytest.approx([1, 1])


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_the_greedy_search_never_ends_below_knocking_out_nothing_and_more_tries_never_hurt_the_first_step():
    circuit = circuit_of(MODEL)
    every = len(circuit.nodes)
    found = completeness(
        MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=0, greedy=1, candidates=every
    )
    nothing, grown = found.knockouts
    assert grown.score >= nothing.score
    one_step = completeness(
        MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=0, greedy=1, steps=1, candidates=every
    ).knockouts[1]
    singles = completeness(
        MODEL,
        PAIRS,
        circuit,
        LOGIT_DIFF,
        ablation="corrupted",
        n_random=0,
        sets=[[name] for name in circuit.nodes if name not in ("input", "logits")],
    )
    assert one_step.score == max(part.score for part in singles.knockouts)
    assert grown.score >= one_step.score


def test_the_same_seed_gives_the_same_sets_and_another_gives_others():
    circuit = circuit_of(MODEL)

    def names(seed, **options):
        found = completeness(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", of="edges", seed=seed, **options)
        return [part.names for part in found.knockouts]

    assert names(0, greedy=1, steps=2) == names(0, greedy=1, steps=2, batch_size=1)
    assert names(0) != names(1)
    sizes = [len(part) for part in names(0, n_random=30)[1:]]
    assert 0.4 < np.mean(sizes) / circuit.n_edges < 0.6


def test_an_unpruned_circuit_counts_as_what_it_is_pruned_to():
    circuit = circuit_of(MODEL)
    dead = np.array([name.startswith("a0.h1->") for name in MODEL.graph.edge_names()])
    raw = replace(circuit, kept=circuit.kept & ~dead | MODEL.graph.mask(["input->a0.h1<q>"]))
    pruned = prune(MODEL.graph, raw.kept, "corrupted")
    assert 5 < pruned.sum() < raw.n_edges
    found = minimality(MODEL, PAIRS, raw, LOGIT_DIFF, ablation="corrupted", of="edges", n_random=0)
    assert [need.name for need in found.needs] == MODEL.graph.edge_names(np.flatnonzero(pruned).tolist())


def test_an_empty_circuit_has_nothing_to_knock_out():
    empty = Circuit(MODEL.graph, np.zeros(MODEL.graph.n_edges, bool))
    found = completeness(MODEL, PAIRS, empty, LOGIT_DIFF, ablation="corrupted", n_random=2, greedy=1)
    assert [part.names for part in found.knockouts] == [()] * 4
    assert found.worst.score == pytest.approx(found.span)
    assert minimality(MODEL, PAIRS, empty, LOGIT_DIFF, ablation="corrupted").needs == ()


def test_files_hold_scores_and_shares():
    circuit = circuit_of(MODEL)
    found = completeness(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=2)
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["share"] for row in values["knockouts"]] == [part.score / found.span for part in found.knockouts]
    assert values["random_mean"] == found.random_mean
    needs = minimality(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=1)
    values = json.loads(json.dumps(needs.to_json(), allow_nan=False))
    assert values["least"] == min(row["score"] for row in values["needs"])
    nothing = completeness(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=0)
    assert nothing.to_json()["random_mean"] is None


def test_names_and_numbers_that_do_not_fit_are_refused():
    circuit = circuit_of(MODEL)
    with pytest.raises(UnknownNameError, match="unknown kind of knock-out 'heads'"):
        completeness(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", of="heads")
    with pytest.raises(UnknownNameError, match="unknown node of the circuit 'logits'"):
        minimality(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", sets=[["logits"]])
    with pytest.raises(OptionError, match="0 or more random sets"):
        completeness(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=-1)
    with pytest.raises(OptionError, match="-1 random sets"):
        minimality(MODEL, PAIRS, circuit, LOGIT_DIFF, ablation="corrupted", n_random=-1)
