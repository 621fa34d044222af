"""Every architecture, read from a checkpoint on disk: its logits are the source's, and every engine computes the same with it.

The source is what transformers (or TransformerLens, for its native models) itself makes of the checkpoint. Prompts are longer
than every window, and of different lengths.
"""

import inspect
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from builders import TIGHT, random_pairs
from checkpoints import ARCHITECTURES, NATIVES, boot_native, without_network, write_checkpoint
from naive_acdc import assert_same_as_naive, log_of
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.search.visiting_order import receivers_of
from circuitfind.execution import make_batches, prepare_ablation, run_circuit, run_masked
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.models.in_float64 import float64_throughout, widened_tables
from circuitfind.models.load import read
from circuitfind.models.quiet import quietly
from circuitfind.task.metrics import METRICS

MODELS = [*ARCHITECTURES, *NATIVES]
DTYPES = {"fp32": (torch.float32, 1e-4), "fp64": (torch.float64, 1e-9)}
THRESHOLDS = {"gemma2": 0.05, "olmoe": 0.05}
LENGTHS = (13, 16, 12)

every_model = pytest.mark.parametrize("name", MODELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What a user gives to load an architecture: a folder, written once, or an object in a dtype."""
    parent = tmp_path_factory.mktemp("architectures")

    @cache
    def get(name, dtype):
        if name in NATIVES:
            return boot_native(name, dtype=dtype)
        folder = parent / name
        return folder if folder.exists() else write_checkpoint(folder, name)

    return get


@pytest.fixture(scope="module")
def loaded(given):
    """Models by architecture and dtype, each loaded once and without a network."""

    @cache
    def get(name, dtype="fp64"):
        with without_network():
            return cf.load_model(given(name, DTYPES[dtype][0]), dtype=dtype)

    return get


@pytest.fixture(scope="module")
def original(given):
    """The same models by the libraries they come from."""

    @cache
    def get(name, dtype="fp64"):
        precision = DTYPES[dtype][0]
        with quietly(offline=True):
            from transformers import AutoModelForCausalLM

            if name in NATIVES:
                model = boot_native(name, dtype=precision).original_model
            else:
                # Its fused experts know no float64.
                plain = {"dtype": precision, "experts_implementation": "eager"}
                model = AutoModelForCausalLM.from_pretrained(given(name, precision), **plain)
        return widened_tables(model) if dtype == "fp64" else model.eval()

    return get


def prompts(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(model.config.d_vocab, (length,), generator=generator) for length in LENGTHS]


def pairs_of(model, seed=0):
    return random_pairs(model, 3, seed, shortest=12, longest=15)


def one_batch(model, seed=0):
    (batch,) = make_batches(model, pairs_of(model, seed), 3)
    return batch


def relative_error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- the same function ------------------------------------------------------------------------------------------------


def run_original(source, tokens, dtype, **inputs):
    with torch.inference_mode(), float64_throughout(dtype == "fp64"), quietly(offline=True):
        out = source(tokens, **inputs)
    return getattr(out, "logits", out)


@every_dtype
@every_model
def test_logits_equal_the_source(name, dtype, loaded, original):
    model = loaded(name, dtype)
    precision, tolerance = DTYPES[dtype]
    assert model.dtype == precision
    for tokens in prompts(model):
        theirs = run_original(original(name, dtype), tokens[None], dtype)
        assert theirs.dtype == precision
        assert relative_error(model.logits(tokens[None]), theirs) <= tolerance


def padded(rows, side):
    """A batch of prompts of different lengths as transformers takes it: ids, attention mask, positions of the last tokens."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        places = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, places], mask[number, places] = row, 1
    last = torch.tensor([len(row) - 1 if side == "right" else width - 1 for row in rows])
    return ids, mask, last


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_padded_batch_of_the_source_gives_our_last_logits_without_padding(name, side, loaded, original):
    model, source = loaded(name), original(name)
    rows = prompts(model)
    ids, mask, last = padded(rows, side)
    inputs = {"attention_mask": mask}
    if "position_ids" in inspect.signature(source.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = run_original(source, ids, "fp64", **inputs)[torch.arange(len(rows)), last]
    ours = torch.cat([model.logits(row[None])[:, -1] for row in rows])
    assert relative_error(ours, theirs) <= 1e-9


@every_dtype
@every_model
def test_the_three_checks_pass(name, dtype, given):
    precision = DTYPES[dtype][0]
    with without_network():
        model, source = read(given(name, precision), dtype=precision)
    checks = cf.check_model(model, source)
    assert len(checks) == 3
    assert all(check.passed for check in checks), "\n".join(map(str, checks))


# --- the same circuits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
@every_model
def test_dense_and_sparse_runs_of_random_circuits_are_the_same(name, ablation, loaded):
    model = loaded(name)
    batch = one_batch(model)
    prepared = prepare_ablation(ablation, model, [batch])
    masks = np.random.default_rng(0).random((3, model.graph.n_edges)) < np.array([[0.2], [0.5], [0.9]])
    dense = run_masked(model, batch.clean, prepared.writes(batch), torch.from_numpy(masks), batch.answer)
    constants = prepared.writes(batch)
    for number, mask in enumerate(masks):
        sparse = run_circuit(model, batch, constants, mask, prune_from_input=prepared.prunes_from_input)
        torch.testing.assert_close(sparse, dense[number], **TIGHT)
    assert relative_error(dense[0], dense[2]) > 0.01


@every_model
def test_incremental_runs_are_dense_runs(name, loaded):
    """Random edges are cut from the logits down, and every loss on the way is that of the circuit left."""
    model, metric = loaded(name), METRICS["logit-diff"]
    batch, rng = one_batch(model), np.random.default_rng(0)
    prepared = prepare_ablation("corrupted", model, [batch])
    found, circuits = [], []
    with torch.inference_mode():
        circuit = CurrentCircuit(model, [batch], prepared, lambda part, logits: -metric(logits, part.targets))
        for receiver in (r for block in reversed(model.graph.blocks) for r in receivers_of(model.graph, block, True)):
            visit = circuit.visit([receiver])
            if visit is None:
                circuit.drop([receiver])
                continue
            senders = [sender for sender in visit.senders if rng.random() < 0.4]
            if senders:
                losses = visit.losses_without(senders)
                found += list(losses)
                circuits += [visit.kept_without(senders[: n + 1]) for n in range(len(senders))]
                visit.cut(senders, float(losses[-1]))
            visit.finish()
        masks = torch.from_numpy(np.stack(circuits))
        dense = run_masked(model, batch.clean, prepared.writes(batch), masks, batch.answer)
        expected = -metric(dense, batch.targets).mean(-1)
    np.testing.assert_allclose(found, expected.numpy(), **TIGHT)
    assert 0 < circuit.kept.sum() < model.graph.n_edges
    assert expected.std() > 0.01


# --- the same scores and decisions ------------------------------------------------------------------------------------


def slopes(model, batch, metric):
    """Derivatives of the mean metric by the mask of every edge, where all edges are kept."""
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    n_edges = model.graph.n_edges
    with warnings.catch_warnings(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore", DeprecationWarning)  # forward_ad uses what torch itself has deprecated
        masks = forward_ad.make_dual(torch.ones(n_edges, n_edges).double(), torch.eye(n_edges).double())
        logits = run_masked(model, batch.clean, ablated, masks, batch.answer)
        return forward_ad.unpack_dual(metric(logits, batch.targets).mean(-1)).tangent.numpy()


@every_model
def test_eap_is_the_derivative_of_the_metric_by_the_mask(name, loaded):
    model, metric = loaded(name), METRICS["logit-diff"]
    expected = slopes(model, one_batch(model), metric)
    scores = ALGORITHMS["eap"](Problem(model, pairs_of(model), metric)).values
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


@every_model
def test_acdc_decides_as_the_naive_search(name, loaded):
    model, threshold = loaded(name), THRESHOLDS.get(name, 0.01)
    pairs = pairs_of(model)
    assert_same_as_naive(model, pairs, "kl", threshold)
    assert 0 < log_of(model, pairs, threshold=threshold).kept.sum() < model.graph.n_edges
