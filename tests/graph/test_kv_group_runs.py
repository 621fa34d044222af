"""Ports by group in models, searches, files, pictures and whole runs."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model
from checkpoints import write_checkpoint
from grouped import GRAPHS, GROUPED, by_head, heads_of, some_scores
from hypothesis import given
from hypothesis import strategies as st
from naive_acdc import acdc_order, assert_same_as_naive
from picture_text import picture_text

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import ModelError, OptionError
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.parquet import read_parquet, write_parquet
from circuitfind.graph import ComputationGraph
from circuitfind.graph.kv_groups import split_by_head
from circuitfind.rendering.circuits import circuit_dot
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import top_edges
from circuitfind.task.metrics import METRICS

SMALL = ComputationGraph(2, 4, n_kv_groups=2)


@pytest.fixture(params=GROUPED)
def model(request):
    return small_model(**SHAPES[request.param])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_circuit_is_the_one_with_a_port_per_head_whose_edges_into_a_group_are_tied(model, share):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    (batch,) = make_batches(model, pairs, len(pairs))
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    masks = torch.from_numpy(np.random.default_rng(0).random((3, model.graph.n_edges)) < share)
    tied = run_masked(other, batch.clean, ablated, masks[:, made_of], batch.answer)
    torch.testing.assert_close(
        run_masked(model, batch.clean, ablated, masks, batch.answer), tied, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("algorithm", ["eap", "eap-ig-inputs"])
def test_a_groups_score_is_the_sum_of_its_heads_scores(model, algorithm):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    scores = ALGORITHMS[algorithm](Problem(model, pairs, METRICS["logit-diff"])).values
    per_head = ALGORITHMS[algorithm](Problem(other, pairs, METRICS["logit-diff"])).values
    summed = np.zeros(model.graph.n_edges)
    np.add.at(summed, made_of, per_head)
    np.testing.assert_allclose(scores, summed, rtol=1e-8, atol=1e-10)


def test_cutting_an_edge_into_a_group_is_not_the_sum_of_cutting_it_into_each_head(model):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    scores = ALGORITHMS["exact"](Problem(model, pairs, METRICS["logit-diff"])).values
    summed = np.zeros(model.graph.n_edges)
    np.add.at(summed, made_of, ALGORITHMS["exact"](Problem(other, pairs, METRICS["logit-diff"])).values)
    shared = np.bincount(made_of) > 1
    np.testing.assert_allclose(scores[~shared], summed[~shared], rtol=1e-8, atol=1e-10)
    assert np.abs(scores - summed)[shared].max() > 1e-3


@pytest.mark.parametrize(
    ("metric", "ablation", "options"),
    [
        ("kl", "corrupted", {"direct_edges": True}),
        ("nll", "zero", {"absolute": True}),
        ("kl", "mean", {"heads": "low-to-high"}),
    ],
    ids=str,
)
def test_acdc_decides_as_the_naive_search_with_every_option(model, metric, ablation, options):
    pairs = random_pairs(model)
    for threshold in (1e-6, 0.02):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, batch_size=2, **options)


def test_acdc_refuses_to_cut_q_k_and_v_of_a_head_together(model):
    with pytest.raises(OptionError, match="split_qkv=true, or a port per head"):
        ALGORITHMS["acdc"](Problem(model, random_pairs(model), METRICS["kl"]), split_qkv=False)


def test_the_naive_search_visits_each_groups_port_once():
    order = acdc_order(small_model(**SHAPES["llama-groups"]), False, True, False)
    assert [name for name, _ in order if name.startswith("a1")] == [
        *("a1.kv1<v>", "a1.kv0<v>", "a1.kv1<k>", "a1.kv0<k>"),
        *("a1.h3<q>", "a1.h2<q>", "a1.h1<q>", "a1.h0<q>"),
    ]


DESCRIPTION = json.loads((Path(cf.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8"))


def test_circuits_and_scores_come_back_from_their_files(tmp_path):
    scores = some_scores(SMALL)
    circuit = top_edges(scores, 60)
    circuit.save(tmp_path / "circuit.json")
    jsonschema.validate(json.loads((tmp_path / "circuit.json").read_text()), DESCRIPTION)
    again = Circuit.load(tmp_path / "circuit.json")
    assert again.graph == SMALL
    assert (again.kept == circuit.kept).all()
    assert again.edges == circuit.edges
    scores.save(tmp_path / "scores.safetensors")
    write_parquet(scores, tmp_path / "scores.parquet")
    for loaded in (
        EdgeScores.load(tmp_path / "scores.safetensors"),
        read_parquet(tmp_path / "scores.parquet"),
    ):
        assert loaded.graph == SMALL
        assert (loaded.values == scores.values).all()


@given(GRAPHS, st.integers(0, 10**6))
def test_split_by_head_an_edge_leads_to_each_head_of_its_group_that_sends_something(graph, seed):
    circuit = top_edges(some_scores(graph, seed), graph.n_edges // 3)
    other, kept, from_edge = split_by_head(graph, circuit.kept)
    sending = {row["source"] for row in circuit.edges}
    expected = {
        f"{row['source']}->{node}" + (f"<{row['port']}>" if row["port"] else "")
        for row in circuit.edges
        for node in heads_of(graph, row["target"])
        if node in sending or node == "logits"
    }
    assert set(other.edge_names(np.flatnonzero(kept))) == expected
    assert (other.prune(kept, from_input=True) == kept).all()
    assert (circuit.kept[from_edge(np.flatnonzero(kept))]).all()


def test_eap_ig_files_have_an_edge_into_a_group_for_each_of_its_heads_with_its_score():
    circuit = top_edges(some_scores(SMALL), 70)
    values = to_eap_ig(circuit, d_model=8)
    assert len(values["edges"]) == ComputationGraph(2, 4).n_edges
    number = SMALL.edge_index("m0->a1.kv1<v>")
    for head in (2, 3):
        assert values["edges"][f"m0->a1.h{head}<v>"]["score"] == circuit.scores[number]
    kept = {name for name, edge in to_eap_ig(circuit, d_model=8, all_edges=False)["edges"].items()}
    assert kept == {name for name, edge in values["edges"].items() if edge["in_graph"]}


@pytest.mark.parametrize("detail", ["ports", "heads", "layers"])
def test_a_picture_shows_an_edge_into_a_group_at_each_of_its_heads_and_says_so(detail):
    circuit = top_edges(some_scores(SMALL), 70)
    dot = circuit_dot(circuit, detail=detail)
    assert "an edge into keys or values that heads share" in picture_text(dot)
    assert "kv" not in dot.replace("keys", "")
    assert "heads share" not in circuit_dot(top_edges(some_scores(ComputationGraph(2, 4)), 70), detail=detail)


def test_ports_by_group_are_refused_where_there_are_no_groups():
    with pytest.raises(ModelError, match=r"every head has its own; use kv_ports 'head'"):
        cf.load_model("induction-2l", kv_ports="group")
    with pytest.raises(ModelError, match="attention is one node in each layer"):
        small_model(**SHAPES["gemma2"]).with_kv_ports("group")
    with pytest.raises(OptionError, match="unknown kv_ports 'both'; use head or group"):
        cf.load_model("induction-2l", kv_ports="both")


def test_the_model_says_how_its_keys_and_values_are_cut_and_shares_its_tensors(model):
    other = model.with_kv_ports("head")
    assert other.with_kv_ports("group").source == other.source + ", with keys and values by group"
    assert other.with_kv_ports(None) is other
    assert all(other.weights[key].data_ptr() == tensor.data_ptr() for key, tensor in model.weights.items())


def test_a_circuit_is_evaluated_only_on_a_model_with_its_ports(model):
    circuit = top_edges(some_scores(model.graph), 10)
    with pytest.raises(OptionError, match="load the model with kv_ports='group'"):
        cf.evaluate(model.with_kv_ports("head"), "ioi", circuit)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("kv") / "llama", "llama")


@pytest.mark.parametrize("algorithm", ["eap", "acdc"])
def test_a_run_with_ports_by_group_can_be_measured_replayed_drawn_and_exported(
    command_line, checkpoint, algorithm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    few = ("--prompts", "3", "--held-out", "2", "--random", "1", "--anyway", "--out", "run")
    rule = ("--edges", "40") if algorithm == "eap" else ("--option", "threshold=0.0001")
    by_group = ("--model", checkpoint, "--kv-ports", "group")
    code, _, err = command_line("discover", "induction", *by_group, "-a", algorithm, *rule, *few)
    assert code == 0, err
    circuit = json.loads((tmp_path / "run/circuit.json").read_text())
    assert circuit["graph"]["n_kv_groups"] == 2
    assert circuit["provenance"]["model_source"].endswith("keys and values by group")
    assert json.loads((tmp_path / "run/config.json").read_text())["kv_ports"] == "group"
    for command in (
        ("evaluate", "run", "--prompts", "2", "--random", "1"),
        ("render", "run"),
        ("export", "run", "out.json"),
    ):
        code, _, err = command_line(*command)
        assert code == 0, err
    if algorithm == "acdc":
        assert command_line("replay", "run")[0] == 0
    assert command_line("check-model", *by_group[1:])[0] == 0
