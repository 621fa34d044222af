"""Files of other tools: MIB submissions written and checked, EAP-IG's importances read and chosen from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_pairs, small_model

import circuitfind as cf
from circuitfind.circuit import Circuit, by_query_head, prune
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats import load_circuit, open_circuit, read_scores
from circuitfind.formats.eap_ig import from_eap_ig, importances_of, to_eap_ig
from circuitfind.formats.mib import FRACTIONS, MODELS, PAIRS, TASKS, pair_name, write_pair
from circuitfind.formats.mib_check import check_submission
from circuitfind.graph import ComputationGraph
from circuitfind.graph.kv_groups import split_blocks
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import best_edges

GPT2 = MODELS["gpt2"].graph
SMALL = ComputationGraph(2, 3)


def some_scores(graph=GPT2, seed=0, **about) -> EdgeScores:
    known = Provenance(**({"ablation": "corrupted"} | about))
    return EdgeScores(graph, np.random.default_rng(seed).normal(size=graph.n_edges), known)


def importances(graph=SMALL, seed=0, **edges) -> dict:
    """EAP-IG's JSON of a graph before a circuit is chosen: scores, no edge marked."""
    empty = np.zeros(graph.n_edges, dtype=bool)
    values = to_eap_ig(Circuit(graph, empty, some_scores(graph, seed).values), d_model=8)
    for name, score in edges.items():
        values["edges"][name]["score"] = score
    return values


def written(tmp_path, values, name="graph.json"):
    path = tmp_path / name
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """A submission of two pairs on two models, one of each kind."""
    folder = tmp_path_factory.mktemp("mib") / "submission"
    write_pair(folder, "ioi_gpt2", some_scores())
    blocks = ComputationGraph(26, 1, whole_attention=True)
    write_pair(folder, "arc-easy_gemma2", some_scores(blocks), circuits="absolute")
    return folder


def messages(found, level="error"):
    return [finding.message for finding in found.findings if finding.level == level]


# --- writing a submission ---------------------------------------------------------------------------------------------


def test_the_benchmarks_models_have_the_edge_counts_of_its_evaluator():
    counts = {name: model.graph.n_edges for name, model in MODELS.items()}
    assert counts == {"gpt2": 32491, "qwen2.5": 179749, "gemma2": 74218, "llama3": 1592881}


