"""Models whose circuit is known: the truths hold, are those of the literature, and a wrong one is found out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind import zoo
from circuitfind.errors import CircuitError, ModelError, OptionError, UnknownNameError
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task import TASKS
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.truth import Truth, read_truths, truth_of, write_truths
from circuitfind.truth.build import build
from circuitfind.truth.compiled import PROGRAMS, compile_model
from circuitfind.truth.derive import connected, derive
from circuitfind.truth.verification import EXACT, TRAINED, limits_of, verify, verify_model
from circuitfind.truth.wired import WIRED

COMPILED = [name for name in zoo.GROUND_TRUTH if name in (*WIRED, *PROGRAMS)]
FEW = 20
"""Held-out prompts; ``circuitfind verify`` takes 1,000."""

EXPECTED = {
    # Conmy et al. 2023 (arXiv:2304.14997) and their code, tokens and positions as one input, without edges inside heads.
    ("tracr-xproportion", "zero"): "input->m0 input->a1.h0<q> input->a1.h0<k> m0->a1.h0<v> a1.h0->logits",
    (
        "tracr-reverse",
        "zero",
    ): "input->a0.h0<v> input->m0 a0.h0->m0 input->m1 m0->m1 m1->m2 m2->a3.h0<q> input->a3.h0<k> "
    "input->a3.h0<v> a3.h0->logits",
    ("tracr-xproportion", "corrupted"): "input->m0 m0->a1.h0<v> a1.h0->logits",
    ("tracr-reverse", "corrupted"): "input->a3.h0<v> a3.h0->logits",
    # As they are wired.
    ("wired-induction", "zero"): "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> input->a1.h2<q> a0.h1->a1.h2<k> "
    "input->a1.h2<v> a1.h2->logits",
    ("wired-induction", "corrupted"): "input->a0.h1<v> a0.h1->a1.h2<k> input->a1.h2<v> a1.h2->logits",
    ("wired-and", "zero"): "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> input->a1.h2<q> input->a1.h2<k> "
    "input->a1.h2<v> a0.h1->m1 a1.h2->m1 m1->logits",
    ("wired-and", "corrupted"): "input->a0.h1<k> input->a0.h1<v> input->a1.h2<k> input->a1.h2<v> a0.h1->m1 a1.h2->m1 "
    "m1->logits",
    (
        "wired-or",
        "zero",
    ): "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> input->a1.h2<q> input->a1.h2<k> input->a1.h2<v> "
    "a0.h1->m1 a1.h2->m1 m1->logits",
    ("wired-backup", "corrupted"): "input->a0.h1<v> a0.h1->m0 m0->logits",
    ("wired-backup", "zero"): "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> input->m0 a0.h1->m0 input->a1.h2<q> "
    "m0->a1.h2<q> input->a1.h2<k> m0->a1.h2<k> input->a1.h2<v> m0->logits a1.h2->logits",
}
GROUPS = {
    ("wired-or", "zero"): {
        ("input->a0.h1<q>", "input->a1.h2<q>"),
        ("input->a0.h1<k>", "input->a1.h2<k>"),
        ("input->a0.h1<v>", "input->a1.h2<v>"),
        ("a0.h1->m1", "a1.h2->m1"),
    },
    ("wired-backup", "zero"): {
        ("input->a0.h1<q>", "input->a1.h2<q>"),
        ("input->a0.h1<k>", "input->a1.h2<k>"),
        ("input->a0.h1<v>", "input->a1.h2<v>"),
        ("a0.h1->m0", "a1.h2->logits"),
    },
}


def shipped(name: str, n: int = FEW):
    """A model, its task's held-out prompts, and its truths."""
    model = cf.load_model(name)
    task, truths = read_truths(zoo.folder_of(name), model.graph)
    assert task == name
    return model, tokenized_pairs(model, TASKS[task], split="held-out", n=n), truths


# --- the shipped models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPILED)
def test_the_truths_of_a_shipped_model_hold(name: str) -> None:
    model, pairs, truths = shipped(name)
    assert {"corrupted", "zero"} <= set(truths)
    for ablation, truth in truths.items():
        found = verify(model, pairs, "logit-diff", truth, EXACT)
        assert found.problems == ()
        assert (found.agreement, found.n_prompts, found.ablation) == (1.0, FEW, ablation)
        assert len(found.idle) == model.graph.n_edges - len(truth.names)
        grouped = {edge for group in truth.alternatives for edge in group}
        assert len(found.needed) == len(truth.names) - len(grouped) + len(truth.alternatives)
        assert truth.verified["prompts"] == 1000
        assert truth.verified["problems"] == []


