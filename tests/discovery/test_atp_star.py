"""AtP*: its loop on every architecture, GradDrop by hand, and edges really cut."""

from dataclasses import replace
from types import SimpleNamespace

import naive
import numpy as np
import pytest
import torch
from attribution import scores, targets_of
from backward_rules import naive_scores
from builders import SHAPES, TIGHT, prompt, random_pairs, small_model, some_architectures
from naive_runs import naive_ablated

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.execution.gradients import cut_attention
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer


def naive_fixed(model, pairs, dropped=None):
    """EAP with the QK fix, edge by edge: (prompts, edges). The node's mixed values enter through its output projection."""
    found, names = naive_scores(model, pairs, dropped=dropped), model.graph.edge_names()
    ablated, place = naive_ablated(model, pairs, "corrupted"), {name: number for number, name in enumerate(names)}
    for row in range(len(pairs)):
        live, gradients = _written_and_gradients(model, pairs, row, dropped)
        biases, streams = torch.zeros_like(live["input"]), {}
        for layer in range(model.config.n_layers):
            below = [s for s in live if s == "input" or int(s[1:].split(".")[0]) < layer]
            streams[layer] = biases + sum(live[s] for s in below)
            for port in "qk":
                for owner in naive.owners(model.config, layer, port):
                    for sender in below:
                        delta = live[sender] - ablated[row][sender]
                        parts = [
                            _linear_from_z(model, layer, streams[layer], port, delta, member, gradients)
                            for member in naive.members(model.config, owner)
                        ]
                        found[row, place[f"{sender}->{owner}<{port}>"]] = sum(parts)
            if not model.config.post_norm:
                biases = naive._plus(model, biases, f"layers.{layer}.b_O")
    return found


def _written_and_gradients(model, pairs, row, dropped):
    """What every sender of one prompt writes, and the gradient of the logit difference at it."""
    seen = {}

    def read(receiver, out, biases):
        for name, part in out.items():
            if name not in seen:
                part.retain_grad()
                seen[name] = part
        layer = [name[1:].split(".")[0] for name in out]
        return biases + sum(
            part.detach() if at == str(dropped) else part for at, part in zip(layer, out.values(), strict=True)
        )

    _, final = naive._walk(model, naive.embedding(model, prompt(pairs, row)).requires_grad_(), read)
    METRICS["logit-diff"](naive.logits(model, final)[-1:], targets_of(pairs, row)).sum().backward()
    live = {name: part.detach() for name, part in seen.items()}
    zero = torch.zeros_like(live["input"])
    return live, {name: zero if part.grad is None else part.grad for name, part in seen.items()}


def _linear_from_z(model, layer, stream, port, delta, node, gradients):
    """The effect of a cut on one node, linear from its output projection on; a norm after that is linear, too."""
    head = int(node.partition(".h")[2] or 0)
    bare = SimpleNamespace(config=replace(model.config, post_norm=False), weights=model.weights)
    inputs = [stream - delta if name == port else stream for name in "qkv"]
    clean, cut = (naive.attention_node(bare, layer, head, *three) for three in ([stream] * 3, inputs))
    at_write = gradients[node]
    if model.config.post_norm:
        after = lambda x: naive._norm(model, f"layers.{layer}.ln1_post", naive._plus(model, x, f"layers.{layer}.b_O"))  # noqa: E731
        at_write = torch.autograd.functional.vjp(after, clean, at_write)[1]
    return float(((clean - cut) * at_write).sum())


def with_drops(model, estimates):
    """GradDrop of (1 + layers, prompts, edges): nothing dropped, then each layer."""
    plain, dropped = estimates[0], np.abs(estimates[1:]).sum(0)
    of_logits = np.array([name.endswith("->logits") for name in model.graph.edge_names()])
    size = dropped / (model.config.n_layers - ~of_logits)
    return np.where(plain < 0, -size, size)


@some_architectures
def test_atp_star_is_its_loop_on_every_architecture(model):
    pairs, layers = random_pairs(model, 2, longest=5), range(model.config.n_layers)
    fixed = np.stack([naive_fixed(model, pairs, dropped) for dropped in (None, *layers)])
    plain = np.stack([naive_scores(model, pairs, dropped=dropped) for dropped in (None, *layers)])
    for qk_fix, estimates in ((True, fixed), (False, plain)):
        alone, both = (
            ALGORITHMS["atp-star"](
                Problem(model, pairs, METRICS["logit-diff"], parts="prompt"),
                qk_fix=qk_fix,
                grad_drop="yes" if grad_drop else "no",
            )
            for grad_drop in (False, True)
        )
        np.testing.assert_allclose(alone.values, estimates[0].mean(0), **TIGHT)
        np.testing.assert_allclose(both.values, with_drops(model, estimates).mean(0), **TIGHT)
        np.testing.assert_allclose(both.parts, with_drops(model, estimates), rtol=1e-5, atol=1e-6)
    assert np.abs(fixed - plain).max() > 1e-3


