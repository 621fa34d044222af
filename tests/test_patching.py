"""Activation patching and ablation: what plain loops give, and what must hold whatever the model."""

import json
from collections.abc import Callable

import naive
import numpy as np
import pandas
import pytest
import torch
from conftest import few_shapes, random_pairs, small_model, without
from torch import Tensor

import circuitfind as cf
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.patching import patched_runs
from circuitfind.patching.by_layer import by_layer
from circuitfind.patching.sites import label, names_of
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.statistics import RESAMPLES, mean_intervals
from circuitfind.task import TokenPairs, spans_of
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import ACTIVATIONS, Transformer

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
BY_HAND = tuple(ablation for ablation in ABLATIONS if ablation != "optimal")
"""The ablations whose values plain loops give; which constants the other one learns is tested with it."""
MODES = [("denoising", "corrupted"), *(("noising", ablation) for ablation in BY_HAND)]
Swap = Callable[[str, Tensor], Tensor]
"""From the name of a value that was computed, and the value, to the value that goes on."""


# -------------------------------------------------------------------- one prompt, one value at a time


def hidden_of(model: Transformer, layer: int, x: Tensor) -> Tensor:
    """Hidden values (positions, d_mlp) of an MLP from its raw input."""
    c, w, key = model.config, model.weights, f"layers.{layer}."
    x = naive._before_block(model, key + "ln2", x)
    up = naive._plus(model, x @ w[key + "W_in"], key + "b_in")
    act = ACTIVATIONS[c.activation]
    hidden = act(naive._plus(model, x @ w[key + "W_gate"], key + "b_gate")) * up if c.gated else act(up)
    return naive._norm(model, key + "mlp_ln", hidden, kind="layer") if c.mlp_norm else hidden


def mlp_of(model: Transformer, layer: int, x: Tensor, swap: Swap) -> Tensor:
    """What an MLP writes, its hidden values swapped on the way."""
    c, key = model.config, f"layers.{layer}."
    if c.has_experts(layer):
        return naive.mlp_node(model, layer, x)
    hidden = swap(f"m{layer}.hidden", hidden_of(model, layer, x))
    out = naive._plus(model, hidden @ model.weights[key + "W_out"], key + "b_out")
    return naive._norm(model, key + "ln2_post", out) if c.post_norm else out


def walk(model: Transformer, tokens: Tensor, swap: Swap) -> Tensor:
    """Logits (positions, d_vocab) of one prompt, node by node on one shared stream; every value goes through ``swap``."""
    c = model.config
    stream = swap("input", naive.embedding(model, tokens))
    for layer in range(c.n_layers):
        before = stream = swap(f"resid_pre.{layer}", stream)
        for node in range(naive.n_nodes(model)):
            written = naive.attention_node(model, layer, node, before, before, before)
            stream = stream + swap(naive.node_name(c, layer, node), written)
        stream = stream if c.post_norm else naive._plus(model, stream, f"layers.{layer}.b_O")
        if c.d_mlp:
            stream = stream if c.parallel else swap(f"resid_mid.{layer}", stream)
            stream = stream + swap(f"m{layer}", mlp_of(model, layer, before if c.parallel else stream, swap))
    return naive.logits(model, swap("resid_final", stream))


