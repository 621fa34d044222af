"""Every engine gives what the plain triple loop gives, in float64."""

import naive
import numpy as np
import pytest
import torch
from builders import FEW_SHAPES, SHAPES, TIGHT, one_batch, prompt, random_masks, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_runs import naive_ablated, naive_logits

from circuitfind.execution import (
    ABLATIONS,
    make_batches,
    measure_circuits,
    prepare_ablation,
    run_circuit,
    run_masked,
)
from circuitfind.execution.gradients.by_receivers import AttributionPass
from circuitfind.execution.gradients.edge_products import EdgeProducts
from circuitfind.execution.recompute.single_edge import CleanRun, single_edge_effects
from circuitfind.execution.writes import Writes, tiles
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import base_streams, sender_outputs


def test_plain_forward_is_the_naive_one(model, pairs):
    batch = one_batch(model, pairs)
    expected = torch.stack(
        [naive.logits(model, naive.senders(model, prompt(pairs, int(row)))[1])[-1] for row in batch.rows]
    )
    torch.testing.assert_close(model.logits(batch.clean, batch.answer), expected, **TIGHT)


def test_sender_outputs_are_the_naive_ones(model, pairs):
    batch = one_batch(model, pairs)
    outputs = sender_outputs(model, batch.clean)
    for place, row in enumerate(batch.rows):
        expected, _ = naive.senders(model, prompt(pairs, int(row)))
        for number, name in enumerate(model.graph.sender_names):
            torch.testing.assert_close(outputs[number, place, : pairs.length[row]], expected[name], **TIGHT)


@pytest.mark.parametrize(
    ("model", "ablation"),
    [(shape, "corrupted") for shape in SHAPES] + [(shape, name) for shape in FEW_SHAPES for name in ABLATIONS[1:]],
    indirect=["model"],
)
def test_dense_and_sparse_equal_naive(model, pairs, ablation):
    batch = one_batch(model, pairs)
    prepared = prepare_ablation(ablation, model, [batch])
    outputs = prepared.writes(batch)
    masks = np.concatenate([random_masks(model, 1, share=share) for share in (0.1, 0.5, 0.9)])
    dense = run_masked(model, batch.clean, outputs, torch.from_numpy(masks), batch.answer)
    constants = prepared.writes(batch)
    for number, mask in enumerate(masks):
        expected = naive_logits(model, pairs, ablation, mask)[batch.rows]
        torch.testing.assert_close(dense[number], expected, **TIGHT)
        sparse = run_circuit(model, batch, constants, mask, prune_from_input=prepared.prunes_from_input)
        torch.testing.assert_close(sparse, expected, **TIGHT)


def test_masks_between_0_and_1_mix_what_is_written_with_what_is_ablated(model, pairs):
    batch = one_batch(model, pairs)
    shares = np.random.default_rng(0).random(model.graph.n_edges)
    outputs = prepare_ablation("corrupted", model, [batch]).writes(batch)
    (dense,) = run_masked(model, batch.clean, outputs, torch.from_numpy(shares[None]), batch.answer)
    ablated = naive_ablated(model, pairs, "corrupted")
    by_name = dict(zip(model.graph.edge_names(), shares.tolist(), strict=True))
    for place, row in enumerate(batch.rows):
        expected = naive.circuit_logits(model, prompt(pairs, int(row)), ablated[row], by_name)[-1]
        torch.testing.assert_close(dense[place], expected, **TIGHT)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_all_edges_kept_is_the_full_model_and_none_is_the_ablated_one(model, pairs, ablation):
    batch = one_batch(model, pairs)
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    masks = torch.stack([torch.ones(model.graph.n_edges), torch.zeros(model.graph.n_edges)]).bool()
    full, empty = run_masked(model, batch.clean, outputs, masks, batch.answer)
    torch.testing.assert_close(full, model.logits(batch.clean, batch.answer), **TIGHT)
    if ablation == "corrupted":
        torch.testing.assert_close(empty, model.logits(batch.corrupted, batch.answer), **TIGHT)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), shape=st.sampled_from(sorted(SHAPES)))
