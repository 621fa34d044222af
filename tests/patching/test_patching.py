"""Activation patching is what plain loops give, and what must hold whatever the prompts."""

import numpy as np
import torch
from builders import TIGHT, few_shapes, random_pairs, small_model
from naive_runs import averaged_prompts
from plain_patching import BY_HAND, IOI, naive_metric, patched_logits, replacements, tokens_of, values_of

import circuitfind as cf
from circuitfind.execution import ABLATIONS
from circuitfind.patching import patched_runs
from circuitfind.patching.sites import names_of
from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer

MODES = [("denoising", "corrupted"), *(("noising", ablation) for ablation in BY_HAND)]


def components(model: Transformer, rng: np.random.Generator) -> list[list[str]]:
    """A stream, a head, an MLP, a layer's attention, a neuron, and several at a time."""
    graph = model.graph

    def one(names):
        return str(rng.choice(names))

    nodes = list(graph.sender_names)
    found = [[one(names_of(graph, "residual"))], [one(nodes[1:])], [one(names_of(graph, "attention"))], ["input"]]
    found += [[one(nodes[1:]), one(nodes[1:]), one(names_of(graph, "residual"))]]
    plain = [layer for layer in range(graph.n_layers) if graph.has_mlp and not model.config.has_experts(layer)]
    if plain:
        layer = rng.choice(plain)
        first, second = rng.permutation(model.config.d_mlp)[:2]
        found += [[f"m{layer}"], [f"m{layer}.n{first}"], [f"m{layer}.n{first}", f"m{layer}.n{second}", one(nodes[1:])]]
    return found


def test_patching_any_component_is_what_plain_loops_give(model, few_pairs, request):
    rng = np.random.default_rng(list(request.node.name.encode()))  # other components for every shape
    groups, rows = components(model, rng), range(len(few_pairs))
    runs = {
        side: [values_of(model, tokens_of(few_pairs, row, side)) for row in rows] for side in ("clean", "corrupted")
    }
    for direction, ablation in MODES:
        options = {"direction": direction, "ablation": ablation, "pairs": few_pairs}
        found = cf.activation_patch(model, IOI, groups, **options)
        by_position = cf.activation_patch(model, IOI, groups, by="position", **options).per_example
        averaged = [values_of(model, tokens) for tokens in averaged_prompts(few_pairs, ablation) or ()]
        sides = runs["clean" if direction == "denoising" else "corrupted"]
        values = replacements(model, sides, direction, ablation, averaged)
        base, sign = (found.corrupted, 1) if direction == "denoising" else (found.clean, -1)
        chosen = rng.permutation(len(groups))[:2]
        for number, part in zip(chosen, (None, int(rng.integers(0, 5))), strict=True):
            got = found.per_example[number, 0] if part is None else by_position[number, part]
            patched = patched_logits(model, few_pairs, direction, values, groups[number], part)
            expected = [
                np.nan if logits is None else sign * (naive_metric(few_pairs, row, logits) - base[row])
                for row, logits in enumerate(patched)
            ]
            np.testing.assert_allclose(
                got, expected, **TIGHT, err_msg=f"{direction} {ablation} {groups[number]} {part}"
            )
        for side, measured in (("clean", found.clean), ("corrupted", found.corrupted)):
            if side == "clean" or ablation == "corrupted":
                logits = [
                    run["logits"][answer] for run, answer in zip(runs[side], few_pairs.answer_position, strict=True)
                ]
                expected = [naive_metric(few_pairs, row, logits[row]) for row in rows]
                np.testing.assert_allclose(measured, expected, **TIGHT)


@few_shapes
def test_every_kind_is_its_components_one_at_a_time(model, few_pairs):
    for kind in ("residual", "head", "mlp", "attention", "node"):
        if (kind == "mlp" and not model.graph.has_mlp) or (kind == "head" and model.graph.whole_attention):
            continue
        whole = cf.activation_patch(model, IOI, kind, by="position", direction="noising", pairs=few_pairs)
        assert whole.rows == tuple(names_of(model.graph, kind))
        for row in (0, len(whole.rows) - 1):
            one = cf.activation_patch(model, IOI, whole.rows[row], by="position", direction="noising", pairs=few_pairs)
            np.testing.assert_allclose(whole.values[row], one.values[0], **TIGHT)


def test_noising_every_sender_is_the_run_with_everything_ablated(model, pairs):
    for ablation in ABLATIONS:
        found = cf.activation_patch(
            model, IOI, list(model.graph.sender_names), direction="noising", ablation=ablation, pairs=pairs
        )
        np.testing.assert_allclose(found.per_example[0, 0], found.clean - found.corrupted, **TIGHT)
        if ablation == "corrupted":
            swapped = TokenPairs(**(vars(pairs) | {"clean": pairs.corrupted}))
            expected = cf.ablate(model, IOI, "input", pairs=swapped).before
            np.testing.assert_allclose(found.corrupted, expected, **TIGHT)
            assert np.abs(found.clean - found.corrupted).min() > 1e-6


