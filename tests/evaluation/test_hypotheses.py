"""Hypothesis tests of circuits that are known: the true one passes, a random one fails; from Python and the command line."""

import json

import numpy as np
import pytest
import torch
from builders import small_config

import circuitfind as cf
from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import hypotheses_of, random_circuits
from circuitfind.scores import Provenance
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

ALPHA = 0.05


LOGIT_DIFF = METRICS["logit-diff"]


def known_model() -> tuple[Transformer, np.ndarray]:
    """A model that does everything with two heads of layer 0, and their edges.

    The embedding writes into one half of the stream and the logits read the other, which heads 1 and 2 alone write into.
    """
    config = small_config(n_layers=3, n_heads=4, d_mlp=0, norm="none")
    random = Transformer.random(config, seed=0, scale=2.5, dtype=torch.float64)
    weights = {key: part.clone() for key, part in random.weights.items() if "b_" not in key}
    for layer in range(3):
        written = weights[f"layers.{layer}.W_O"].view(4, config.d_head, config.d_model)
        written[[0, 3] if layer == 0 else slice(None)] = 0
        written[..., :6] = 0
    for key in ("W_E", "W_pos"):
        weights[key][:, 6:] = 0
    weights["W_U"][:6] = 0
    model = Transformer(config, weights, name="known")
    names = [f"input->a0.h{head}<{port}>" for head in (1, 2) for port in "qkv"]
    return model, model.graph.mask([*names, "a0.h1->logits", "a0.h2->logits"])


def known_pairs(model: Transformer, n: int = 90) -> TokenPairs:
    """Prompts on which the model prefers token 0 to token 1 clearly, each beside another random one."""
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(0, model.config.d_vocab, (2, 20 * n, 6))
    logits = model.logits(torch.as_tensor(clean))[:, -1]
    best = torch.argsort(logits[:, 1] - logits[:, 0])[:n].numpy()
    answers = np.zeros((n, 1), dtype=np.int64)
    return TokenPairs.from_ids(clean[best], corrupted[:n], answers, answers + 1)


@pytest.fixture(scope="module")
def known():
    model, truth = known_model()
    return model, known_pairs(model), truth


def test_a_circuit_that_is_known_passes_every_test(known):
    model, pairs, truth = known
    found = hypotheses_of(model, pairs, Circuit(model.graph, truth), LOGIT_DIFF, reference="complement")
    assert [test.passed for test in found.tests] == [True] * 5, found.lines()
    assert found["sufficiency"].statistic == 1
    assert found["partial necessity"].adjusted < 0.001


def test_a_random_circuit_fails_every_test(known):
    model, pairs, truth = known
    other = random_circuits(model.graph, int(truth.sum()), 1, ablation="corrupted", seed=5, avoid=truth)[0]
    found = hypotheses_of(model, pairs, Circuit(model.graph, other), LOGIT_DIFF)
    assert [test.passed for test in found.tests] == [False] * 5, found.lines()
    assert found["independence"].p == 1 / 1001
    assert "pass 0 of 5" in found.lines()[0]


def test_an_idle_edge_is_found(known):
    model, pairs, truth = known
    larger = truth | model.graph.mask(["input->a1.h0<v>", "a1.h0->logits"])
    found = hypotheses_of(model, pairs, Circuit(model.graph, larger), LOGIT_DIFF, n_permutations=20)
    table = found.edges_frame()
    assert set(table["name"][table["p_adjusted"] <= ALPHA]) == {"input->a1.h0<v>", "a1.h0->logits"}
    assert table["effect"].is_monotonic_increasing
    assert not found["minimality"].passed
    some = hypotheses_of(model, pairs, Circuit(model.graph, larger), LOGIT_DIFF, n_permutations=20, edges=4)
    assert len(some.minimality.edges) == 4
    assert larger[some.minimality.edges].all()


def test_a_loss_is_turned_round(known):
    """A circuit that is better than the model beats it, also where less is better."""
    model, pairs, truth = known
    kept = truth.copy()
    kept[model.graph.edge_index("input->a0.h1<q>")] = False
    circuit, few = Circuit(model.graph, kept), {"n_random": 2, "n_permutations": 10}
    measured = [hypotheses_of(model, pairs, circuit, METRICS[name], **few) for name in ("logit-diff", "nll")]
    diff, nll = (found["equivalence"].statistic for found in measured)
    flipped = TokenPairs.from_ids(pairs.clean, pairs.corrupted, pairs.incorrect, pairs.correct)
    other = hypotheses_of(model, flipped, circuit, LOGIT_DIFF, **few)["equivalence"].statistic
    assert diff == pytest.approx(1 - other)
    assert diff < 0.5
    assert nll < 0.5