@pytest.mark.parametrize(("name", "ablation"), EXPECTED)
def test_a_truth_is_the_published_or_the_wired_circuit(name: str, ablation: str) -> None:
    truth = truth_of(cf.load_model(name), TASKS[name], ablation)
    assert truth is not None
    assert set(truth.names) == set(EXPECTED[name, ablation].split())
    assert set(truth.alternatives) == GROUPS.get((name, ablation), set())


@pytest.mark.parametrize("name", [name for name in COMPILED if name != "tracr-dyck"])
def test_the_truth_follows_from_the_weights_and_other_prompts_of_the_task(name: str) -> None:
    model, _, truths = shipped(name)
    pairs = tokenized_pairs(model, TASKS[name], split="train", n=60, seed=4)
    for ablation in ("corrupted", "zero"):
        found = derive(model, pairs, "logit-diff", ablation, "again")
        assert (found.edges == truths[ablation].edges).all()
        assert found.alternatives == truths[ablation].alternatives


@pytest.mark.parametrize("name", COMPILED)
def test_there_are_a_thousand_held_out_pairs_of_different_lengths(name: str) -> None:
    pairs = TASKS[name].pairs(1000, split="held-out")
    assert len({len(pair.clean) for pair in pairs}) > 2


def test_a_wired_model_is_built_again_bit_by_bit(tmp_path: Path) -> None:
    for found in build("wired-and", tmp_path, 40):
        assert found.passed
    for file in ("weights.safetensors", "tokenizer.json"):
        assert (tmp_path / file).read_bytes() == (zoo.folder_of("wired-and") / file).read_bytes()
    graph = cf.load_model("wired-and").graph
    (_, made), (_, known) = read_truths(tmp_path, graph), read_truths(zoo.folder_of("wired-and"), graph)
    assert {key: truth.names for key, truth in made.items()} == {key: truth.names for key, truth in known.items()}
    for name, make in WIRED.items():
        assert make().checksum() == cf.load_model(name).checksum()
    assert zoo.zoo_config("wired-and", tmp_path)["accuracy"] == zoo.zoo_config("wired-and")["accuracy"]


def test_compiling_without_tracr_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tracr", None)
    with pytest.raises(
        ModelError, match=r"needs tracr .*pip install 'circuitfind\[tracr\]'.*shipped model needs nothing"
    ):
        compile_model("tracr-hist")
    with pytest.raises(UnknownNameError, match="Did you mean 'tracr-hist'"):
        build("tracr-hits")


def test_idle_heads_are_not_silent() -> None:
    for name in WIRED:
        model, pairs, truths = shipped(name)
        found = verify(model, pairs, "logit-diff", truths["corrupted"], EXACT)
        assert 1e-3 < max(abs(effect.lost) for effect in found.idle) < 0.2
        assert min(abs(effect.lost) for effect in found.needed) > 20 * max(abs(effect.lost) for effect in found.idle)


# --- redundancy -------------------------------------------------------------------------------------------------------


def test_either_input_of_the_or_is_enough_and_single_cuts_see_neither() -> None:
    model, pairs, _ = shipped("wired-or")
    for ablation in ("zero", "corrupted"):
        scores = cf.discover(model, "wired-or", algorithm="exact", ablation=ablation, pairs=pairs)
        single = dict(zip(model.graph.edge_names(), scores.values, strict=True))
        assert abs(single["a0.h1->m1"]) < 1e-4 > abs(single["a1.h2->m1"])
        assert single["m1->logits"] > 10
        assert abs(_lost(model, "wired-or", pairs, ablation, "a0.h1")) < 1e-3
        assert abs(_lost(model, "wired-or", pairs, ablation, "a1.h2")) < 1e-3
        assert _lost(model, "wired-or", pairs, ablation, "a0.h1", "a1.h2") > 10
    sides = cf.discover(model, "wired-or", algorithm="acdc", threshold=0.01, pairs=pairs).decided
    kept = {model.graph.edge_name(int(edge)) for edge in np.flatnonzero(sides)}
    assert len(kept & {"a0.h1->m1", "a1.h2->m1"}) == 1