def test_sparse_equals_dense_on_any_model_and_mask(seed, share, shape):
    model = small_model(seed=seed, **SHAPES[shape])
    batch = one_batch(model, random_pairs(model, 3, seed))
    for name in ABLATIONS:
        prepared = prepare_ablation(name, model, [batch])
        outputs = prepared.writes(batch)
        mask = random_masks(model, 1, seed, share)
        dense = run_masked(model, batch.clean, outputs, torch.from_numpy(mask), batch.answer)[0]
        sparse = run_circuit(model, batch, prepared.writes(batch), mask[0], prune_from_input=prepared.prunes_from_input)
        torch.testing.assert_close(sparse, dense, **TIGHT)


# --- writes in head space ---------------------------------------------------------------------------------------------


def test_writes_in_head_space_are_the_sender_outputs(model, pairs):
    batch = one_batch(model, pairs)
    writes, outputs = Writes.run(model, batch.clean), sender_outputs(model, batch.clean)
    torch.testing.assert_close(writes.dense, outputs, **TIGHT)
    for sender in range(model.graph.n_senders):
        torch.testing.assert_close(writes.of(sender), outputs[sender], **TIGHT)
    difference = writes.minus(Writes.run(model, batch.corrupted)).dense
    torch.testing.assert_close(difference, outputs - sender_outputs(model, batch.corrupted), **TIGHT)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablated_writes_give_the_same_streams_and_tiles_as_the_dense_tensor(model, pairs, ablation):
    batch = one_batch(model, pairs)
    writes = prepare_ablation(ablation, model, [batch]).writes(batch)
    dense = writes.dense
    embedded = model.embed(batch.clean)
    assert len(writes.streams) == len(model.graph.blocks)
    for found, expected in zip(writes.streams, base_streams(model, dense, embedded), strict=True):
        torch.testing.assert_close(found, expected, **TIGHT)
    whole = dense.expand(-1, *embedded.shape)
    for sender in range(model.graph.n_senders):
        torch.testing.assert_close(writes.of(sender), whole[sender], **TIGHT)
    for tokens in (1, 3, 10, 1000):
        pieced = torch.full_like(whole.contiguous(), torch.nan)
        for tile in tiles(embedded.shape, tokens):
            pieced[:, *tile] = writes.tile(*tile)
        torch.testing.assert_close(pieced, whole.contiguous(), **TIGHT)


@given(n_prompts=st.integers(1, 9), n_positions=st.integers(1, 9), tokens=st.integers(1, 90))
def test_tiles_cover_every_token_once_and_are_not_too_large(n_prompts, n_positions, tokens):
    counts = np.zeros((n_prompts, n_positions), int)
    for tile in tiles(torch.Size((n_prompts, n_positions)), tokens):
        counts[tile] += 1
        assert counts[tile].size <= tokens
    assert (counts == 1).all()


# --- one edge or one gradient at a time -------------------------------------------------------------------------------


def test_gradients_of_a_few_tokens_are_those_of_all(model, pairs):
    """A few tokens take the norm on the side of the gradient, many take it on that of the projection."""
    batch = one_batch(model, pairs)
    run = AttributionPass(model, batch, model.embed(batch.clean))
    run.backward(lambda logits: METRICS["logit-diff"](logits, batch.targets))
    shape = (model.graph.most_receivers, *batch.clean.shape, model.config.d_model)
    for block in model.graph.blocks:
        run.projections.kept = True
        whole = run.receivers(block, slice(None), slice(None), torch.empty(shape, dtype=model.dtype))
        run.projections.kept = False
        few = run.receivers(block, slice(2, 3), slice(1, 3), torch.empty((shape[0], 1, 2, shape[3]), dtype=model.dtype))
        torch.testing.assert_close(few, whole[:, 2:3, 1:3], **TIGHT)


