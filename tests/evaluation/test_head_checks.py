"""A head gets the name of a function only where attention, copying and the effect of cutting it agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model

import circuitfind as cf
from circuitfind.evaluation import HeadRoles
from circuitfind.evaluation.full_model.head_checks import copying_scores, cut_effects
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.task.metrics import METRICS

HEADS = [(layer, head) for layer in range(2) for head in range(3)]


def with_values(model, layer, head, matrix):
    """The model with a head whose OV circuit is ``matrix`` (d_model, d_model), up to the rank that its width allows."""
    c = model.config
    left, sizes, right = torch.linalg.svd(matrix)
    columns = slice(head * c.d_head, (head + 1) * c.d_head)
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    weights[f"layers.{layer}.W_V"][:, columns] = left[:, : c.d_head] * sizes[: c.d_head]
    weights[f"layers.{layer}.W_O"][columns] = right[: c.d_head]
    weights.pop(f"layers.{layer}.b_V", None)
    return type(model)(c, weights, name="made")


def test_a_head_that_writes_what_it_reads_copies_and_its_negative_suppresses():
    model = small_model(n_heads=1, n_layers=1, d_model=16, d_head=16, d_vocab=40, d_mlp=0, norm="none", biases=False)
    weights = dict(model.weights)
    weights["W_pos"] = torch.zeros_like(weights["W_pos"])
    model = type(model)(model.config, weights, name="flat")
    reads = (
        torch.linalg.pinv(model.weights["W_E"]) @ torch.linalg.pinv(model.weights["W_U"].T).T
    )  # nearest to token -> itself
    pairs = random_pairs(model, 6)
    (copies,) = copying_scores(with_values(model, 0, 0, reads), pairs, [(0, 0)])
    (suppresses,) = copying_scores(with_values(model, 0, 0, -reads), pairs, [(0, 0)])
    assert copies > 0.7
    assert suppresses == pytest.approx(-copies, abs=1e-12)


@pytest.mark.parametrize("shape", [{}, SHAPES["qwen3"]], ids=["plain", "grouped"])
def test_copying_is_the_rank_of_each_token_by_the_heads_ov_circuit(shape):
    """One token and one head after the other, with matrices written out."""
    model = small_model(**shape)
    pairs = random_pairs(model, 3)
    (batch,) = make_batches(model, pairs)
    read = {}
    answers = {*pairs.correct.ravel().tolist(), *pairs.incorrect.ravel().tolist()}
    after_first = model.layer_range(model.embed(batch.clean), 0, 1)
    for row, column in torch.nonzero(batch.real).tolist():
        token = int(batch.clean[row, column])
        read.setdefault(token, (row, column))
    here = {token: place for token, place in read.items() if token in answers} or read
    for (layer, head), found in zip(HEADS, copying_scores(model, pairs, HEADS), strict=True):
        stream = model.embed(batch.clean) if layer == 0 else after_first
        ranks = []
        for token, place in list(here.items())[:32]:
            x = model.norm(f"layers.{layer}.ln1", stream[place][None])
            values = model.write_node(layer, head, model.project_node(layer, "v", head, x))
            logits = model.unembed(values)[0]
            below, above = int((logits < logits[token]).sum()), int((logits > logits[token]).sum())
            ranks.append((below - above) / (len(logits) - 1))
        assert found == pytest.approx(np.mean(ranks), abs=1e-12)


@pytest.mark.parametrize("metric", ["logit-diff", "kl"])
def test_the_effect_of_a_head_is_what_the_dense_run_loses_without_its_edges(metric):
    model = small_model()
    pairs, graph = random_pairs(model, 5), model.graph
    found = cut_effects(model, pairs, METRICS[metric], "corrupted", HEADS)
    (batch,) = make_batches(model, pairs)
    constants = prepare_ablation("corrupted", model, [batch]).writes(batch)
    clean = model.logits(batch.clean, batch.answer)
    targets = replace(batch.targets, clean_logits=clean)
    senders, _ = graph.ends(np.arange(graph.n_edges))
    sign = 1 if METRICS[metric].larger_is_better else -1
    for (layer, head), effects in zip(HEADS, found, strict=True):
        with torch.inference_mode():
            mask = torch.from_numpy(senders != graph.head(layer, head))[None]
            without = run_masked(model, batch.clean, constants, mask, batch.answer)[0]
        lost = sign * (METRICS[metric](clean, targets) - METRICS[metric](without, targets))
        np.testing.assert_allclose(effects[batch.rows], lost.numpy(), atol=1e-9)


def roles(share, copying, low, high, labels=("END -> IO",)):
    shares = np.array(share, float).reshape(len(labels), 1, 1)
    effects = np.array([[[(low + high) / 2, low, high]]])
    return HeadRoles(labels, shares, 0.3, np.array([[copying]]), effects, "nats")


@pytest.mark.parametrize(
    ("share", "copying", "low", "high", "name"),
    [
        ([0.8], 0.9, 0.1, 0.2, "name mover"),
        ([0.8], -0.9, -0.2, -0.1, "negative name mover"),
        ([0.8], 0.9, -0.1, 0.2, ""),  # the effect may be nothing
        ([0.8], 0.1, 0.1, 0.2, ""),  # it does not copy
        ([0.8], -0.9, 0.1, 0.2, ""),  # it suppresses, and yet helps
        ([0.2], 0.9, 0.1, 0.2, ""),  # it looks elsewhere
        ([0.8], np.nan, 0.1, 0.2, ""),  # not measured
        ([0.8], 0.9, np.nan, np.nan, ""),
    ],
)
def test_a_name_needs_all_three(share, copying, low, high, name):
    assert roles(share, copying, low, high).checked(0, 0).name == name


def test_a_head_that_looks_at_two_names_alike_moves_neither():
    both = ("END -> IO", "END -> S1")
    assert roles([0.41, 0.34], 0.9, 0.1, 0.2, both).checked(0, 0).name == ""
    assert roles([0.8, 0.31], 0.9, 0.1, 0.2, both).checked(0, 0).name == "name mover"


def test_the_head_of_tasks_4l_that_suppresses_what_it_reads_has_no_functions_name():
    found = cf.head_roles("tasks-4l", "ioi", n=32, heads=["a0.h6"])
    head = found.checked(0, 6)
    assert head.attention[0].label == "END -> S2"
    assert head.copying < -0.9
    assert head.effect[1] > 1
    assert head.name == ""
    assert np.isnan(found.checked(0, 2).copying)  # was not asked for