def values_of(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Every value of a plain run, by name."""
    found: dict[str, Tensor] = {}
    logits = walk(model, tokens, lambda name, value: found.setdefault(name, value))
    return found | {"logits": logits}


def put(values: dict[str, Tensor], names: list[str], places: list[int]) -> Swap:
    """Replace values of components at some positions."""
    neurons = [name.partition(".n") for name in names if ".n" in name]

    def swap(name: str, value: Tensor) -> Tensor:
        value = value.clone()
        for place in places:
            if name in names or name.partition(".h")[0] in names:
                value[place] = values[name][place]
            for mlp, _, neuron in neurons:
                if name == f"{mlp}.hidden":
                    value[place, int(neuron)] = values[name][place, int(neuron)]
        return value

    return swap


def tokens_of(pairs: TokenPairs, row: int, side: str) -> Tensor:
    return torch.from_numpy(getattr(pairs, side)[row, : pairs.length[row]])


def replacements(
    model: Transformer, runs: list[dict[str, Tensor]], direction: str, ablation: str
) -> list[dict[str, Tensor]]:
    """For every prompt, by name, what is put in the place of each value, from the clean or from the corrupted runs."""
    if direction == "denoising" or ablation == "corrupted":
        return runs
    out = []
    for run in runs:
        values = {name: torch.zeros_like(value) for name, value in run.items()}
        for name, value in values.items() if ablation != "zero" else ():
            for place in range(len(value)):
                if ablation == "mean":
                    seen = [other[name][p] for other in runs for p in range(len(other[name]))]
                else:
                    seen = [other[name][place] for other in runs if len(other[name]) > place]
                value[place] = sum(seen) / len(seen)
        out.append(values | ablated_streams(model, values))
    return out


def ablated(model: Transformer, pairs: TokenPairs, ablation: str) -> list[dict[str, Tensor]]:
    """What noising puts in the place of each value of every prompt."""
    runs = [values_of(model, tokens_of(pairs, row, "corrupted")) for row in range(len(pairs))]
    return replacements(model, runs, "noising", ablation)


def ablated_streams(model: Transformer, writes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stream that ablated writes make."""
    found, places = {}, range(len(writes["input"]))
    swap = put(writes, list(model.graph.sender_names), list(places))

    def record(name: str, value: Tensor) -> Tensor:
        found[name] = swap(name, value)
        return found[name]

    walk(model, torch.zeros(len(places), dtype=torch.long), record)
    return {name: value for name, value in found.items() if name.startswith("resid")}


def patched_logits(
    model: Transformer,
    pairs: TokenPairs,
    direction: str,
    values: list[dict[str, Tensor]],
    names: list[str],
    part: int | None,
) -> list[Tensor | None]:
    """Logits at the answer of every prompt; None for a prompt without the position."""
    found: list[Tensor | None] = []
    for row in range(len(pairs)):
        tokens = tokens_of(pairs, row, "clean" if direction == "noising" else "corrupted")
        places = list(range(len(tokens))) if part is None else [part]
        missing = part is not None and part >= len(tokens)
        found.append(
            None if missing else walk(model, tokens, put(values[row], names, places))[pairs.answer_position[row]]
        )
    return found


def targets_of(pairs: TokenPairs, row: int, clean: Tensor | None = None) -> Targets:
    one = torch.from_numpy(pairs.correct[row : row + 1]), torch.from_numpy(pairs.incorrect[row : row + 1])
    return Targets(*one, None if clean is None else clean[None])


def naive_metric(
    pairs: TokenPairs, row: int, logits: Tensor, name: str = "logit-diff", clean: Tensor | None = None
) -> float:
    return float(METRICS[name](logits[None], targets_of(pairs, row, clean)))


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


@pytest.fixture
def few_pairs(model) -> TokenPairs:
    return random_pairs(model, n=3, shortest=3, longest=5)


IOI = cf.load_task("ioi")
"""Its prompts are not used where pairs are given."""


# -------------------------------------------------------------------- against the loops


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
        values = replacements(model, runs["clean" if direction == "denoising" else "corrupted"], direction, ablation)
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


def naive_base(model: Transformer, pairs: TokenPairs, direction: str) -> list[float]:
    side = "corrupted" if direction == "denoising" else "clean"
    logits = [walk(model, tokens_of(pairs, row, side), lambda name, value: value) for row in range(len(pairs))]
    return [naive_metric(pairs, row, logits[row][pairs.answer_position[row]]) for row in range(len(pairs))]


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


# -------------------------------------------------------------------- identities


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


# -------------------------------------------------------------------- what must change nothing


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


# -------------------------------------------------------------------- metrics, signs, statistics


@pytest.mark.parametrize("metric", ["kl", "nll", "prob-diff"])
def test_positive_helps_whatever_the_metric(metric):
    model, sign = small_model(), METRICS[metric].sign
    pairs = random_pairs(model)
    clean = [walk(model, tokens_of(pairs, row, "clean"), lambda name, value: value)[-1] for row in range(len(pairs))]
    values = ablated(model, pairs, "corrupted")
    found = cf.activation_patch(model, IOI, "m1", by="position", direction="noising", metric=metric, pairs=pairs)
    for row, logits in enumerate(patched_logits(model, pairs, "noising", values, ["m1"], 2)):
        before, after = (naive_metric(pairs, row, x, metric, clean[row]) for x in (clean[row], logits))
        np.testing.assert_allclose(found.per_example[0, 2, row], sign * (before - after), **TIGHT)
        np.testing.assert_allclose(found.clean[row], before, **TIGHT)


def test_a_metric_of_ones_own_is_measured():
    model = small_model()
    pairs = random_pairs(model)

    def first_logit(logits, targets):
        return logits[..., 0]

    found = cf.ablate(model, IOI, "a1.h0", metric=first_logit, ablation="zero", pairs=pairs)
    values = ablated(model, pairs, "zero")
    expected = [logits[0] for logits in patched_logits(model, pairs, "noising", values, ["a1.h0"], None)]
    np.testing.assert_allclose(found.after[0], expected, **TIGHT)
    assert found.provenance.metric == "first-logit"


def test_shares_are_ratios_of_means_over_the_prompts_that_have_the_part():
    model = small_model()
    pairs = random_pairs(model)
    for direction in ("denoising", "noising"):
        found = cf.activation_patch(model, IOI, "node", by="position", direction=direction, pairs=pairs)
        for column in range(len(found.columns)):
            has = pairs.length > column
            whole = (found.clean[has] - found.corrupted[has]).mean()
            np.testing.assert_allclose(found.shares[:, column], found.values[:, column] / whole, **TIGHT)
            np.testing.assert_allclose(found.values[:, column], found.per_example[:, column, has].mean(1), **TIGHT)


def test_intervals_are_those_of_resampled_prompts():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2, 3, 6))
    values[0, 1, 2:] = np.nan
    values[1, 2] = np.nan
    found = mean_intervals(values, seed=5)
    drawn = np.random.default_rng(5).integers(0, 6, (RESAMPLES, 6))
    for row, column in np.ndindex(2, 3):
        means = []
        for resample in drawn:
            kept = [values[row, column, prompt] for prompt in resample if not np.isnan(values[row, column, prompt])]
            means += [sum(kept) / len(kept)] if kept else []
        expected = np.quantile(means, (0.025, 0.975)) if means else (np.nan, np.nan)
        np.testing.assert_allclose(found[row, column], expected, **TIGHT)


