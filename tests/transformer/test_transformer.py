"""Node functions of every architecture agree with each other, with autograd, and with the papers' numbers."""

import json
from dataclasses import MISSING, fields, replace

import naive
import numpy as np
import pytest
import torch
from builders import SHAPES, TIGHT, one_batch, prompt, random_masks, random_pairs, small_config, small_model, without
from naive_runs import naive_ablated, naive_logits

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import ModelError
from circuitfind.execution import prepare_ablation, run_circuit, run_masked
from circuitfind.graph import PORTS
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import Transformer, TransformerConfig, alibi_slopes, rotary_frequencies, sender_outputs

SWITCHES_WITHOUT_TENSORS = (
    *(
        "activation",
        "norm_eps",
        "parallel",
        "rotary_of_layer",
        "rotary_gain",
        "rotary_adjacent",
        "alibi",
        "windows",
        "causal",
    ),
    *("attention_scale", "attention_cap", "logit_cap", "embed_scale", "logit_scale", "normalize_experts"),
)


def random_like(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, **TIGHT)


def ports_of(model, layer=1, prompts=3, positions=7):
    """q, k and v as they stand after the projection of one shared random input."""
    x = random_like(prompts, positions, model.config.d_model)
    return x, [model.project_all(layer, port, x) for port in PORTS]


# --- the shapes under test --------------------------------------------------------------------------------------------


def test_every_switch_is_set_in_some_shape():
    configs = [small_model(**shape).config for shape in SHAPES.values()]
    defaults = {f.name: f.default for f in fields(TransformerConfig) if f.default is not MISSING}
    defaults |= {"n_kv_heads": 3, "attention_scale": 4**-0.5}
    assert not [name for name, default in defaults.items() if all(getattr(c, name) == default for c in configs)]
    assert {c.qk_norm for c in configs} == {"none", "head", "all"}
    assert {c.norm for c in configs} == {"none", "layer", "rms"}
    assert {c.positions for c in configs} == {"learned", "rotary", "alibi", "none"}
    assert {c.normalize_experts for c in configs if c.n_experts} == {True, False}


@pytest.mark.parametrize("switch", SWITCHES_WITHOUT_TENSORS)
def test_a_switch_that_is_set_changes_the_logits(switch):
    """So an engine that forgot it would not pass."""
    default = next(f.default for f in fields(TransformerConfig) if f.name == switch)
    tokens = torch.arange(7)[None] * 2
    changed = []
    for shape in SHAPES.values():
        model = small_model(**shape)
        if switch in shape:
            off = (0.0,) * model.config.n_heads if switch == "alibi" else default
            other = Transformer(replace(model.config, **{switch: off}), model.weights)
            changed.append((other.logits(tokens) - model.logits(tokens)).abs().max().item())
    assert max(changed) > 0.01


def test_a_configuration_survives_json(model):
    assert TransformerConfig(**json.loads(json.dumps(model.config_dict()))) == model.config


# --- the stream -------------------------------------------------------------------------------------------------------


def test_sender_outputs_and_biases_sum_to_the_last_stream(model, pairs):
    tokens = torch.from_numpy(pairs.clean)
    stream = model.layer_range(model.embed(tokens), 0, model.config.n_layers)
    biases = [model.attention_bias(layer) for layer in range(model.config.n_layers)]
    same(sender_outputs(model, tokens).sum(0) + sum(bias for bias in biases if bias is not None), stream)
    same(model.unembed(stream), model.logits(tokens))


def test_padding_and_other_prompts_in_the_batch_change_nothing(model, pairs):
    batch = one_batch(model, pairs)
    logits = model.logits(batch.clean, batch.answer)
    noise = torch.randint(0, model.config.d_vocab, batch.clean.shape, generator=torch.Generator().manual_seed(1))
    for place, row in enumerate(batch.rows):
        same(model.logits(prompt(pairs, int(row))[None])[0, -1], logits[place])
    if not model.config.causal:
        return  # padding would be seen, so that no batch has any: test_bidirectional.py
    same(model.logits(torch.where(batch.real, batch.clean, noise), batch.answer), logits)
    longer = torch.cat((batch.clean, noise[:, : model.config.n_ctx - batch.clean.shape[1]]), 1)
    assert longer.shape[1] == model.config.n_ctx
    same(model.logits(longer, batch.answer), logits)