@pytest.mark.parametrize(
    ("model", "point", "recompute"),
    [(shape, 1.0, False) for shape in SHAPES]
    + [(shape, *how) for shape in FEW_SHAPES for how in ((1.0, True), (0.3, False))],
    indirect=["model"],
)
def test_receiver_gradients_times_differences_are_the_naive_attribution(model, pairs, point, recompute):
    batch = one_batch(model, pairs)
    outputs = prepare_ablation("corrupted", model, [batch]).writes(batch).dense
    delta = sender_outputs(model, batch.clean) - outputs
    scores = np.zeros((len(pairs), model.graph.n_edges))
    metric = METRICS["logit-diff"]

    run = AttributionPass(model, batch, outputs[0] + point * delta[0], recompute=recompute)
    run.backward(lambda logits: metric(logits, batch.targets))
    everything, room = (slice(None), slice(None)), delta.new_empty((model.graph.most_receivers, *delta.shape[1:]))
    for block in model.graph.blocks:
        gradients = run.receivers(block, *everything, out=room)
        values = torch.einsum("snpd,rnpd->nrs", delta[: block.n_senders], gradients)
        scores[:, block.edges] = values.reshape(len(pairs), -1).numpy()
    for place, row in enumerate(batch.rows):
        targets = Targets(batch.targets.correct[place : place + 1], batch.targets.incorrect[place : place + 1])
        ablated = naive_ablated(model, pairs, "corrupted")[row]
        expected = naive.edge_attribution(model, prompt(pairs, int(row)), ablated, metric, targets, point)
        got = dict(zip(model.graph.edge_names(), scores[place], strict=True))
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-8, abs=1e-9), name


@pytest.mark.parametrize("axis", ["", "prompt", "position"])
def test_edge_products_do_not_depend_on_the_tile_size(model, pairs, axis):
    batch = one_batch(model, pairs)
    clean, ablated = Writes.run(model, batch.clean), prepare_ablation("mean", model, [batch]).writes(batch)
    found = []
    for tokens in (10**6, 10, 3):
        products = EdgeProducts(model, axis)
        products._tokens = tokens
        run = AttributionPass(model, batch, model.embed(batch.clean))
        run.backward(lambda logits: METRICS["logit-diff"](logits, batch.targets))
        found.append(products.multiply(run, clean.minus(ablated)))
    assert len(found[0]) == {"": 1, "prompt": len(batch), "position": batch.clean.shape[1]}[axis]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], **TIGHT)


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
def test_single_edge_effects_are_dense_runs_with_one_edge_cut(model, pairs, ablation):
    batch = one_batch(model, pairs)
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    run = CleanRun.of(model, batch, outputs)
    for number, block in enumerate(model.graph.blocks):
        for receiver in range(block.n_receivers):
            got = single_edge_effects(model, batch, run, number, receiver, lambda logits: logits[..., 0])
            masks = torch.ones(block.n_senders, model.graph.n_edges)
            for sender in range(block.n_senders):
                masks[sender, block.first_edge + receiver * block.n_senders + sender] = 0
            expected = run_masked(model, batch.clean, outputs, masks, batch.answer)[..., 0]
            torch.testing.assert_close(got, expected, **TIGHT)


def test_measuring_circuits_does_not_depend_on_batch_size_or_order(model, pairs):
    masks = random_masks(model, 4)
    metrics = [METRICS["logit-diff"], METRICS["kl"], METRICS["top1"]]
    ablation = prepare_ablation("mean-positional", model, make_batches(model, pairs))
    reference = measure_circuits(model, pairs, masks, metrics, ablation)
    small = measure_circuits(model, pairs, masks, metrics, ablation, batch_size=2)
    order = np.random.default_rng(1).permutation(len(pairs))
    shuffled = measure_circuits(model, pairs.take(order), masks, metrics, ablation)
    for name, values in reference.items():
        np.testing.assert_allclose(small[name], values, **TIGHT)
        np.testing.assert_allclose(shuffled[name], values[:, order], **TIGHT)
