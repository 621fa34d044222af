"""Optimal ablation: one constant for each sender, and no mean is better."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TIGHT, few_shapes, random_pairs, small_model, some_architectures

import circuitfind as cf
from circuitfind.execution import Ablation, make_batches, optimal, prepare_ablation, run_masked
from circuitfind.execution.memory import memory_limit
from circuitfind.execution.optimal import _ablated_logits, _ConstantSearch, _Prompts, optimal_constants
from circuitfind.task.metrics import METRICS, Targets


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(optimal, "_KNOWN", {})


def one_batch(model, pairs):
    (batch,) = make_batches(model, pairs, len(pairs))
    return batch


def all_but(graph, sender):
    """A mask that cuts every edge from one sender."""
    return torch.from_numpy(graph.edge_sender != sender)


def divergence(model, batch, constants):
    """KL to the full model with one sender after the other replaced, (senders, prompts), from the dense engine."""
    masks = torch.stack([all_but(model.graph, sender) for sender in range(model.graph.n_senders)])
    ablated = Ablation("optimal", model, constants.to(model.dtype)).writes(batch)
    logits = run_masked(model, batch.clean, ablated, masks, batch.answer)
    clean = model.logits(batch.clean, batch.answer)
    return METRICS["kl"](logits, Targets(batch.targets.correct, batch.targets.incorrect, clean))


def clean_means(model, pairs):
    """Of every sender over all real tokens of the clean prompts, (senders, 1, 1, d_model)."""
    swapped = replace(pairs, clean=pairs.corrupted, corrupted=pairs.clean)
    return prepare_ablation("mean", model, make_batches(model, swapped)).means


def test_replacing_a_sender_by_a_constant_is_cutting_all_its_edges(model, pairs):
    batch, n = one_batch(model, pairs), model.graph.n_senders
    constants = torch.randn(n, 1, 1, model.config.d_model, dtype=torch.float64, generator=torch.manual_seed(0))
    masks = torch.stack([all_but(model.graph, sender) for sender in range(n)])
    ablated = Ablation("optimal", model, constants).writes(batch)
    expected = run_masked(model, batch.clean, ablated, masks, batch.answer)
    prompts = _Prompts(batch.clean, batch.answer, batch.real.sum(1))
    for some in (range(n), range(1, 2), range(2, n)):
        found, clean = _ablated_logits(model, prompts, some, constants[some.start : some.stop, 0, 0])
        torch.testing.assert_close(found, expected[some.start : some.stop], **TIGHT)
        torch.testing.assert_close(clean, model.logits(batch.clean, batch.answer), **TIGHT)


@some_architectures
def test_no_constant_is_worse_than_the_mean(model, pairs):
    batch = one_batch(model, pairs)
    found, mean = (
        divergence(model, batch, constants).mean(1)
        for constants in (prepare_ablation("optimal", model, [batch]).means, clean_means(model, pairs))
    )
    assert (found <= mean + 1e-6).all()
    assert found.mean() < 0.8 * mean.mean()


def read_out(n_vocab=5):
    """A model in which nothing but the one head's write reaches the logits, as it is; and prompts for it."""
    model = small_model(n_layers=1, n_heads=1, d_mlp=0, d_vocab=n_vocab, norm="none", biases=False, scale=3.0)
    weights = {key: tensor.clone() for key, tensor in model.weights.items()}
    weights["W_E"][:, 6:] = weights["W_pos"][:, 6:] = weights["layers.0.W_O"][:, :6] = (
        0  # the head writes beside the input
    )
    weights["W_U"][:] = 0
    weights["W_U"][6 : 6 + n_vocab] = torch.eye(n_vocab)[:6]
    return model.with_weights(weights)


def test_the_constant_is_the_best_one_where_that_is_known():
    """KL(p || q) averaged over prompts is least where q is the mean of p (then it is their Jensen-Shannon divergence)."""
    model = read_out()
    pairs = random_pairs(model, 40)
    batch = one_batch(model, pairs)
    p = model.logits(batch.clean, batch.answer).softmax(-1)
    best = (p * (p.log() - p.mean(0).log())).sum(-1).mean()
    head = 1
    found = divergence(model, batch, prepare_ablation("optimal", model, [batch]).means)[head].mean()
    mean = divergence(model, batch, clean_means(model, pairs))[head].mean()
    assert mean > 1.1 * best
    assert best <= found < best + 0.02 * (mean - best)


def test_constants_of_a_task_hold_on_other_prompts():
    model = cf.load_model("induction-2l")
    train, test = (
        one_batch(model, cf.Setting("induction", model, n=32, n_held_out=32).prompts(split))
        for split in ("train", "held-out")
    )
    found, mean = (
        divergence(model, test, prepare_ablation(name, model, [train]).means) for name in ("optimal", "mean")
    )
    assert found.mean() < 0.5 * mean.mean()


@few_shapes
def test_constants_do_not_depend_on_batches_order_or_other_random_numbers(model):
    pairs = random_pairs(model, 11)
    torch.manual_seed(5)
    expected = optimal_constants(model, make_batches(model, pairs))
    shuffled = pairs.take(np.random.default_rng(0).permutation(11))
    for batches in (make_batches(model, pairs, 2), make_batches(model, shuffled, 3)):
        optimal._KNOWN.clear()
        torch.manual_seed(6)
        assert torch.equal(optimal_constants(model, batches), expected)


def test_constants_are_the_same_in_float64_and_under_inference_mode():
    model = small_model().to(dtype=torch.float32)
    batches = make_batches(model, random_pairs(model))
    expected = optimal_constants(model, batches)
    assert expected.dtype == torch.float32
    optimal._KNOWN.clear()
    with torch.inference_mode():
        wide = optimal_constants(model.to(dtype=torch.float64), make_batches(model, random_pairs(model)))
    assert torch.equal(wide, expected.double())


def test_little_memory_means_fewer_senders_side_by_side_and_the_same_constants():
    model = small_model()
    prompts = _Prompts.of(make_batches(model, random_pairs(model, 11))).groups(4)
    with torch.no_grad():
        together = _ConstantSearch(model, prompts)
        with memory_limit(300_000):
            apart = _ConstantSearch(model, prompts)
        assert len(together.chunks) == 1 < len(apart.chunks)
        torch.testing.assert_close(apart.constants(), together.constants(), rtol=1e-6, atol=1e-6)


def test_constants_are_remembered_for_the_same_model_and_prompts_only(monkeypatch):
    model = small_model()
    batches = make_batches(model, random_pairs(model))
    expected = optimal_constants(model, batches)
    others = (small_model(seed=1), batches), (model, make_batches(model, random_pairs(model, seed=1)))

    def searched(*arguments):
        raise LookupError

    monkeypatch.setattr(optimal, "_ConstantSearch", searched)
    assert torch.equal(optimal_constants(small_model(), make_batches(model, random_pairs(model), 2)), expected)
    for other in others:
        with pytest.raises(LookupError):
            optimal_constants(*other)


def test_half_precision_gets_finite_constants():
    model = small_model().to(dtype=torch.bfloat16)
    constants = optimal_constants(model, make_batches(model, random_pairs(model)))
    assert constants.dtype == torch.bfloat16
    assert torch.isfinite(constants).all()
