"""What circuits on the same prompts share is computed once, whatever calls they come from, and never beyond the memory."""

import numpy as np
import pytest
from builders import random_masks, random_pairs, small_model

import circuitfind as cf
from circuitfind.execution import measuring, prepare_ablation
from circuitfind.execution.batches import make_batches
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.execution.measuring import measure_circuits
from circuitfind.selection import smallest_faithful
from circuitfind.task.metrics import METRICS

MODEL = small_model()
PAIRS = random_pairs(MODEL, 7)


@pytest.fixture
def runs(monkeypatch):
    """How often a whole model ran: ablated, and clean for the logits."""
    count = {"ablated": 0, "clean": 0}
    writes, clean = cf.execution.Ablation.writes, measuring.with_clean_logits

    def counted_writes(self, batch):
        count["ablated"] += 1
        return writes(self, batch)

    def counted_logits(model, batch, metrics):
        count["clean"] += 1
        return clean(model, batch, metrics)

    monkeypatch.setattr(cf.execution.Ablation, "writes", counted_writes)
    monkeypatch.setattr(measuring, "with_clean_logits", counted_logits)
    return count


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_circuits_of_many_calls_share_the_ablated_run_and_the_clean_logits(runs, ablation):
    masks = random_masks(MODEL, 5).astype(bool)
    runner = CircuitRunner(MODEL, PAIRS, METRICS["kl"], ablation, batch_size=4)
    one_by_one = np.concatenate([runner.run(mask[None]) for mask in masks])
    assert runs == {"ablated": 2, "clean": 2}  # once for each of the two micro-batches
    prepared = prepare_ablation(ablation, MODEL, make_batches(MODEL, PAIRS, 4))
    together = measure_circuits(MODEL, PAIRS, masks, [METRICS["kl"]], prepared, batch_size=4)["kl"]
    np.testing.assert_array_equal(one_by_one, together)


def test_what_does_not_fit_the_memory_is_computed_again(runs, monkeypatch):
    masks = random_masks(MODEL, 3).astype(bool)
    monkeypatch.setattr(measuring, "SHARE_OF_SHARED", 0.0)
    runner = CircuitRunner(MODEL, PAIRS, METRICS["logit-diff"], "corrupted")
    found = np.concatenate([runner.run(mask[None]) for mask in masks])
    assert runs["ablated"] == 3
    monkeypatch.undo()
    np.testing.assert_array_equal(found, CircuitRunner(MODEL, PAIRS, METRICS["logit-diff"], "corrupted").run(masks))


def test_choosing_a_size_runs_each_circuit_once_on_every_set_and_few_of_them(monkeypatch):
    sets = [random_pairs(MODEL, 12, seed) for seed in (3, 4)]
    scores = cf.discover(MODEL, "ioi", pairs=sets[0], algorithm="eap")
    measure, circuits = CircuitRunner._measure, [[], []]

    def counted(self, new):
        circuits[sets.index(self.pairs)] += list(new)
        measure(self, new)

    monkeypatch.setattr(CircuitRunner, "_measure", counted)
    chosen = smallest_faithful(MODEL, sets, scores, METRICS["logit-diff"], 0.8)
    assert [len(set(one)) for one in circuits] == [len(one) for one in circuits]
    assert len(circuits[0]) == len(circuits[1]) < 2 + 4 * np.log2(chosen.n_edges) + 12
    assert chosen.selection["reached_on_train"] >= 0.8