# -------------------------------------------------------------------- ablation


@few_shapes
def test_components_are_knocked_out_together_one_at_a_time_and_list_by_list(model, pairs):
    names = [model.graph.sender_names[2], model.graph.sender_names[-1]]
    together = cf.ablate(model, IOI, names, ablation="mean", pairs=pairs)
    each = cf.ablate(model, IOI, names, ablation="mean", each=True, pairs=pairs)
    lists = cf.ablate(model, IOI, [names, [names[0]], names[1]], ablation="mean", pairs=pairs)
    assert (together.names, each.names, lists.names) == (("+".join(names),), tuple(names), ("+".join(names), *names))
    np.testing.assert_allclose(lists.after, np.concatenate((together.after, each.after)), **TIGHT)
    values = ablated(model, pairs, "mean")
    logits = patched_logits(model, pairs, "noising", values, names, None)
    np.testing.assert_allclose(
        together.after[0], [naive_metric(pairs, row, part) for row, part in enumerate(logits)], **TIGHT
    )
    np.testing.assert_allclose(together.before, naive_base(model, pairs, "noising"), **TIGHT)
    np.testing.assert_allclose(together.effects, (together.before - together.after).mean(-1), **TIGHT)
    np.testing.assert_allclose(
        together.shares, together.effects / (together.before - together.everything).mean(), **TIGHT
    )