def test_a_padded_batch_gives_the_attribution_of_its_prompts_alone(model, pairs):
    def eap(some):
        return ALGORITHMS["eap"](Problem(model, some, METRICS["logit-diff"], "corrupted")).values

    alone = [eap(pairs.take([row])) for row in range(len(pairs))]
    np.testing.assert_allclose(eap(pairs), np.mean(alone, 0), **TIGHT)


def test_logits_may_be_written_into_given_memory(model):
    x = random_like(4, 3, model.config.d_model)
    room = torch.full((4, 3, model.config.n_outputs), torch.nan, dtype=x.dtype)
    assert model.unembed(x, room) is room
    same(room, model.unembed(x))
    same(room[2], naive.logits(model, x[2]))


# --- one node is a slice of all ---------------------------------------------------------------------------------------


def test_projections_of_one_each_and_all_nodes_agree(model):
    x, ports = ports_of(model)
    n = model.graph.n_heads
    for port, shared in zip(PORTS, ports, strict=True):
        each = model.per_node(shared)
        assert len(each) == n
        same(model.project_each(1, port, x.expand(n, *x.shape)), each)
        for node in range(n):
            same(model.project_node(1, port, node, x), each[node])
            same(model.project_each(1, port, x[None, None], [node])[0, 0], each[node])


def test_per_node_repeats_shared_keys_and_values_for_the_heads_that_share_them():
    model = small_model(**SHAPES["llama"])
    _, (q, k, _) = ports_of(model)
    assert model.per_node(q) is q
    assert len(k) == 2
    same(model.per_node(k), k[[0, 0, 1, 1]])
    same(model.per_node(k.movedim(0, 1), 1), k[[0, 0, 1, 1]].movedim(0, 1))


@pytest.mark.parametrize("layer", [0, 1])
def test_one_query_at_a_time_is_a_slice_of_the_attention_core(model, layer):
    _, (q, k, v) = ports_of(model, layer)
    n, answer = model.graph.n_heads, torch.tensor([6, 0, 4])
    z, rows = model.attend(layer, q, k, v), torch.arange(3)
    assert z.shape == (n, 3, 7, model.config.node_width)
    q_there = q[:, rows, answer][:, :, None]
    same(model.attend_at(layer, q_there, k, v, answer)[:, :, 0], z[:, rows, answer])
    for first in (1, 4, 6):
        same(model.attend(layer, q[:, :, first:], k, v, first=first), z[:, :, first:])
    each = [model.per_node(part) for part in (q, k, v)]
    same(model.attend(layer, *each), z)
    for node in range(n):
        ports = [torch.stack((part[[node]], 2 * part[[node]])) for part in each]  # circuits on a leading axis
        same(model.attend(layer, *ports, nodes=[node])[0, 0], z[node])
        ports[0] = ports[0][..., rows, answer, :][..., None, :]
        same(model.attend_at(layer, *ports, answer, nodes=[node])[0, 0, :, 0], z[node][rows, answer])
    if n > 2:
        some = [0, n - 1]
        same(model.attend(layer, *(part[some] for part in each), nodes=some), z[some])


def test_what_one_node_writes_is_a_slice_of_what_all_write(model):
    c, n = model.config, model.graph.n_heads
    z = random_like(n, 3, 7, c.node_width)
    room = torch.full((n, 3, 7, c.d_model), torch.nan, dtype=z.dtype)
    together = model.write_nodes(1, z, room)
    same(room, model.node_writes(1, z))
    same(model.merge_nodes(1, z), together)
    for node in range(n):
        same(model.write_node(1, node, z[node]), room[node])
        same(model.node_writes(1, z[None, [node]], [node])[0, 0], room[node])


