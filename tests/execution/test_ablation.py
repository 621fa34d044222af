"""A mean is the mean of one sender, over real tokens only: held against sums made by hand."""

import naive
import numpy as np
import pytest
import torch
from builders import TIGHT, few_shapes, random_pairs

import circuitfind as cf
from circuitfind.errors import OptionError
from circuitfind.execution import make_batches, prepare_ablation
from circuitfind.execution.plain_run import hidden_means
from circuitfind.task import TokenPairs


def mean_by_hand(model, pairs: TokenPairs, sender: str, position: int | None) -> list[float]:
    """Mean write of a sender on the corrupted prompts, number by number: over all real tokens, or those at one position."""
    total, count = [0.0] * model.config.d_model, 0
    for row in range(len(pairs)):
        tokens = torch.from_numpy(pairs.corrupted[row, : pairs.length[row]])
        written, _ = naive.senders(model, tokens)
        for place in range(int(pairs.length[row])):
            if position is None or place == position:
                count += 1
                for number in range(model.config.d_model):
                    total[number] += float(written[sender][place, number])
    return [part / count for part in total]


@pytest.fixture
def uneven(model) -> TokenPairs:
    """Prompts of 3 to 6 tokens whose padding is not 0, as if other text followed."""
    pairs = random_pairs(model, n=4, longest=6, uneven=True)
    assert len(set(pairs.length.tolist())) > 1
    padding = np.arange(pairs.clean.shape[1]) >= pairs.length[:, None]
    corrupted = np.where(padding, model.config.d_vocab - 1, pairs.corrupted)
    return TokenPairs(**(vars(pairs) | {"corrupted": corrupted}))


@few_shapes
@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_mean_is_that_of_its_own_sender_over_real_tokens_alone(model, uneven, size):
    batches = make_batches(model, uneven, size)
    mean = prepare_ablation("mean", model, batches).means
    by_position = prepare_ablation("mean-positional", model, batches).means
    for number, sender in enumerate(model.graph.sender_names):
        np.testing.assert_allclose(mean[number, 0, 0], mean_by_hand(model, uneven, sender, None), **TIGHT)
    for sender in (0, model.graph.n_senders - 1):
        for position in range(int(uneven.length.max())):
            expected = mean_by_hand(model, uneven, model.graph.sender_names[sender], position)
            np.testing.assert_allclose(by_position[sender, 0, position], expected, **TIGHT)


@few_shapes
def test_means_of_clean_and_of_reference_prompts_are_those_of_these_prompts_alone(model, uneven):
    """Neither the corrupted prompts nor the way they are batched plays a role, and reference prompts may be longer."""
    other = np.zeros_like(uneven.corrupted)
    changed = TokenPairs(**(vars(uneven) | {"corrupted": other}))
    for name, prompts in (("mean-clean", uneven), ("mean-reference", uneven.reference)):
        expected = TokenPairs(**(vars(prompts) | {"corrupted": prompts.clean}))
        means = prepare_ablation(name, model, make_batches(model, changed, 3)).means
        for number in (0, 1, model.graph.n_senders - 1):
            sender = model.graph.sender_names[number]
            np.testing.assert_allclose(means[number, 0, 0], mean_by_hand(model, expected, sender, None), **TIGHT)
    bare = TokenPairs(**(vars(uneven) | {"reference": None}))
    with pytest.raises(OptionError, match="give --reference-prompts FILE"):
        prepare_ablation("mean-reference", model, make_batches(model, bare))


@few_shapes
def test_no_two_senders_have_the_same_mean(model, uneven):
    batches = make_batches(model, uneven, 2)
    for name in ("mean", "mean-positional"):
        means = prepare_ablation(name, model, batches).means[:, 0]
        for one in range(len(means)):
            for other in range(one):
                assert (means[one] - means[other]).abs().max() > 1e-2


@few_shapes
@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_what_a_mean_ablated_sender_sends_is_its_mean(model, uneven, ablation):
    """The whole way to the metric: the last MLP (or attention) of the model is replaced, and only the logits read it."""
    last = model.graph.n_senders - 1
    name = model.graph.sender_names[last]
    found = cf.ablate(model, "ioi", name, ablation=ablation, pairs=uneven)
    for row in range(len(uneven)):
        tokens = torch.from_numpy(uneven.clean[row, : uneven.length[row]])
        written, final = naive.senders(model, tokens)
        answer = int(uneven.answer_position[row])
        mean = mean_by_hand(model, uneven, name, answer if ablation == "mean-positional" else None)
        stream = final[answer] - written[name][answer] + torch.tensor(mean, dtype=final.dtype)
        logits = naive.logits(model, stream)
        right = logits[uneven.correct[row]].mean()
        wrong = logits[uneven.incorrect[row]].mean()
        np.testing.assert_allclose(found.after[0, row], float(right - wrong), **TIGHT)


@pytest.mark.parametrize("model", ["layernorm-mlp", "llama"], indirect=True)
def test_a_neurons_mean_is_its_own_over_real_tokens_alone(model, uneven):
    batches, layer, key = make_batches(model, uneven, 3), 1, "layers.1."
    total, by_position, count = 0.0, {}, 0
    for row in range(len(uneven)):
        tokens = torch.from_numpy(uneven.corrupted[row, : uneven.length[row]])
        written, _ = naive.senders(model, tokens)
        names = [name for name in model.graph.sender_names if name != "m1"]
        biases = sum(model.weights.get(f"layers.{at}.b_O", torch.zeros(1)) for at in range(2))
        x = naive._norm(model, key + "ln2", sum(written[name] for name in names) + biases)
        up = naive._plus(model, x @ model.weights[key + "W_in"], key + "b_in")
        act = naive.ACTIVATIONS[model.config.activation]
        gate = naive._plus(model, x @ model.weights[key + "W_gate"], key + "b_gate") if model.config.gated else up
        hidden = act(gate) * up if model.config.gated else act(up)
        for place, values in enumerate(hidden):
            total, count = total + values, count + 1
            by_position.setdefault(place, []).append(values)
    mean = hidden_means("mean", model, batches, [layer])[layer]
    np.testing.assert_allclose(mean[0, 0], total / count, **TIGHT)
    positional = hidden_means("mean-positional", model, batches, [layer])[layer]
    for place, values in by_position.items():
        np.testing.assert_allclose(positional[0, place], sum(values) / len(values), **TIGHT)
    assert (mean[0, 0][:, None] - mean[0, 0]).abs().add(torch.eye(mean.shape[-1])).min() > 0
    swapped = TokenPairs(**(vars(uneven) | {"clean": uneven.corrupted, "corrupted": uneven.clean}))
    of_clean = hidden_means("mean-clean", model, make_batches(model, swapped, 2), [layer])[layer]
    np.testing.assert_allclose(of_clean, mean, **TIGHT)