@pytest.mark.parametrize("ablation", BY_HAND)
@pytest.mark.parametrize("model", ["layernorm-mlp", "llama", "gemma2", "solu", "everything"], indirect=True)
def test_every_neurons_effect_is_exact(model, few_pairs, ablation):
    values = ablated(model, few_pairs, ablation)
    found = cf.ablate(model, IOI, "m0", neurons="all", each=True, ablation=ablation, pairs=few_pairs)
    assert found.names == tuple(f"m0.n{neuron}" for neuron in range(model.config.d_mlp))
    for neuron in (0, 7, model.config.d_mlp - 1):
        logits = patched_logits(model, few_pairs, "noising", values, [f"m0.n{neuron}"], None)
        expected = [naive_metric(few_pairs, row, part) for row, part in enumerate(logits)]
        np.testing.assert_allclose(found.after[neuron], expected, **TIGHT)
    top = found.top(3)
    assert top["effect"].abs().tolist() == sorted(np.abs(found.effects), reverse=True)[:3]
    some = cf.ablate(model, IOI, "m0", neurons=[7, 0], ablation=ablation, pairs=few_pairs)
    same = cf.ablate(model, IOI, ["m0.n0", "m0.n7"], ablation=ablation, pairs=few_pairs)
    np.testing.assert_allclose(some.after, same.after, **TIGHT)


def test_without_its_neurons_an_mlp_still_writes_its_bias():
    model = small_model()
    pairs, bare = random_pairs(model), without(model, "b")
    neurons, whole = (
        cf.ablate(each, IOI, "m1", neurons=chosen, ablation="zero", pairs=pairs).after
        for each, chosen in ((model, "all"), (model, None))
    )
    assert np.abs(neurons - whole).max() > 1e-6
    neurons, whole = (
        cf.ablate(bare, IOI, "m1", neurons=chosen, ablation="zero", pairs=pairs).after for chosen in ("all", None)
    )
    np.testing.assert_allclose(neurons, whole, **TIGHT)


# -------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def zoo():
    return cf.load_model("tasks-4l"), cf.load_task("ioi")


def test_a_labelled_token_is_the_position_where_it_stands(zoo):
    model, task = zoo
    pairs = tokenized_pairs(model, task, split="train", n=1)
    spans = spans_of(pairs, "span", model.tokenizer)
    by_span, by_position = (cf.activation_patch(model, task, "head", by=by, pairs=pairs) for by in ("span", "position"))
    assert by_span.columns == spans.labels
    for column, name in enumerate(by_span.columns):
        (places,) = np.nonzero(spans.of[0] == column)
        if name != "rest":
            np.testing.assert_allclose(by_span.values[:, column], by_position.values[:, places[0]], atol=1e-5)


def test_the_result_is_a_table_a_ranking_json_and_a_picture(zoo, tmp_path):
    model, task = zoo
    found = cf.activation_patch(model, task, "head", by="span", n=6, direction="noising", ablation="mean")
    frame = found.to_frame()
    assert len(frame) == found.values.size == 32 * len(found.columns)
    row = frame[(frame["component"] == "a1.h3") & (frame["part"] == "S2")].iloc[0]
    place = found.rows.index("a1.h3"), found.columns.index("S2")
    assert (row["effect"], row["share"], row["prompts"]) == (found.values[place], found.shares[place], 6)
    assert (row["low"], row["high"]) == tuple(found.intervals[place])
    assert found.top(5)["effect"].abs().is_monotonic_decreasing
    assert found.top(5, absolute=False)["effect"].is_monotonic_decreasing
    assert found.top(1)["effect"].abs().item() == np.nanmax(np.abs(found.values))
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["rows"][place[0]] == "a1.h3"
    assert told["effects"][place[0]][place[1]] == found.values[place]
    assert (told["provenance"]["ablation"], told["provenance"]["split"], told["direction"]) == (
        "mean",
        "train",
        "noising",
    )
    drawn = found.render(tmp_path / "map.svg").read_text(encoding="utf-8")
    assert "a1.h3" in drawn
    assert "S2" in drawn


