"""MIB submissions: written as the evaluator reads them, and checked as it checks them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from importance_files import GPT2, SMALL, some_scores

from circuitfind.circuit import Circuit, by_query_head, prune
from circuitfind.errors import OptionError
from circuitfind.formats import load_circuit
from circuitfind.formats.eap_ig import from_eap_ig, to_eap_ig
from circuitfind.formats.mib import FRACTIONS, MODELS, PAIRS, TASKS, pair_name, write_pair
from circuitfind.formats.mib_check import check_submission
from circuitfind.graph import ComputationGraph
from circuitfind.graph.kv_groups import split_blocks
from circuitfind.selection.prefixes import best_edges

pytestmark = pytest.mark.filterwarnings("ignore:.*BOS token")


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
    folders = write_pair(tmp_path, "ioi_gpt2", scores, circuits="both")
    assert folders == [tmp_path / "abs-true" / "ioi_gpt2", tmp_path / "abs-false" / "ioi_gpt2"]
    for absolute, folder in zip((True, False), folders, strict=True):
        kept = {}
        for path in folder.iterdir():
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
            "12 layers x 12 heads, but these scores are of one with 2 layers x 3 heads",
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
    write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8, circuits="both", force=True)
    with pytest.raises(OptionError, match="abs-true/a_b exists already"):
        write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8)
    (folder,) = write_pair(tmp_path, "a_b", some_scores(SMALL), d_model=8, force=True)
    assert [path.name for path in folder.iterdir()] == ["importances.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a_b"]


def test_what_is_written_passes_without_a_warning(submission):
    found = check_submission(submission)
    assert found.passed
    assert found.findings == []
    assert dict(found.kinds) == {"arc-easy_gemma2": "circuits", "ioi_gpt2": "importances"}
    table = "\n".join(found.lines())
    assert "32,491" in table
    assert "2 folders of pairs, 0 errors, 0 warnings: it can be loaded" in table


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
    (folder,) = write_pair(tmp_path, "ioi_gpt2", some_scores(), circuits="signed")
    (folder / "edges-0.001.json").unlink()
    found = check_submission(tmp_path)
    assert any(
        "8 circuits: the evaluator puts them at the first 8 of nine shares" in text
        for text in messages(found, "warning")
    )
    assert "64 edges; at 0.1 % of 32,491 it may have 32" in messages(found)
    assert len(messages(found)) == 8