def test_importances_have_every_edge_with_its_score_and_the_keys_of_the_format(submission):
    (path,) = (submission / "ioi_gpt2").iterdir()
    values = json.loads(path.read_text())
    assert values["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert len(values["nodes"]) == 158
    assert {name: edge["score"] for name, edge in values["edges"].items()} == dict(
        zip(GPT2.edge_names(), some_scores().values.tolist(), strict=True)
    )
    assert all(type(edge["in_graph"]) is bool for edge in values["edges"].values())


def test_circuits_are_the_best_edges_of_exactly_the_shares_of_the_benchmark(tmp_path):
    scores = some_scores()
    folder = write_pair(tmp_path, "ioi_gpt2", scores, circuits="both")
    for absolute, place in ((True, "abs-true"), (False, "abs-false")):
        kept = {}
        for path in (folder / place).iterdir():
            circuit = load_circuit(path)
            kept[circuit.n_edges] = circuit.kept
            assert (prune(GPT2, circuit.kept, "corrupted") == circuit.kept).all()
        assert sorted(kept) == [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245]
        assert (kept[324] == best_edges(scores, 324, absolute=absolute).kept).all()
    assert len(FRACTIONS) == 9


def test_a_whole_attention_block_is_written_as_all_its_heads(submission):
    blocks = ComputationGraph(26, 1, whole_attention=True)
    scores = some_scores(blocks)
    circuit = by_query_head(Circuit(blocks, np.ones(blocks.n_edges, dtype=bool), scores.values), 8)
    assert circuit.graph == MODELS["gemma2"].graph
    at = dict(zip(circuit.graph.edge_names(), circuit.scores, strict=True))
    for name in ("a0->a3<k>", "input->a0<v>", "m3->a25<q>", "a7->m7", "a25->logits", "m2->m9"):
        wanted = scores.values[blocks.edge_index(name)]
        source, _, target = name.partition("->")
        sources = [f"{source}.h{head}" for head in range(8)] if source.startswith("a") else [source]
        layer, _, port = target.partition("<")
        targets = [f"{layer}.h{head}<{port}" for head in range(8)] if port else [target]
        assert {at[f"{one}->{other}"] for one in sources for other in targets} == {wanted}
    sizes = sorted(load_circuit(path).n_edges for path in (submission / "arc-easy_gemma2").iterdir())
    assert sizes == [int(fraction * 74218) for fraction in FRACTIONS]


def test_splitting_blocks_keeps_exactly_the_edges_of_kept_blocks():
    blocks = ComputationGraph(3, 1, parallel=True, whole_attention=True)
    kept = np.random.default_rng(0).random(blocks.n_edges) < 0.5
    by_head, split, from_edge = split_blocks(blocks, kept, 4)
    edges = np.arange(by_head.n_edges)
    for edge, name in zip(edges, by_head.edge_names(), strict=True):
        merged = "->".join(
            "".join(part.split(".h")[0] + part[part.find("<") :] * ("<" in part)) for part in name.split("->")
        )
        assert from_edge(edges)[edge] == blocks.edge_index(merged)
    assert (split == kept[from_edge(edges)]).all()
    assert set(np.unique(from_edge(edges))) == set(range(blocks.n_edges))


def test_whole_blocks_cannot_be_exported_without_the_number_of_heads():
    blocks = ComputationGraph(2, 1, whole_attention=True)
    with pytest.raises(OptionError, match="give n_heads"):
        to_eap_ig(Circuit(blocks, np.ones(blocks.n_edges, dtype=bool)), d_model=8)
    again = from_eap_ig(to_eap_ig(Circuit(blocks, np.ones(blocks.n_edges, dtype=bool)), d_model=8, n_heads=3))
    assert again.graph == SMALL
    assert again.kept.all()


@pytest.mark.parametrize(
    ("task", "model", "pair"),
    [
        ("ioi", "gpt2", "ioi_gpt2"),
        ("ioi", "openai-community/gpt2", "ioi_gpt2"),
        ("arc_easy", "google/gemma-2-2b", "arc-easy_gemma2"),
        ("mcqa", "Qwen/Qwen2.5-0.5B", "mcqa_qwen2.5"),
        ("arithmetic-addition", "meta-llama/Llama-3.1-8B", "arithmetic-addition_llama3"),
    ],
)
def test_names_of_tasks_and_models_are_mapped_to_the_benchmarks(task, model, pair):
    assert pair_name(task, model) == pair
    assert pair in PAIRS
    assert task.replace("_", "-") in TASKS


@pytest.mark.parametrize(("task", "model"), [("ioi", "tasks-4l"), ("greater-than", "gpt2"), ("mcqa", "gpt2")])
def test_what_is_no_pair_of_the_benchmark_is_asked_for_by_name(task, model):
    with pytest.raises(OptionError, match="--pair"):
        pair_name(task, model)


@pytest.mark.parametrize(
    ("name", "scores", "options", "message"),
    [
        (
            "ioi_gpt2",
            some_scores(SMALL),
            {},
            "12 layers x 12 heads, and these scores are of one with 2 layers x 3 heads",
        ),
        ("ioi_gpt2", some_scores(replace(GPT2, has_mlp=False)), {}, "without MLPs"),
        ("mine_own", some_scores(SMALL), {}, "d_model"),
        ("ioi_gpt2", some_scores(), {"circuits": "all"}, "signed, absolute, both"),
        ("ioigpt2", some_scores(), {}, "TASK_MODEL"),
        ("../a_b", some_scores(), {}, "TASK_MODEL"),
    ],
)
def test_a_pair_that_cannot_be_is_refused_and_nothing_is_written(tmp_path, name, scores, options, message):
    with pytest.raises(OptionError, match=message):
        write_pair(tmp_path / "out", name, scores, **options)
    assert not (tmp_path / "out").exists()


def test_a_pair_that_exists_is_replaced_whole_and_only_on_request(tmp_path):
    write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8, circuits="signed")
    with pytest.raises(OptionError, match="--force"):
        write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8)
    folder = write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8, force=True)
    assert [path.name for path in folder.iterdir()] == ["importances.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a_b"]


# --- checking one -----------------------------------------------------------------------------------------------------


def test_what_is_written_passes_without_a_warning(submission):
    found = check_submission(submission)
    assert found.passed
    assert found.findings == []
    assert dict(found.kinds) == {"arc-easy_gemma2": "circuits", "ioi_gpt2": "importances"}
    table = "\n".join(found.lines())
    assert "32,491" in table
    assert "2 pairs, 0 errors, 0 warnings: it can be loaded" in table


