"""Path patching is what its definition says, along paths, sets of paths and wildcards."""

import json
import random

import numpy as np
import pytest
import torch
from builders import FEW_SHAPES, MORE_SHAPES, SHAPES, TIGHT, few_shapes, random_pairs, small_model
from naive import circuit_logits, members, owners
from naive_paths import order, patched_logits, ports_of, written_out
from short_paths import METRIC, measured, runs_of, short_pairs

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.execution.recompute.paths import agenda_of, read_route
from circuitfind.graph import ComputationGraph
from circuitfind.task.metrics import Metric

TASK = cf.Task("words", "", "", "", "", "logit-diff", propose=lambda rng: None)


def random_path(model, rng) -> str:
    """A path with a stop or two, ports, groups and wildcards, chosen at random."""
    nodes = order(model)[:-1]
    if model.graph.n_kv_groups:
        layers = range(model.config.n_layers)
        nodes += [(owner, 2 * layer) for layer in layers for owner in owners(model.config, layer, "k")]
    words, at = [], None
    for name, stage in sorted(rng.sample(nodes, min(len(nodes), rng.randint(1, 3))), key=lambda node: node[1]):
        if at is None:
            words.append(members(model.config, name)[0])
        elif stage > at:
            ports = ("k", "v") if ".kv" in name else ports_of(name)
            port = rng.choice((*ports, ""))
            words.append(f"{name}<{port}>" if port else name)
        else:
            continue
        at = stage
        words += rng.choice(([], ["*"], ["mlps"]))
    return " -> ".join([*words, "logits"])


def naive_values(model, pairs, paths, ablation="corrupted", direction="noising"):
    """The logit difference of every prompt with some written-out paths patched."""
    _, clean, ablated = runs_of(model, pairs, ablation)
    pick = (
        (lambda row: (clean[row], ablated[row])) if direction == "noising" else lambda row: (ablated[row], clean[row])
    )
    return np.array([measured(pairs, row, patched_logits(model, paths, *pick(row))) for row in range(len(pairs))])


@pytest.mark.parametrize("shape", MORE_SHAPES)
def test_a_set_of_paths_is_patched_as_defined(shape):
    rng = random.Random(shape)
    model, moved = small_model(**SHAPES[shape]), 0
    for number, ablation in enumerate(("corrupted", "corrupted", *ABLATIONS)):
        pairs = short_pairs(model, alike=number % 3)
        paths = [random_path(model, rng) for _ in range(1 + number % 3)]
        direction = ("noising", "denoising")[number % 2]
        found = cf.path_patch(model, TASK, paths, ablation=ablation, direction=direction, pairs=pairs)
        chosen = set().union(*(written_out(model, path) for path in paths))
        expected = naive_values(model, pairs, chosen, ablation, direction)
        np.testing.assert_allclose(found.patched, expected, **TIGHT, err_msg=f"{paths} {ablation} {direction}")
        moved += bool((abs(found.effect) > 1e-6).any())
    assert moved >= 3


def test_paths_of_a_set_do_not_mix():
    """A->B->D->logits and E->B->logits do not make E->B->D, and what is replaced stays replaced."""
    model = small_model(n_layers=3, n_heads=2)
    for paths in (
        ["a0.h0 -> a1.h0<v> -> a2.h0<v> -> logits", "a0.h1 -> a1.h0<v> -> logits"],
        ["a0.h0 -> a1.h0<v> -> logits", "a1.h0 -> logits"],
        ["a0.h0 -> * -> a2.h1<k> -> logits", "m0 -> mlps -> logits", "a0.h0 -> m2 -> logits"],
    ):
        pairs = short_pairs(model)
        chosen = set().union(*(written_out(model, path) for path in paths))
        found = cf.path_patch(model, TASK, paths, pairs=pairs)
        np.testing.assert_allclose(found.patched, naive_values(model, pairs, chosen), **TIGHT)
    together = cf.path_patch(model, TASK, "a0.h0 -> * -> logits", pairs=pairs)
    assert abs(together.patched - found.patched).max() > 1e-3


@pytest.mark.parametrize("model", FEW_SHAPES, indirect=True)
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_every_way_from_a_sender_is_activation_patching(model, ablation):
    """Everything after the sender is computed again with its output replaced."""
    pairs = short_pairs(model)
    tokens, _, ablated = runs_of(model, pairs, ablation)
    for sender in (0, 1, model.graph.n_senders - 1):
        name = model.graph.sender_names[sender]
        kept = {edge for edge in model.graph.edge_names() if not edge.startswith(f"{name}->")}
        logits = [circuit_logits(model, row, off, kept) for row, off in zip(tokens, ablated, strict=True)]
        found = cf.path_patch(model, TASK, f"{name} -> * -> logits", ablation=ablation, pairs=pairs)
        np.testing.assert_allclose(found.patched, [measured(pairs, *row) for row in enumerate(logits)], **TIGHT)