def test_the_backup_acts_when_the_first_head_is_cut_and_not_before() -> None:
    model, pairs, _ = shipped("wired-backup")
    assert abs(_lost(model, "wired-backup", pairs, "zero", "a0.h1")) < 0.1
    assert abs(_lost(model, "wired-backup", pairs, "zero", "a1.h2")) < 1e-3
    assert _lost(model, "wired-backup", pairs, "zero", "a0.h1", "a1.h2") > 5
    written = [_size_of_write(model, pairs, cut) for cut in (False, True)]
    assert written[0] < 1e-6
    assert written[1] == pytest.approx(1, abs=1e-6)


def _lost(model, task: str, pairs, ablation: str, *nodes: str) -> float:
    """What knocking some nodes out together costs."""
    found = cf.ablate(model, task, list(nodes), ablation=ablation, pairs=pairs)
    return float((found.before - found.after[0]).mean())


def _size_of_write(model, pairs, cut: bool) -> float:
    """How much the backup head writes at the answer of one prompt, with the first head silenced or not."""
    if cut:
        silent = torch.zeros_like(model.weights["layers.0.W_O"])
        model = model.with_weights({**model.weights, "layers.0.W_O": silent})
    outputs = cf.transformer.sender_outputs(model, torch.from_numpy(pairs.clean[:1, : pairs.length[0]]))
    return float(outputs[model.graph.head(1, 2), 0, int(pairs.answer_position[0])].norm())


# --- a wrong truth is found out ---------------------------------------------------------------------------------------


def changed(truth: Truth, *, without: str = "", extra: str = "") -> Truth:
    edges = truth.edges.copy()
    if without:
        edges[truth.graph.edge_index(without)] = False
    if extra:
        edges[truth.graph.edge_index(extra)] = True
    return replace(truth, edges=edges)


def test_a_missing_edge_and_an_edge_too_many_are_found() -> None:
    model, pairs, truths = shipped("tracr-reverse")
    truth = truths["zero"]
    missing = verify(model, pairs, "logit-diff", changed(truth, without="input->m1"))
    assert not missing.passed
    text = " ".join(missing.problems)
    for part in (
        "KL to the full model is",
        "agrees with the full model",
        "faithfulness",
        "input->m1 alone changes the full",
    ):
        assert part in text
    (problem,) = verify(model, pairs, "logit-diff", changed(truth, extra="input->logits")).problems
    assert problem.startswith("cutting input->logits moves the circuit by only")


def test_alternatives_must_be_named_and_be_alternatives() -> None:
    model, pairs, truths = shipped("wired-or")
    truth = truths["corrupted"]
    unnamed = verify(model, pairs, "logit-diff", replace(truth, alternatives=()))
    assert len(unnamed.problems) == 6
    assert all("moves the circuit by only" in problem for problem in unnamed.problems)
    model, pairs, truths = shipped("wired-and")
    invented = replace(truths["corrupted"], alternatives=(("a0.h1->m1", "a1.h2->m1"),))
    assert any(
        "cutting a0.h1->m1 alone changes" in problem
        for problem in verify(model, pairs, "logit-diff", invented).problems
    )


def test_trained_models_are_asked_for_agreement_faithfulness_and_a_margin() -> None:
    model, pairs, truths = shipped("wired-induction")
    truth = truths["corrupted"]
    assert verify(model, pairs, "logit-diff", truth, TRAINED).passed
    assert verify(model, pairs, "logit-diff", changed(truth, without="a0.h1->a1.h2<k>"), TRAINED).problems
    loud = verify(model, pairs, "logit-diff", changed(truth, extra="a0.h0->logits"), TRAINED)
    assert any("and an edge that is not needed up to" in problem for problem in loud.problems)
    assert limits_of("wired-and") is EXACT


def test_what_cannot_be_read_off_the_weights_is_refused() -> None:
    model = small_model(norm="none")
    assert connected(model).all()
    with pytest.raises(ModelError, match="has norms"):
        derive(small_model(), random_pairs(small_model()), "logit-diff", "zero", "")
    with pytest.raises(CircuitError, match="neither much nor little"):
        derive(small_model(norm="none", scale=0.5), random_pairs(model, 20), "logit-diff", "zero", "")