def broken(tmp_path, change):
    """A submission of one pair whose file was changed."""
    folder = tmp_path / "broken"
    path = folder / "ioi_gpt2" / "importances.json"
    path.parent.mkdir(parents=True)
    values = to_eap_ig(Circuit(GPT2, np.zeros(GPT2.n_edges, dtype=bool), some_scores().values), d_model=768)
    change(values)
    path.write_text(json.dumps(values))
    return check_submission(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("nodes"), "lacks nodes"),
        (lambda v: v["cfg"].pop("d_model"), "cfg lacks d_model"),
        (lambda v: v["cfg"].update(n_layers=11), "and the pair's model has"),
        (lambda v: v["cfg"].update(n_heads="12"), "whole numbers"),
        (lambda v: v.update(edges=[]), "edges is not an object"),
        (lambda v: v["edges"].update({"m3->a0.h0<q>": {"score": 1.0, "in_graph": True}}), "m3->a0.h0<q>"),
        (lambda v: v["edges"]["m0->m1"].pop("score"), "without a finite score: m0->m1"),
        (lambda v: v["edges"]["m0->m1"].update(score=float("nan")), "without a finite score: m0->m1"),
        (lambda v: v["edges"]["m0->m1"].update(in_graph=1), "without in_graph: true or false: m0->m1"),
        (lambda v: v["nodes"].update({"m12": {"in_graph": True}}), "nodes that the model does not have: m12"),
        (lambda v: v["nodes"].update({"m1": {}}), "nodes without in_graph: m1"),
    ],
)
def test_what_the_loader_would_not_take_is_an_error(tmp_path, change, message):
    found = broken(tmp_path, change)
    assert not found.passed
    assert any(message in text for text in messages(found))


def test_missing_edges_and_too_few_tasks_and_models_are_warnings(tmp_path):
    found = broken(tmp_path, lambda values: values["edges"].pop("m0->m1"))
    assert found.passed
    assert messages(found, "warning") == [
        "1 of 32,491 edges are not listed, and get score 0",
        "only 1 task; the leaderboard asks for at least 2",
        "only 1 model; the leaderboard asks for at least 2",
    ]


def test_folders_and_numbers_of_files_are_held_against_the_evaluator(tmp_path):
    for name in ("ioi_gtp2", "mcqa_gpt2", "ioi_llama3"):
        (tmp_path / name).mkdir()
    found = check_submission(tmp_path)
    errors = messages(found)
    assert any("did you mean ioi_gpt2?" in text for text in errors)
    assert sum("no such pair" in text for text in errors) == 2
    assert sum("0 circuit files" in text for text in errors) == 3
    assert messages(check_submission(tmp_path / "mcqa_gpt2")) == [
        "no folder is a pair of the benchmark, so nothing would be evaluated"
    ]
    with pytest.raises(OptionError, match="not a folder"):
        check_submission(tmp_path / "nowhere")


def test_a_circuit_larger_than_its_share_is_an_error_and_missing_ones_move_the_axis(tmp_path):
    folder = write_pair(tmp_path, "ioi_gpt2", some_scores(), circuits="signed")
    (folder / "edges-0.001.json").unlink()
    found = check_submission(tmp_path)
    assert any(
        "8 circuits: the evaluator puts them at the first 8 of nine shares" in text
        for text in messages(found, "warning")
    )
    assert "64 edges; at 0.1 % of 32,491 it may have 32" in messages(found)
    assert len(messages(found)) == 8


def test_one_half_of_two_is_an_error_and_pickles_are_not_opened(tmp_path):
    folder = write_pair(tmp_path, "ioi_gpt2", some_scores(), circuits="both")
    (folder / "abs-true").rename(folder / "else")
    for place in (folder / "abs-false", folder / "else"):
        for path in place.iterdir():
            path.unlink()
    (folder / "abs-false" / "importances.pt").write_bytes(b"not even a pickle")
    (folder / "abs-false" / "notes.txt").write_text("")
    found = check_submission(tmp_path)
    assert messages(found) == ["one sub-folder of abs-true and abs-false; give both, or none"]
    warnings = " ".join(messages(found, "warning"))
    assert "does not look into this folder" in warnings
    assert "pickled, which is not read here" in warnings
    assert "neither .json nor .pt" in warnings
    assert found.files[0].listed is None


# --- reading importances ----------------------------------------------------------------------------------------------