def test_attention_patterns_are_distributions_over_what_a_layer_sees(model):
    for layer in range(model.config.n_layers):
        _, (q, k, v) = ports_of(model, layer)
        pattern = model.attention_pattern(layer, q, k)
        assert pattern.shape == (model.config.n_heads, 3, 7, 7)
        same(pattern.sum(-1), torch.ones(pattern.shape[:-1], dtype=pattern.dtype))
        window = (model.config.windows[layer] if model.config.windows else 0) or 7
        behind = torch.arange(7)[:, None] - torch.arange(7)
        assert ((pattern > 0) == ((behind < window) & (behind > -1 if model.config.causal else behind > -window))).all()
        heads = v.unflatten(-1, (-1, model.config.d_head)).movedim(-2, 1).flatten(0, 1)  # shared heads stand once
        mixed = pattern @ heads.repeat_interleave(model.config.n_heads // len(heads), 0)
        z = model.attend(layer, q, k, v).unflatten(-1, (-1, model.config.d_head)).movedim(-2, 1).flatten(0, 1)
        same(z, mixed)


def test_rotated_attention_depends_on_distances_only():
    """Su et al. 2021, equation 11: shifting a prompt along changes no score."""
    for name in ("llama", "pythia", "gpt-j", "qwen3"):
        model = small_model(**SHAPES[name])
        _, (q, k, _) = ports_of(model)
        first = model.attention_pattern(1, q[:, :, :1].expand_as(q), k[:, :, :1].expand_as(k))
        twice = first[..., 5, 3] / first[..., 5, 1], first[..., 6, 4] / first[..., 6, 2]
        same(*twice)
        assert (first[..., 5, 3] / first[..., 5, 1] - 1).abs().max() > 1e-3


# --- Jacobians against autograd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
def test_gradients_are_pulled_through_a_norm_as_autograd_does(kind):
    model, where = small_model(norm=kind), "layers.0.ln1"
    x, gradient = random_like(2, 5, 12).requires_grad_(), random_like(2, 5, 12, seed=1)
    out, state = model.norm_with_state(where, x)
    same(out, model.norm(where, x))
    (expected,) = torch.autograd.grad(model.norm(where, x), x, gradient)
    same(model.pull_through_norm(where, state, gradient), expected)


@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
@pytest.mark.parametrize("leaves", ["", "w", "b"])
def test_a_projection_may_be_seen_from_the_unit_output_of_its_norm(kind, leaves):
    model, where, x = without(small_model(norm=kind), leaves), "layers.0.ln1", random_like(5, 12)
    W, constant = model.through_norm(where, model.weights["layers.0.W_Q"])
    state = model.norm_with_state(where, x)[1]
    unit = x if state is None else state.unit
    same(unit @ W + constant, model.norm(where, x) @ model.weights["layers.0.W_Q"])


@pytest.mark.parametrize("model", [name for name, shape in SHAPES.items() if shape.get("d_mlp") != 0], indirect=True)
def test_mlp_gradients_are_those_of_autograd(model):
    for layer in range(model.config.n_layers):
        x, gradient = random_like(3, 5, 12).requires_grad_(), random_like(3, 5, 12, seed=1)
        pre = model.mlp_in(layer, x)
        written = model.mlp_out(layer, model.mlp_core(layer, pre))
        (expected,) = torch.autograd.grad(written, x, gradient)
        same(model.mlp_input_gradient(layer, model.mlp_port_gradient(layer, pre.detach(), gradient)), expected)
        stream = random_like(3, 5, 12, seed=2)
        whole = model.mlp_block(layer, stream)
        same(
            whole,
            model.mlp_out(layer, model.mlp_core(layer, model.mlp_in(layer, model.norm(f"layers.{layer}.ln2", stream)))),
        )
        same(whole[1], sum(naive.mlp_node(model, name, stream[1]) for name in naive.mlp_nodes(model.config, layer)))


def test_port_gradients_are_those_of_autograd(model):
    gradient = random_like(3, 7, 12, seed=1)
    for layer in range(model.config.n_layers):
        _, ports = ports_of(model, layer)
        each = [model.per_node(part).requires_grad_() for part in ports]
        expected = torch.autograd.grad(model.merge_nodes(layer, model.attend(layer, *each)), each, gradient)
        for found, right in zip(model.port_gradients(layer, ports, gradient), expected, strict=True):
            same(found, right)


# --- tensors that a model may lack ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", ["b", "w", "wb"])
@pytest.mark.parametrize("shape", SHAPES)
def test_engines_equal_naive_without_biases_or_norm_weights(shape, leaves):
    model = without(small_model(**SHAPES[shape]), *leaves)
    pairs = random_pairs(model, 2)
    batch, (mask,) = one_batch(model, pairs), random_masks(model, 1)
    prepared = prepare_ablation("corrupted", model, [batch])
    expected = naive_logits(model, pairs, "corrupted", mask)[batch.rows]
    outputs = prepared.writes(batch)
    same(run_masked(model, batch.clean, outputs, torch.from_numpy(mask[None]), batch.answer)[0], expected)
    sparse = run_circuit(model, batch, prepared.writes(batch), mask, prune_from_input=True)
    same(sparse, expected)

    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], "corrupted")).values
    ablated = naive_ablated(model, pairs, "corrupted")
    total = np.zeros(model.graph.n_edges)
    for row in range(2):
        targets = Targets(torch.from_numpy(pairs.correct[[row]]), torch.from_numpy(pairs.incorrect[[row]]))
        clean = prompt(pairs, row)
        found = naive.edge_attribution(model, clean, ablated[row], METRICS["logit-diff"], targets)
        total += [found[name] / 2 for name in model.graph.edge_names()]
    np.testing.assert_allclose(scores, total, **TIGHT)