def test_results_are_the_same_bits_every_time_and_do_not_depend_on_micro_batches(known):
    model, pairs, truth = known
    circuit, few = Circuit(model.graph, truth), {"n_random": 5, "n_permutations": 50, "seed": 4}
    first = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **few).to_json()
    assert hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **few).to_json() == first
    other = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, batch_size=17, **few).to_json()
    assert [test["p"] for test in other["tests"]] == pytest.approx([test["p"] for test in first["tests"]])
    assert hypotheses_of(model, pairs, circuit, LOGIT_DIFF, **(few | {"seed": 5})).to_json() != first


def test_what_cannot_be_tested_is_refused(known):
    model, pairs, truth = known
    circuit = Circuit(model.graph, truth)
    refused = {
        "no edges": (Circuit(model.graph, np.zeros_like(truth)), LOGIT_DIFF, {}),
        "on a path": (Circuit(model.graph, model.graph.mask(["input->a0.h0<q>"])), LOGIT_DIFF, {}),
        "compares with the full model": (circuit, METRICS["kl"], {}),
        "eps=0.5: give a number above 0 and below 0.5": (circuit, LOGIT_DIFF, {"eps": 0.5}),
        "alpha=0: give a number above 0 and below 1": (circuit, LOGIT_DIFF, {"alpha": 0.0}),
        "random=0: give 1 or more": (circuit, LOGIT_DIFF, {"n_random": 0}),
        "reference='half'": (circuit, LOGIT_DIFF, {"reference": "half"}),
        "unknown correction": (circuit, LOGIT_DIFF, {"correction": "none"}),
    }
    for message, (given, metric, how) in refused.items():
        with pytest.raises((OptionError, UnknownNameError), match=message):
            hypotheses_of(model, pairs, given, metric, **how)
    most = Circuit(model.graph, ~model.graph.mask(["input->a0.h0<q>"]))
    with pytest.raises(OptionError, match="complement of the circuit holds no circuit"):
        hypotheses_of(model, pairs, most, LOGIT_DIFF, reference="complement", n_random=2)
    layout = Layout(("rest", "END"), np.ones((2, 2), dtype=bool), np.array([False, True]))
    apart = Circuit(model.graph, np.stack([truth, truth]), layout=layout)
    with pytest.raises(OptionError, match="without parts of prompts"):
        hypotheses_of(model, pairs, apart, LOGIT_DIFF)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder whose scores are kept apart by prompt."""
    from runs import run

    config = {
        "algorithm": "eap",
        "n": 16,
        "n_held_out": 6,
        "n_random": 1,
        "rule": "top",
        "value": 25,
        "parts": "prompt",
    }
    return run(config, tmp_path_factory.mktemp("evidence") / "run").folder


FEW = ("--prompts", "6", "--random", "3", "--permutations", "19", "--edges", "4")


def test_python_tests_a_circuit_on_held_out_prompts_with_its_own_metric(folder):
    model, circuit = cf.load_model("tasks-4l"), Circuit.load(folder / "circuit.json")
    few = {"n": 6, "n_random": 3, "n_permutations": 19, "edges": 4}
    found = cf.hypotheses(model, "ioi", circuit, **few)
    assert (found.metric, found.ablation, found.split, found.n_prompts) == ("logit-diff", "corrupted", "held-out", 6)
    of_kl = Circuit(circuit.graph, circuit.kept, provenance=Provenance(metric="kl", ablation="corrupted", task="ioi"))
    assert cf.hypotheses(model, "ioi", of_kl, **few).to_json()["tests"] == found.to_json()["tests"]
    with pytest.raises(OptionError, match="evaluate it on the model it was found in"):
        cf.hypotheses(cf.load_model("induction-2l"), "induction", circuit)
    frame = found.to_frame()
    assert list(frame["name"]) == [test.name for test in found.tests]
    assert len(frame) == 5


def test_the_command_line_says_and_writes_the_same(command_line, folder):
    code, out, err = command_line("hypotheses", folder, *FEW)
    assert (code, err) == (0, "")
    assert "hypothesis tests (6 held-out prompts, logit-diff, corrupted ablation; holm)" in out
    code, text, _ = command_line("hypotheses", folder / "circuit.json", *FEW, "--json")
    values = json.loads(text)
    assert code == 0
    assert [test["name"] for test in values["tests"]] == [
        "equivalence",
        "independence",
        "minimality",
        "sufficiency",
        "partial necessity",
    ]
    assert len(values["minimality"]["edges"]) == 4
    for test in values["tests"]:
        assert test["meaning"] in out
        assert test["passed"] == (test["decision"] == test["ideal"])
    code, out, err = command_line("hypotheses", folder, "--metric", "kl")
    assert code == 2
    assert "compares with the full model" in err