def test_a_circuit_of_importances_is_that_of_their_scores(tmp_path):
    values = importances()
    chosen = importances_of(values).select("top", 40)
    assert (chosen.kept == best_edges(some_scores(SMALL), 40).kept).all()
    assert (importances_of(values).select("top", 40, absolute=False).kept != chosen.kept).any()
    opened, settings = open_circuit(written(tmp_path, values), "threshold", 1.0)
    scores = some_scores(SMALL).values
    assert (opened.kept == prune(SMALL, np.abs(scores) >= 1.0, "corrupted")).all()
    assert settings == {}


def test_importances_without_a_rule_are_refused_with_the_rules(tmp_path):
    path = written(tmp_path, importances())
    with pytest.raises(OptionError, match=r"marks no edge .* --edges N"):
        open_circuit(path)
    some_scores(SMALL).save(tmp_path / "scores.safetensors")
    with pytest.raises(OptionError, match=r"scores and no circuit; .* --edges N"):
        open_circuit(tmp_path / "scores.safetensors")
    with pytest.raises(OptionError, match="none of top"):
        read_scores(path).select("best", 3)
    marked = importances()
    marked["edges"]["input->logits"]["in_graph"] = True
    assert open_circuit(written(tmp_path, marked))[0].n_edges == 1


@pytest.mark.parametrize("rule", [("top", 30), ("threshold", 2.5), ("greedy", 30)])
def test_an_edge_without_a_score_is_always_kept(rule):
    unscored = {"m0->a1.h1<k>": None, "input->logits": float("nan"), "a1.h1->logits": None, "input->m0": None}
    found = importances_of(importances(**unscored))
    circuit = found.select(*rule)
    for name in unscored:
        assert name in circuit
        assert circuit.scores[SMALL.edge_index(name)] == 0
    if rule[0] != "threshold":
        assert circuit.n_edges == 30


def node_level(**scores) -> dict:
    values = importances()
    for edge in values["edges"].values():
        edge["score"] = 0.0
    for name, score in scores.items():
        values["nodes"][name.replace("_", ".")]["score"] = score
    return values


def test_a_node_level_file_gives_the_circuit_between_its_best_nodes():
    values = node_level(
        input=float("nan"), a0_h0=3.0, a0_h1=-5.0, a0_h2=0.1, m0=2.0, a1_h0=0.2, a1_h1=4.0, a1_h2=0.3, m1=0.0
    )
    circuit = importances_of(values).select("nodes", 3)
    assert circuit.nodes == ["input", "a0.h0", "a0.h1", "a1.h1", "logits"]
    wanted = {
        edge["name"]
        for edge in Circuit(SMALL, np.ones(SMALL.n_edges, dtype=bool)).edges
        if {edge["source"], edge["target"]} <= set(circuit.nodes)
    }
    assert {edge["name"] for edge in circuit.edges} == wanted
    signed = importances_of(values).select("nodes", 3, absolute=False)
    assert signed.nodes == ["input", "a0.h0", "m0", "a1.h1", "logits"]
    assert "a0.h1->a1.h1<q>" in importances_of(values).select("threshold", 4.0)
    with pytest.raises(OptionError, match="cannot keep 9 nodes: 8 have a score"):
        importances_of(values).select("nodes", 9)
    with pytest.raises(OptionError, match="scores of edges, so nodes cannot be ranked"):
        importances_of(importances()).select("nodes", 3)


def test_a_node_without_a_score_is_always_kept():
    values = node_level(input=1.0, a0_h0=3.0, a1_h1=None, m1=2.0)
    unscored = {"a0.h1", "a0.h2", "m0", "a1.h0", "a1.h1", "a1.h2"}
    chosen = importances_of(values).select("nodes", 1)
    assert set(chosen.nodes) == {"input", "a0.h0", "logits"} | unscored
    assert {"a0.h1->m0", "a1.h1->logits"} <= {edge["name"] for edge in importances_of(values).select("top", 30).edges}


def test_files_about_neurons_are_refused_with_the_reason():
    for key, value in (("neurons", [True, False]), ("neurons_scores", [0.5, float("nan")])):
        values = importances()
        values["nodes"]["m0"][key] = value
        with pytest.raises(CircuitError, match="single dimensions of what m0 writes"):
            from_eap_ig(values)
    values["nodes"]["m0"] = {"in_graph": True, "neurons": [True, True], "neurons_scores": [float("nan"), None]}
    assert importances_of(values) is not None