def test_what_is_not_asked_for_is_not_kept(zoo):
    model, task = zoo
    found = cf.activation_patch(model, task, "mlp", n=4, per_example=False)
    assert found.per_example is None
    assert found.to_json()["per_example"] is None


def test_without_parts_components_stand_by_layer(zoo, tmp_path):
    model, task = zoo
    found = cf.activation_patch(model, task, "node", n=4)
    values, rows, columns = found.table()
    assert rows == ["input", "0", "1", "2", "3"]
    assert columns == [*map(str, range(8)), "mlp", "input"]
    for number, name in enumerate(found.rows):
        row, column = (name, name) if name == "input" else (name[1], "mlp" if name[0] == "m" else name[4:])
        assert values[rows.index(row), columns.index(column)] == found.values[number, 0]
    assert np.isnan(values).sum() == values.size - len(found.rows)
    assert found.render(tmp_path / "map.png").exists()
    assert by_layer(("a0.h1", "a0.h1+m2"), np.zeros(2)) is None
    streams = by_layer(names_of(model.graph, "residual"), np.arange(9.0))
    assert streams[1:] == (["0", "1", "2", "3", "final"], ["pre", "mid"])
    assert streams[0][:4].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_ablation_is_a_table_json_and_a_picture(zoo, tmp_path):
    model, task = zoo
    found = cf.ablate(model, task, "head", each=True, n=4)
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    np.testing.assert_allclose(frame["before"] - frame["after"], frame["effect"], atol=1e-9)
    assert (frame["low"] <= frame["effect"]).all()
    assert (frame["effect"] <= frame["high"]).all()
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["component"] for row in told["effects"]] == list(found.names)
    assert (np.array(told["per_example"]["after"]) == found.after).all()
    assert found.provenance.split == "held-out"
    assert found.render(tmp_path / "map.svg").exists()
    assert cf.ablate(model, task, ["a0.h1", "m1"], n=4).render(tmp_path / "one.svg").exists()


def test_a_long_list_has_a_short_name():
    assert label(["a0.h0", "m1"]) == "a0.h0+m1"
    assert label([f"m{layer}" for layer in range(9)]) == "m0+m1+m2+m3+m4+4 more"


# -------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("shape", "what", "options", "error", "words"),
    [
        ({}, "a9.h1", {}, UnknownNameError, "unknown component 'a9.h1'"),
        ({}, "heads", {}, UnknownNameError, "unknown component 'heads'"),
        ({}, [], {}, OptionError, "name at least one"),
        ({}, [["m0"], []], {}, OptionError, "name at least one"),
        ({}, "m0.n20", {}, OptionError, "m0 has no neuron 20; its neurons are 0 to 19"),
        ({}, "m2.n0", {}, OptionError, "there is no MLP m2"),
        ({"d_mlp": 0}, "mlp", {}, OptionError, "has no MLPs"),
        ({"d_mlp": 0}, "m0.n1", {}, OptionError, "this model has 0 MLPs"),
        ({"granularity": "attention blocks"}, "head", {}, OptionError, "no write of its own; use 'attention'"),
        ({"parallel": True}, "resid_mid.0", {}, UnknownNameError, "unknown component 'resid_mid.0'"),
        ({}, "head", {"by": "word"}, OptionError, "use 'position', 'span' or ''"),
        ({}, "head", {"by": "span"}, OptionError, "no labelled positions"),
        ({}, "head", {"direction": "forward"}, OptionError, "'denoising'"),
        ({}, "head", {"ablation": "mean"}, OptionError, "direction='noising'"),
        ({}, "head", {"ablation": "none", "direction": "noising"}, UnknownNameError, "unknown ablation 'none'"),
    ],
)
def test_what_makes_no_sense_is_refused(shape, what, options, error, words):
    model = small_model(**shape)
    with pytest.raises(error, match=words.replace("(", r"\(")):
        cf.activation_patch(model, IOI, what, pairs=random_pairs(model), **options)