# --- precision --------------------------------------------------------------------------------------------------------


def test_float32_is_close_to_float64(model, pairs):
    tokens = torch.from_numpy(pairs.clean)
    found, exact = model.to(dtype=torch.float32).logits(tokens), model.logits(tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16_and_finite(model, pairs):
    low = model.to(dtype=torch.bfloat16)
    logits = low.logits(torch.from_numpy(pairs.clean))
    assert logits.dtype == torch.bfloat16
    assert sender_outputs(low, torch.from_numpy(pairs.clean)).dtype == torch.bfloat16
    exact = model.logits(torch.from_numpy(pairs.clean))
    assert (logits.double() - exact).abs().median() < 0.1 * exact.std()


# --- numbers of the papers --------------------------------------------------------------------------------------------


def test_alibi_slopes_are_those_of_the_paper():
    """Press, Smith & Lewis 2022, section 3; for 12 heads as in the authors' code."""
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(16) == pytest.approx([2 ** (-i / 2) for i in range(1, 17)])
    assert alibi_slopes(12) == pytest.approx([2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert alibi_slopes(1) == (2.0**-8,)


def test_rotary_frequencies_are_those_of_the_paper():
    """Su et al. 2021, section 3.2.2: theta_i = 10000 ** (-2 (i - 1) / d)."""
    assert rotary_frequencies(8) == pytest.approx([1, 0.1, 0.01, 0.001])
    assert rotary_frequencies(4, base=500_000.0) == pytest.approx([1, 500_000**-0.5])


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm 'batch' is not supported; supported are layer, rms, none"),
        ({"activation": "sine"}, "activation 'sine' is not supported"),
        ({"positions": "sinusoidal"}, "positions 'sinusoidal' is not supported"),
        ({"qk_norm": "both"}, "qk_norm 'both' is not supported"),
        ({"granularity": "layers"}, "granularity 'layers' is not supported; supported are heads, attention blocks"),
        ({"n_kv_heads": 2}, "3 heads cannot share 2 key and value heads equally"),
        ({"positions": "rotary"}, "need frequencies"),
        ({"post_norm": True}, "use granularity 'attention blocks'"),
        ({"qk_norm": "all"}, "use granularity 'attention blocks'"),
        ({"windows": (3,)}, "windows has 1 entries; this shape needs 2"),
        ({"rotary_of_layer": (0, 0, 0)}, "rotary_of_layer has 3 entries; this shape needs 2"),
        ({"attention_scale": [1.0, 1.0, 1.0]}, "attention_scale has 3 entries; this shape needs 2"),
        ({"positions": "alibi", "alibi": (0.5,)}, "alibi has 1 entries; this shape needs 3"),
        ({"positions": "alibi"}, "alibi has 0 entries; this shape needs 3"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        small_config(**changes)


def test_a_prompt_longer_than_the_model_reads_is_refused(model):
    with pytest.raises(ModelError, match="a prompt has 10 tokens, but model 'random' reads at most 9"):
        model.logits(torch.zeros(1, 10, dtype=torch.int64))


def test_a_model_on_two_devices_is_refused_with_the_way_out():
    model = small_model()
    weights = model.weights | {"W_U": model.weights["W_U"].to("meta")}
    with pytest.raises(ModelError, match="are on cpu, meta; one model over several devices is not supported"):
        Transformer(model.config, weights)