def test_denoising_every_sender_is_the_clean_run(model, pairs):
    found = cf.activation_patch(model, IOI, list(model.graph.sender_names), pairs=pairs)
    np.testing.assert_allclose(found.per_example[0, 0], found.clean - found.corrupted, **TIGHT)
    np.testing.assert_allclose(found.shares, 1.0, **TIGHT)


def test_the_last_stream_at_the_answer_decides_and_elsewhere_it_does_nothing(model, pairs):
    for direction in ("denoising", "noising"):
        found = cf.activation_patch(model, IOI, "resid_final", by="position", direction=direction, pairs=pairs)
        for row, answer in enumerate(pairs.answer_position):
            effects = found.per_example[0, :, row]
            np.testing.assert_allclose(effects[answer], found.clean[row] - found.corrupted[row], **TIGHT)
            np.testing.assert_allclose(effects[:answer], 0, atol=1e-12)
            assert np.isnan(effects[pairs.length[row] :]).all()


def test_the_first_stream_is_the_input(model, pairs):
    streams, senders = (
        cf.activation_patch(model, IOI, name, by="position", pairs=pairs).per_example
        for name in ("resid_pre.0", "input")
    )
    np.testing.assert_array_equal(streams, senders)
    assert np.nanmax(np.abs(senders)) > 1e-3


def test_in_a_linear_model_a_heads_positions_add_up():
    model = small_model(norm="none", d_mlp=0, n_layers=3)
    weights = {
        key: torch.zeros_like(part) if key.endswith(("W_Q", "b_Q")) else part for key, part in model.weights.items()
    }
    model, pairs = model.with_weights(weights), random_pairs(model)
    for direction in ("denoising", "noising"):
        whole, parts = (
            cf.activation_patch(model, IOI, "head", by=by, direction=direction, pairs=pairs).per_example
            for by in ("", "position")
        )
        np.testing.assert_allclose(np.nansum(parts, 1), whole[:, 0], **TIGHT)
        assert (np.abs(parts[..., 0]) > 1e-6).sum() > 10


@few_shapes
def test_neither_prompts_at_a_time_nor_patches_at_a_time_change_anything(model, pairs, monkeypatch):
    options = {"by": "position", "direction": "noising", "ablation": "mean", "pairs": pairs}
    expected = cf.activation_patch(model, IOI, "node", batch_size=len(pairs), **options)
    for size, tokens in ((1, 8192), (2, 1), (len(pairs), 40)):
        monkeypatch.setattr(patched_runs, "TOKENS_OF_CUTS", tokens)
        found = cf.activation_patch(model, IOI, "node", batch_size=size, **options)
        np.testing.assert_allclose(found.per_example, expected.per_example, **TIGHT)
        np.testing.assert_allclose(found.intervals, expected.intervals, **TIGHT)


@few_shapes
def test_padding_changes_nothing_and_does_not_count(model):
    pairs = random_pairs(model, uneven=True)
    noise = np.random.default_rng(1).integers(0, model.config.d_vocab, (2, *pairs.clean.shape))
    padding = np.arange(pairs.clean.shape[1]) >= pairs.length[:, None]
    assert padding.any()
    filled = [np.where(padding, extra, side) for extra, side in zip(noise, (pairs.clean, pairs.corrupted), strict=True)]
    other = TokenPairs(**(vars(pairs) | {"clean": filled[0], "corrupted": filled[1]}))
    for by in ("", "position"):
        first, second = (
            cf.activation_patch(model, IOI, "node", by=by, direction="noising", ablation="mean", pairs=p)
            for p in (pairs, other)
        )
        np.testing.assert_allclose(first.values, second.values, **TIGHT)
    assert second.counts.tolist() == (pairs.length[:, None] > np.arange(pairs.clean.shape[1])).sum(0).tolist()
    np.testing.assert_array_equal(np.isnan(second.per_example), np.broadcast_to(padding.T, second.per_example.shape))


def test_tokens_after_the_answer_count_and_have_no_effect():
    model = small_model()
    pairs = random_pairs(model, shortest=5)
    early = TokenPairs(**(vars(pairs) | {"answer_position": pairs.answer_position - 2}))
    found = cf.activation_patch(model, IOI, "node", by="position", pairs=early)
    for row, answer in enumerate(early.answer_position):
        assert (found.per_example[:, answer + 1 : pairs.length[row], row] == 0).all()
        assert (found.per_example[:, answer, row] != 0).any()


@few_shapes
def test_float32_is_near_float64(model, pairs):
    exact = cf.activation_patch(model, IOI, "node", by="position", pairs=pairs)
    weights = {key: part.float() for key, part in model.weights.items()}
    single = cf.activation_patch(model.with_weights(weights), IOI, "node", by="position", pairs=pairs)
    np.testing.assert_allclose(single.values, exact.values, atol=1e-3)