# --- the file and the command -----------------------------------------------------------------------------------------


def test_truths_come_back_from_their_file(tmp_path: Path) -> None:
    model, _, truths = shipped("wired-backup")
    write_truths(tmp_path, "wired-backup", truths)
    assert (tmp_path / "truth.json").read_bytes() == (zoo.folder_of("wired-backup") / "truth.json").read_bytes()
    values = json.loads((tmp_path / "truth.json").read_text())
    (tmp_path / "truth.json").write_text(json.dumps({**values, "schema": "circuitfind-truth/0"}))
    with pytest.raises(CircuitError, match="has schema 'circuitfind-truth/0'"):
        read_truths(tmp_path, model.graph)


def test_a_truth_belongs_to_its_model_its_task_and_its_ablation() -> None:
    model = cf.load_model("tracr-hist")
    assert truth_of(model, TASKS["tracr-hist"], "zero").ablation == "zero"
    assert truth_of(model, TASKS["tracr-hist"], "optimal") is None
    assert truth_of(model, TASKS["tracr-sort"], "zero") is None
    assert truth_of(cf.load_model("tasks-4l"), TASKS["ioi"], "zero") is None


def test_verify_prints_a_row_for_every_truth(command_line, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = command_line("verify", "tracr-hist", "wired-and", "--prompts", FEW)
    assert code == 0
    assert sum(line.endswith("ok") for line in out.splitlines()) == 6
    code, out, _ = command_line("verify", "tracr-hist", "--prompts", FEW, "--json")
    assert [row["ablation"] for row in json.loads(out)] == ["corrupted", "zero", "mean"]
    wrong = [replace(one, problems=("the circuit is wrong",)) for one in verify_model("tracr-hist", FEW)]
    monkeypatch.setattr("circuitfind.truth.verification.verify_model", lambda *words, **options: wrong)
    code, out, _ = command_line("verify", "tracr-hist")
    assert code == 1
    assert out.count("FAIL") == out.count("  the circuit is wrong") == 3


def test_a_model_without_a_truth_is_refused(command_line) -> None:
    with pytest.raises(OptionError, match=r"nothing is known of the circuit of 'tasks-4l'.*tracr-reverse"):
        verify_model("tasks-4l")
    assert command_line("verify", "ioi")[0] == 2


@pytest.mark.parametrize(
    ("task", "ablation", "algorithm"),
    [
        ("tracr-reverse", "corrupted", ("--algorithm", "acdc", "--option", "threshold=0.05")),
        ("wired-induction", "zero", ("--algorithm", "acdc", "--option", "threshold=0.05")),
        ("wired-induction", "zero", ()),  # the default, which is another one than under corrupted ablation
    ],
)
def test_discovery_takes_the_tasks_own_model_and_finds_its_circuit(
    command_line, tmp_path, monkeypatch, task, ablation, algorithm
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*algorithm, "--ablation", ablation, "--prompts", 32, "--held-out", 16)
    code, _, err = command_line("discover", task, *words, "--random", 2, "--out", "run")
    assert (code, err) == (0, "")
    circuit = cf.Circuit.load(tmp_path / "run/circuit.json")
    assert circuit.provenance.model == task
    assert (circuit.kept == truth_of(cf.load_model(task), TASKS[task], ablation).edges).all()
    assert "</svg>" in (tmp_path / "run/circuit.svg").read_text()


@pytest.mark.parametrize(
    ("name", "layers", "heads", "d_mlp", "task", "edges"),
    [
        ("openai-community/gpt2", 12, 12, 4, "ioi", 963),  # counts of Conmy et al.'s code, without edges inside heads
        ("gpt2", 12, 12, 4, "greater-than", 235),
        ("attn-only-4l", 4, 8, 0, "docstring", 24),
    ],
)
def test_published_circuits_are_the_truth_of_the_models_they_were_found_in(name, layers, heads, d_mlp, task, edges):
    config = TransformerConfig(layers, heads, 4, 2, d_mlp, 10, 8)
    truth = truth_of(Transformer.random(config, name=name), TASKS[task], "corrupted")
    assert truth.edges.sum() == edges
    assert truth_of(Transformer.random(config, name="other"), TASKS[task], "corrupted") is None