@pytest.mark.parametrize("shape", ["layernorm-mlp", "llama-groups", "gemma2"])
def test_cuts_made_a_few_at_a_time_are_the_same(shape, monkeypatch):
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model, 5)
    whole = scores("atp-star", model, pairs)
    per_token = cut_attention.cut_numbers(model, 7) * 7 * 8
    for at_once in (1, 2, 13):
        monkeypatch.setattr(cut_attention, "TILE_BYTES", at_once * per_token)
        monkeypatch.setattr(cut_attention, "budget", lambda device: 0)
        np.testing.assert_allclose(scores("atp-star", model, pairs), whole, **TIGHT)


def scalar_model(*factors: float) -> Transformer:
    """A stream of one number; layer l adds ``factors[l]`` times it, and attention nothing."""
    model = small_model(
        n_layers=len(factors), n_heads=1, d_model=1, d_head=1, d_mlp=1, norm="none", positions="none", biases=False,
        activation="linear",
    )  # fmt: skip
    for layer, factor in enumerate(factors):
        model.weights[f"layers.{layer}.W_O"].zero_()
        model.weights[f"layers.{layer}.W_in"].fill_(1)
        model.weights[f"layers.{layer}.W_out"].fill_(factor)
    return model


def test_graddrop_of_three_layers_by_hand():
    a, b, c = 0.5, -0.9, 0.7
    model = scalar_model(a, b, c)
    pairs = random_pairs(model, 1, shortest=3, longest=3)
    W_E, W_U = model.weights["W_E"][:, 0], model.weights["W_U"][0]
    change = float(W_E[pairs.clean[0, 2]] - W_E[pairs.corrupted[0, 2]])
    change *= float(W_U[pairs.correct[0, 0]] - W_U[pairs.incorrect[0]].mean())
    found = dict(zip(model.graph.edge_names(), scores("atp-star", model, pairs), strict=True))
    by_hand = {
        "input->m0": a * (abs(1 + c) + abs(1 + b)) / 2,  # without layer 1, without layer 2, and 0 without layer 0
        "input->m1": b * (abs(1 + c) + 1) / 2,  # without layer 0 as without any
        "input->m2": c,
        "input->logits": 1.0,
        "m0->m1": a * b * (abs(1 + c) + 1) / 2,
        "m0->logits": a,
    }
    for edge, expected in by_hand.items():
        assert found[edge] == pytest.approx(change * expected, rel=1e-9), edge


def test_graddrop_finds_what_direct_and_indirect_effects_cancel():
    model = scalar_model(0.5, -0.999)
    pairs = random_pairs(model, 1)
    edge = model.graph.edge_index("input->m0")
    eap, star = abs(scores("eap", model, pairs)[edge]), abs(scores("atp-star", model, pairs, grad_drop="yes")[edge])
    assert star == pytest.approx(1000 * eap, rel=1e-6)
    assert eap > 1e-5


def ranks(values):
    return np.argsort(np.argsort(values))


def test_atp_star_ranks_edges_nearer_to_their_exact_effects_than_eap():
    model = cf.load_model("tasks-4l")
    truth, eap, plain, star = (
        ranks(cf.discover(model, "greater-than", algorithm=name, n=6, **options).values)
        for name, options in (("exact", {}), ("eap", {}), ("atp-star", {"grad_drop": "no"}), ("atp-star", {}))
    )
    agreement = [np.corrcoef(truth, found)[0, 1] for found in (eap, plain, star)]
    assert agreement[0] < min(agreement[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["relp", "gim", "atp-star"])
def test_half_precision_is_near_full_precision(name, dtype):
    model = small_model(scale=1.0, **SHAPES["llama"])
    pairs = random_pairs(model, 3)
    full, half = scores(name, model, pairs), scores(name, model.to(dtype=dtype), pairs)
    assert np.corrcoef(full, half)[0, 1] > 0.99


@pytest.mark.parametrize(("name", "title"), [("relp", "RelP"), ("gim", "GIM"), ("atp-star", r"AtP\*")])
def test_a_divergence_from_the_clean_run_is_refused(name, title):
    with pytest.raises(OptionError, match=f"zero gradient at the clean run, so {title} would score every edge 0"):
        scores(name, metric="kl")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("relp", {"qk": "quarter"}, "qk='quarter': use one of exact, half, frozen"),
        ("gim", {"temperature": 0}, "temperature=0.0: give a number above 0"),
        ("gim", {"temperature": "nan"}, "temperature=nan: give a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        scores(name, **options)


def test_a_model_of_two_layers_drops_none_unless_asked_to():
    model, pairs = small_model(), random_pairs(small_model(), 3)
    drops = {how: scores("atp-star", model, pairs, grad_drop=how) for how in ("auto", "no", "yes")}
    assert (drops["auto"] == drops["no"]).all()
    assert (drops["auto"] != drops["yes"]).any()
    deep = small_model(**SHAPES["three-layers"])
    assert (scores("atp-star", deep, pairs) == scores("atp-star", deep, pairs, grad_drop="yes")).all()
    with pytest.raises(OptionError, match="use auto, yes or no"):
        scores("atp-star", model, pairs, grad_drop="true")
