"""ACDC visits edges in the order of its authors, and its log names every candidate and how it was decided."""

import numpy as np
import pytest
from builders import few_shapes
from naive_acdc import ACDC, deltas_of, log_of

from circuitfind.discovery.contract import Problem
from circuitfind.discovery.search.visiting_order import visiting_order
from circuitfind.execution.recompute.cuts import LogBook
from circuitfind.graph import ComputationGraph
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores
from circuitfind.scores.decisions import TESTED, WHOLE_PORT, DecisionLog
from circuitfind.task.metrics import METRICS

LOW, HIGH = "low-to-high", "high-to-low"


def names(graph, heads=HIGH, split=True, direct=False) -> list[str]:
    candidates = visiting_order(graph, heads, split, direct)
    return [candidates.name(number) for number in range(len(candidates))]


def test_there_are_as_many_candidates_as_in_the_original():
    gpt2, attention_only = ComputationGraph(12, 12), ComputationGraph(4, 8, has_mlp=False)
    assert len(names(gpt2, direct=True)) == 32_923
    assert len(names(gpt2)) == 32_491
    assert len(names(gpt2, split=False)) == 11_611
    assert len(names(attention_only, direct=True)) == 1_377
    assert len(names(ComputationGraph(2, 8, has_mlp=False), direct=True)) == 305


def test_the_order_is_the_originals():
    graph = ComputationGraph(2, 2)
    order = names(graph, direct=True)
    assert order[:7] == [f"{sender}->logits" for sender in ("m1", "a1.h1", "a1.h0", "m0", "a0.h1", "a0.h0", "input")]
    assert order[7:13] == [f"{sender}->m1" for sender in ("a1.h1", "a1.h0", "m0", "a0.h1", "a0.h0", "input")]
    ports = [f"a1.h{head}<{port}>" for port in "vkq" for head in (1, 0)]
    assert order[13:19] == [f"{port}->{port[:5]}" for port in ports]
    assert order[19:27] == [f"{s}->{port}" for port in ports[:2] for s in ("m0", "a0.h1", "a0.h0", "input")]
    assert order[-1] == "input->a0.h0<q>"
    assert sorted(names(graph)) == sorted(graph.edge_names())


def test_low_to_high_turns_the_heads_among_the_senders_of_a_layer_round():
    order = names(ComputationGraph(2, 2), LOW)
    assert order[:7] == [f"{sender}->logits" for sender in ("m1", "a1.h0", "a1.h1", "m0", "a0.h0", "a0.h1", "input")]
    assert order[13] == "m0->a1.h1<v>"
    assert sorted(order) == sorted(names(ComputationGraph(2, 2)))


@few_shapes
def test_the_log_names_every_candidate_once_and_says_how_it_was_decided(model, pairs):
    log = log_of(model, pairs, threshold=0.05, direct_edges=True)
    table = log.to_frame()
    assert table.edge.is_unique
    assert len(table) == model.graph.n_edges + 3 * model.graph.n_layers * model.graph.n_heads
    assert ((table.decision == "cut") == ~log.kept_candidates).all()
    sure = table[table.how == "tested"]
    assert ((sure.margin < 0) == (sure.decision == "cut")).all()
    assert (sure.after - sure.before).to_numpy() == pytest.approx(sure.delta.to_numpy())
    assert table[table.how != "tested"].delta.isna().all()
    assert table.seconds.is_monotonic_increasing


@few_shapes
def test_a_kept_edges_score_is_what_cutting_it_costs(model, pairs):
    scores = ACDC(Problem(model, pairs, METRICS["kl"]), threshold=0.02)
    deltas = deltas_of(scores.decisions[0])
    for edge in range(model.graph.n_edges):
        expected = deltas[model.graph.edge_name(edge)] if scores.decided[edge] else 0.0
        assert scores.values[edge] == expected
    assert (scores.values[scores.decided] >= 0.02).all()


@few_shapes
def test_a_sweep_is_its_searches_and_scores_the_largest_threshold_survived(model, pairs):
    thresholds = (0.1, 0.003, 0.02)
    sweep = ACDC(Problem(model, pairs, METRICS["kl"]), threshold=thresholds)
    assert [log.threshold for log in sweep.decisions] == [0.1, 0.02, 0.003]
    assert sweep.decided is None
    alone = {tau: log_of(model, pairs, threshold=tau).kept for tau in thresholds}
    for log in sweep.decisions:
        assert (log.kept == alone[log.threshold]).all()
    for edge in range(model.graph.n_edges):
        assert sweep.values[edge] == max([tau for tau in thresholds if alone[tau][edge]], default=0.0)


@few_shapes
def test_decisions_survive_saving(model, pairs, tmp_path):
    for options in ({"threshold": 0.02}, {"threshold": (0.1, 0.01), "split_qkv": False, "absolute": True}):
        scores = ACDC(Problem(model, pairs, METRICS["kl"]), **options)
        scores.save(tmp_path / "scores.safetensors")
        loaded = EdgeScores.load(tmp_path / "scores.safetensors")
        assert len(loaded.decisions) == len(scores.decisions)
        for one, two in zip(loaded.decisions, scores.decisions, strict=True):
            assert one.to_frame().equals(two.to_frame())
            assert (one.kept == two.kept).all()


def test_fragile_and_contested_decisions_are_counted():
    graph = ComputationGraph(1, 3, has_mlp=False)
    candidates = visiting_order(graph, HIGH, True, False)
    values = np.zeros((len(candidates), 5))
    values[:, 2] = 0
    place = {candidates.name(n): n for n in range(len(candidates))}
    values[place["a0.h2->logits"], :4] = 0, 0.06, 0, TESTED  # cut at more than half the threshold
    values[place["a0.h1->logits"], :4] = 0.06, 0.3, 1, TESTED
    values[place["a0.h0->logits"], :4] = 0.06, 0.15999, 0, TESTED  # 1e-5 below the threshold
    values[place["input->logits"], :4] = 0.15999, 0.16, 0, TESTED
    values[4:, 3] = 2
    log = DecisionLog(candidates, 0.1, False, values)
    assert log.contested() == ["a0.h2->logits", "a0.h0->logits"]
    words = " ".join(log.summary())
    assert "1 of 4 tests are fragile" in words
    assert "2 edges from heads were cut at more than half the threshold" in words
    assert candidates.sender[0] != WHOLE_PORT


@pytest.mark.parametrize(
    "search", [lambda page: list(page.visits()), lambda page: page.write([(0, 0, 0, TESTED)])], ids=["reads", "writes"]
)
def test_a_page_refuses_a_search_that_leaves_edges_undecided(search):
    candidates = visiting_order(ComputationGraph(1, 3, has_mlp=False), HIGH, True, False)
    with pytest.raises(AssertionError, match="ended with edges undecided"):
        LogBook(candidates, [0.1], False, Checkpoint()).fill(search)