def test_scores_that_are_infinite_or_absent_are_refused(tmp_path):
    with pytest.raises(CircuitError, match="infinite"):
        importances_of(importances(**{"m0->m1": float("inf")}))
    values = node_level(m0=float("inf"))
    with pytest.raises(CircuitError, match="nodes that are infinite"):
        importances_of(values)
    assert importances_of(node_level()) is None
    with pytest.raises(CircuitError, match="no scores of all edges"):
        read_scores(written(tmp_path, node_level()))


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run folder."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 6, "n_held_out": 4, "n_random": 2, "rule": "top", "value": 60}
    return make(config, tmp_path_factory.mktemp("inter") / "run").folder


FEW = ("--task", "ioi", "--model", "tasks-4l", "--prompts", "4", "--random", "1", "--json")


def test_evaluate_and_render_choose_from_importances(run, folder, tmp_path):
    assert run("export", folder, "graph.json")[0] == 0
    values = json.loads((tmp_path / "graph.json").read_text())
    for edge in values["edges"].values():
        edge["in_graph"] = False
    path = written(tmp_path, values, "importances.json")
    code, _, err = run("evaluate", path, *FEW)
    assert (code, "--edges N" in err) == (2, True)
    results = [json.loads(run("evaluate", source, "--edges", "60", *FEW)[1]) for source in (path, folder)]
    own = json.loads(run("evaluate", folder, *FEW)[1])
    assert results[0]["faithfulness"] == results[1]["faithfulness"] == own["faithfulness"]
    code, out, _ = run("render", path, "picture.dot", "--edges", "60")
    assert (code, out.strip()) == (0, "picture.dot")
    text = (tmp_path / "picture.dot").read_text()
    assert "60 of 1,519 edges" in text
    assert "Model ," not in text
    assert run("evaluate", path, "--edges", "3", "--greedy", "3", *FEW)[0] == 2


def test_runs_are_exported_into_one_submission(run, folder, tmp_path):
    assert "--pair" in run("export", folder, "--to", "mib", "--out", "sub")[2]
    assert run("export", folder, "--to", "mib", "--out", "sub", "--pair", "ioi_tasks-4l")[0] == 0
    scores = some_scores(task="ioi", model="gpt2")
    scores.save(tmp_path / "scores.safetensors")
    code, out, _ = run("export", "scores.safetensors", "--to", "mib", "--out", "sub", "--circuits", "both", "--json")
    assert (code, json.loads(out)["folders"]) == (0, ["sub/ioi_gpt2"])
    own = json.loads((tmp_path / "sub" / "ioi_tasks-4l" / "importances.json").read_text())
    assert (own["cfg"]["d_model"], len(own["edges"])) == (128, 1519)
    code, out, _ = run("check-submission", "sub", "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    assert [finding["where"] for finding in found["findings"] if finding["level"] == "error"] == ["ioi_tasks-4l"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{folder}", "x.json", "--to", "onnx"), "--to onnx"),
        (("{folder}", "--to", "mib"), "--out"),
        (("{folder}", "{folder}", "--to", "mib", "--out", "sub", "--pair", "a_b"), "1 --pair for 2 runs"),
        (
            ("{folder}", "{folder}", "--to", "mib", "--out", "sub", "--pair", "a_b", "--pair", "a_b"),
            "two runs are of pair a_b",
        ),
        (("{folder}", "x.json", "--pair", "a_b"), "for --to mib"),
        (("{folder}",), "CIRCUIT FILE.json"),
        (("{folder}", "{folder}", "x.json"), "CIRCUIT FILE.json"),
    ],
)
def test_exports_that_are_none_are_refused_in_one_message(run, folder, tmp_path, words, message):
    code, _, err = run("export", *(word.format(folder=folder) for word in words))
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_models_of_whole_blocks_are_exported_head_by_head(run, monkeypatch, tmp_path):
    model = small_model(granularity="attention blocks", n_heads=2)
    scores = cf.ALGORITHMS["eap"](problem_for(model))
    circuit = cf.select(scores, top=12)
    values = to_eap_ig(circuit, d_model=12, n_heads=model.config.n_heads)
    assert values["cfg"]["n_heads"] == 2
    assert from_eap_ig(values).graph == ComputationGraph(2, 2)


def problem_for(model):
    from circuitfind.discovery.contract import Problem
    from circuitfind.task.metrics import METRICS

    return Problem(model, random_pairs(model), METRICS["logit-diff"])
