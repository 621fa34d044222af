"""Ablation of components and neurons by hand."""

import numpy as np
import pytest
from builders import TIGHT, few_shapes, random_pairs, small_model, without
from plain_patching import BY_HAND, IOI, ablated, naive_metric, patched_logits, tokens_of, walk

import circuitfind as cf
from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer


def naive_base(model: Transformer, pairs: TokenPairs, direction: str) -> list[float]:
    side = "corrupted" if direction == "denoising" else "clean"
    logits = [walk(model, tokens_of(pairs, row, side), lambda name, value: value) for row in range(len(pairs))]
    return [naive_metric(pairs, row, logits[row][pairs.answer_position[row]]) for row in range(len(pairs))]


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