def test_every_way_from_the_input_is_the_corrupted_run(model, pairs):
    found = cf.path_patch(model, TASK, "input -> * -> logits", pairs=pairs)
    np.testing.assert_allclose(found.patched, found.ablated, **TIGHT)
    assert found.share == pytest.approx(1)
    back = cf.path_patch(model, TASK, "input -> * -> logits", direction="denoising", pairs=pairs)
    np.testing.assert_allclose(back.patched, found.clean, **TIGHT)
    np.testing.assert_allclose(back.effect, found.effect, **TIGHT)


def test_one_edge_and_every_way_on_is_the_exact_effect_of_the_edge(model, pairs):
    problem = Problem(model, pairs, METRIC)
    exact = ALGORITHMS["exact"](problem).values
    for edge in np.random.default_rng(0).permutation(model.graph.n_edges)[:6].tolist():
        sender, receiver = model.graph.edge_name(edge).split("->")
        onward = "" if receiver == "logits" else " -> * -> logits"
        found = cf.path_patch(model, TASK, f"{sender} -> {receiver}{onward}", pairs=pairs)
        assert found.mean == pytest.approx(exact[edge], rel=1e-9, abs=1e-9)


def test_in_a_linear_model_the_paths_through_an_edge_add_up_to_its_effect():
    """Without norms and MLPs, and with attention that looks everywhere alike, logits are linear in the embedding."""
    model = small_model(n_layers=3, n_heads=2, d_mlp=0, norm="none")
    even = {key: part * 0 if key[-3:] in ("W_Q", "W_K", "b_Q", "b_K") else part for key, part in model.weights.items()}
    model = model.with_weights(even)
    pairs = random_pairs(model, 3)
    exact = ALGORITHMS["exact"](Problem(model, pairs, METRIC)).values
    for edge in ("a0.h1->a1.h0<v>", "input->a0.h0<v>"):
        paths = written_out(model, f"{edge.replace('->', ' -> ')} -> * -> logits")
        texts = [" -> ".join([first, *(f"{n}<{p}>" if p else n for n, p in tail)]) for first, tail in sorted(paths)]
        effects = [cf.path_patch(model, TASK, text, pairs=pairs).mean for text in texts]
        assert len(texts) > 5
        assert sum(effects) == pytest.approx(exact[model.graph.edge_index(edge)], rel=1e-9)
        assert sum(effect != 0 for effect in effects) > 2


@few_shapes
def test_the_batch_size_and_prompts_that_begin_alike_change_nothing(model):
    pairs = random_pairs(model, 5)
    pairs.corrupted[:, :2] = pairs.clean[:, :2]
    path = ["a0.h0 -> * -> logits" if model.graph.n_heads > 1 else "a0 -> * -> logits", "input -> logits"]
    whole = cf.path_patch(model, TASK, path, pairs=pairs)
    shuffled = cf.path_patch(model, TASK, path, pairs=pairs.take([4, 2, 0, 1, 3]))
    np.testing.assert_allclose(shuffled.effect, whole.effect[[4, 2, 0, 1, 3]], **TIGHT)
    for size in (1, 2):
        np.testing.assert_allclose(
            cf.path_patch(model, TASK, path, pairs=pairs, batch_size=size).effect, whole.effect, **TIGHT
        )


def test_every_way_costs_one_value_for_each_block_and_only_the_answer_where_that_is_enough():
    graph = ComputationGraph(12, 12)
    agenda = agenda_of(graph, [read_route(graph, "a0.h3 -> * -> logits")])
    assert len(agenda.stages) == 1 + 2 * 11
    assert all(len(stage.heads) in (0, 12) for stage in agenda.stages)
    last = [stage for stage in agenda.stages if stage.at_answer]
    assert [(stage.layer, len(stage.heads)) for stage in last] == [(11, 12), (11, 0)]
    assert not last[0].reads_answer_only("k")
    both = agenda_of(graph, [read_route(graph, "a0.h3 -> * -> a9.h9<q> -> * -> logits")])
    assert sum(stage.heads == (9,) for stage in both.stages) == 1
    assert len(both.stages) < 2 * len(agenda.stages)


def test_the_sign_of_an_effect_is_that_of_what_helps(model, pairs):
    path = f"{model.graph.sender_names[1]} -> * -> logits"
    own = Metric("spread", "", lambda logits, targets: logits.std(-1), larger_is_better=False)
    for metric in ("kl", "nll", "prob-diff", own):
        found = cf.path_patch(model, TASK, path, metric=metric, pairs=pairs)
        sign = 1 if found.larger_is_better else -1
        np.testing.assert_allclose(found.effect, sign * (found.clean - found.patched), **TIGHT)
        assert found.larger_is_better == (metric == "prob-diff")
    assert (cf.path_patch(model, TASK, path, metric="kl", pairs=pairs).effect >= -1e-12).all()