def test_experts_have_no_neurons():
    model = small_model(gated=True, n_experts=3, experts_per_token=2, d_expert=6, dense_layers=(0,), activation="silu")
    pairs = random_pairs(model)
    assert len(cf.ablate(model, IOI, "m0", neurons=[1], pairs=pairs).names) == 1
    for words in ({"nodes": "m1", "neurons": "all"}, {"nodes": "m1.n0"}):
        with pytest.raises(OptionError, match=r"m1 is a mixture of experts: .* ablate m1 as a whole"):
            cf.ablate(model, IOI, words.pop("nodes"), pairs=pairs, **words)


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ("a0.h1", {"neurons": [1]}, "belongs to one MLP"),
        (["m0", "m1"], {"neurons": [1]}, "belongs to one MLP"),
        ("m0", {"neurons": "some"}, "a list of numbers, or 'all'"),
        ("m0", {"neurons": []}, "no neuron of m0 is given"),
        ("m0", {"neurons": [-1]}, "has no neuron -1"),
        ([["m0"], ["m1"]], {"each": True}, "one list after the other"),
    ],
)
def test_what_cannot_be_knocked_out_is_refused(nodes, options, words):
    model = small_model()
    with pytest.raises(OptionError, match=words):
        cf.ablate(model, IOI, nodes, pairs=random_pairs(model), **options)


# -------------------------------------------------------------------- command line


def test_the_command_line_patches_and_draws(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("activation-patch", "ioi", "--what", "residual", "--by", "span", "--prompts", "4", "--out", "map.svg")
    code, out, err = command_line(*words)
    assert (code, err) == (0, "")
    assert "resid_final at END (4)" in out
    assert "+100.0%" in out
    assert (tmp_path / "map.svg").exists()
    code, out, _ = command_line(*words, "--json", "--direction", "noising", "--ablation", "mean")
    told = json.loads(out)
    assert (code, told["direction"], told["picture"]) == (0, "noising", "map.svg")


def test_the_command_line_knocks_out(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line("ablate", "ioi", "a0.h6", "m1", "--prompts", "4")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("a0.h6+m1")
    code, out, _ = command_line("ablate", "ioi", "m2", "--neurons", "3,17", "--each", "--prompts", "4", "--json")
    assert (code, [row["component"] for row in json.loads(out)["effects"]]) == (0, ["m2.n3", "m2.n17"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("activation-patch", "ioi", "--direction", "up"), "direction 'up'"),
        (("activation-patch", "ioi", "--out", "map.gif"), "must be one of .svg, .png, .pdf"),
        (("ablate", "ioi", "a9.h1"), "unknown component 'a9.h1'"),
        (("ablate", "ioi", "m1", "--neurons", "x"), "separated by commas"),
        (("ablate", "ioi", "m1", "--ablation", "none"), "unknown ablation 'none'"),
    ],
)
def test_the_command_line_refuses_with_one_message(command_line, words, said):
    code, _, err = command_line(*words)
    assert code == 2
    assert err.count("circuitfind: ") == 1
    assert said in err


def test_neurons_have_no_optimal_constants(few_pairs):
    with pytest.raises(OptionError, match="optimal constants are those of whole nodes"):
        cf.ablate(small_model(), IOI, "m0.n3", ablation="optimal", pairs=few_pairs)
