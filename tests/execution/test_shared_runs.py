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


def test_a_prefix_that_falls_short_on_one_set_is_not_run_on_the_other(monkeypatch):
    sets = [random_pairs(MODEL, 12, seed) for seed in (3, 4)]
    scores = cf.discover(MODEL, "ioi", pairs=sets[0], algorithm="eap")
    run, circuits = CircuitRunner.run, [0, 0]

    def counted(self, masks, metric=""):
        circuits[sets.index(self.pairs)] += len(masks)
        return run(self, masks, metric)

    monkeypatch.setattr(CircuitRunner, "run", counted)
    both = smallest_faithful(MODEL, sets, scores, METRICS["logit-diff"], 0.8)
    assert circuits[1] < circuits[0]
    assert all(circuits)
    monkeypatch.undo()
    for one in sets:
        assert CircuitRunner(MODEL, one, METRICS["logit-diff"], "corrupted").faithfulness(both.kept[None])[0] >= 0.8