def test_answers_alone_give_the_same_difference(model, pairs):
    """The logit difference as a metric of one's own sees all logits."""
    full = Metric("own", "", METRIC.function)
    path = f"{model.graph.sender_names[1]} -> * -> logits"
    values = [cf.path_patch(model, TASK, path, metric=metric, pairs=pairs).patched for metric in (METRIC, full)]
    np.testing.assert_allclose(*values, **TIGHT)


def test_a_result_says_what_was_measured():
    model = cf.load_model("induction-2l")
    found = cf.path_patch(model, "induction", "a0.h5 -> a1.h6<k> -> logits", n=8, split="held-out", seed=2)
    values = json.loads(json.dumps(found.to_json()))
    assert values["paths"] == ["a0.h5 -> a1.h6<k> -> logits"]
    assert values["effect"] == pytest.approx(np.mean(values["per_example"]["effect"]))
    assert values["share"] == pytest.approx(found.effect.sum() / (found.clean - found.ablated).sum())
    low, high = values["effect_95_interval"]
    assert low < values["effect"] < high
    p = found.provenance
    assert (p.model, p.task, p.split, p.n_prompts, p.seed, p.ablation) == (
        "induction-2l",
        "induction",
        "held-out",
        8,
        2,
        "corrupted",
    )
    assert "on 8 held-out prompts" in str(found)
    assert f"effect {found.mean:+.4g}" in str(found)


def test_half_precision_is_near():
    model = cf.load_model("tasks-4l")
    paths = ["a0.h6 -> m0 -> * -> logits", "a1.h0 -> a3.h7<v> -> logits"]
    wide = cf.path_patch(model, "ioi", paths, n=8)
    half = cf.path_patch(model.to(dtype=torch.bfloat16), "ioi", paths, n=8)
    assert half.mean == pytest.approx(wide.mean, rel=0.1)


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("a0.h1", OptionError, "write nodes with arrows between"),
        ("a0.h1 -> ", OptionError, "write nodes with arrows between"),
        ("a0.h1 -> m1", OptionError, r"ends in 'm1', but every path ends in 'logits'; write '\.\.\. -> m1 -> logits'"),
        ("a0.h1 -> *", OptionError, "every path ends in 'logits'"),
        ("a0.h1 -> logit", UnknownNameError, "Did you mean 'logits'"),
        ("* -> m1 -> logits", OptionError, r"begins with '\*'; begin with the node"),
        ("a0.h1<q> -> logits", OptionError, "what is replaced is a node's output, so begin with 'a0.h1'"),
        ("a0.h1 -> * -> mlps -> logits", OptionError, "follow each other"),
        ("a0.h9 -> logits", UnknownNameError, "Did you mean 'a0.h2'"),
        ("a0.h1 -> a1.h1<w> -> logits", UnknownNameError, "Did you mean 'a1.h1<"),
        ("a0.h1 -> m1<q> -> logits", UnknownNameError, "unknown receiver in path"),
        ("a0.h1 -> a1.kv0<k> -> logits", UnknownNameError, "unknown receiver in path"),
        ("a0.h1 -> input -> logits", CircuitError, "'input' reads nothing"),
        ("m1 -> a1.h0<q> -> logits", CircuitError, "m1 comes after a1.h0<q>.*no edge m1->a1.h0<q>"),
        ("a1.h0 -> * -> m0 -> logits", CircuitError, "a1.h0 comes after m0"),
        ("a0.h1 -> logits -> logits", CircuitError, "logits comes after logits"),
    ],
)
def test_a_path_that_cannot_be_is_refused(path, kind, message):
    model = small_model()
    with pytest.raises(kind, match=message):
        cf.path_patch(model, TASK, path, pairs=random_pairs(model))


def test_options_that_make_no_sense_are_refused():
    model = small_model()
    given = {"pairs": random_pairs(model)}
    with pytest.raises(OptionError, match="give at least one path"):
        cf.path_patch(model, TASK, [], **given)
    for call in (cf.path_patch, cf.path_heat_map):
        with pytest.raises(OptionError, match="use noising or denoising"):
            call(model, TASK, "logits", direction="up", **given)
    with pytest.raises(OptionError, match="through='heads': use direct or mlps"):
        cf.path_heat_map(model, TASK, "m1", through="heads", **given)
    with pytest.raises(UnknownNameError, match=r"receiver in path 'a9\.h0'"):
        cf.path_heat_map(model, TASK, "a9.h0", **given)
    with pytest.raises(UnknownNameError, match="ablation"):
        cf.path_patch(model, TASK, "m0 -> logits", ablation="none", **given)


def test_nan_in_the_model_is_located():
    model = small_model()
    model.weights["layers.1.W_V"][0, 0] = torch.nan
    with pytest.raises(cf.CircuitfindError, match="after layer 1, on the clean prompt"):
        cf.path_patch(model, TASK, "m0 -> logits", pairs=random_pairs(model))
