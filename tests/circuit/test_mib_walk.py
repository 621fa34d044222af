"""Submissions against the walk of MIB's evaluator: what it reads is accepted, and what it misses is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluators_walk import evaluations, saved, walked
from importance_files import GPT2, SMALL, some_scores

from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats import read, read_scores
from circuitfind.formats.mib import write_pair
from circuitfind.formats.mib_check import check_submission
from circuitfind.formats.mib_walk import folders_of
from circuitfind.scores import EdgeScores

pytestmark = pytest.mark.filterwarnings("ignore:.*BOS token")
NINE = sorted(f"edges-{share:g}.json" for share in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5))


def messages(found, level="error"):
    return [finding.message for finding in found.findings if finding.level == level]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mib")
    write_pair(folder, "ioi_gpt2", some_scores(), circuits="both")
    return folder


def test_circuits_for_both_measures_are_written_where_the_evaluator_walks(both):
    assert evaluations(both) == [("ioi_gpt2", False, NINE), ("ioi_gpt2", True, NINE)]
    found = check_submission(both)
    assert found.passed
    assert dict(found.kinds) == {"abs-false/ioi_gpt2": "circuits", "abs-true/ioi_gpt2": "circuits"}


def test_halves_inside_a_pair_are_refused_because_the_evaluator_finds_nothing_there(both, tmp_path):
    for half in ("abs-true", "abs-false"):
        shutil.copytree(both / half / "ioi_gpt2", tmp_path / "ioi_gpt2" / half)
    assert evaluations(tmp_path) == []
    found = check_submission(tmp_path)
    assert not found.passed
    assert any("move this one to abs-true/ioi_gpt2" in text for text in messages(found))
    assert "0 circuit files; give 1 (importances) or 2 to 9 (circuits)" in messages(found)


def test_importances_are_evaluated_for_both_measures(tmp_path):
    write_pair(tmp_path, "ioi_gpt2", some_scores())
    assert evaluations(tmp_path) == [("ioi_gpt2", absolute, ["importances.json"]) for absolute in (False, True)]
    assert check_submission(tmp_path).passed


@pytest.mark.parametrize(
    "names",
    [
        ("ioi_gpt2", "IOI_GPT2", "mine_ioi_gpt2", "arc_easy_gemma2", "arithmetic_addition_llama3"),
        ("mcqa_gpt2", "ioi-gpt2", "xioi_gpt2", "gpt2_ioi", "notes", "ioi", "arc-easy_llama3_v2"),
        ("abs-true/ioi_gpt2", "ABS_False/mcqa_gemma2", "my-abs-true-half/more/ioi_llama3", "absolute/ioi_gpt2"),
        ("abs-true/abs-false/ioi_gpt2", "abs/ioi_gpt2", "true/ioi_gpt2", "abs-false/nothing"),
    ],
)
def test_our_walk_is_the_evaluators(names, tmp_path):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    theirs = {(path, f"{task.replace('_', '-')}_{model}", absolute) for path, task, model, absolute in walked(tmp_path)}
    measures = {"CMD": True, "CPR": False, "CMD and CPR": None}
    ours = {(str(one.path), one.pair, measures[one.measure]) for one in folders_of(tmp_path) if one.pair}
    assert ours == theirs
    assert theirs or "notes" in names


def test_a_pair_evaluated_twice_or_for_one_measure_only_is_an_error(both, tmp_path):
    shutil.copytree(both / "abs-true" / "ioi_gpt2", tmp_path / "abs-true" / "ioi_gpt2")
    assert messages(check_submission(tmp_path)) == ["evaluated for CMD only; abs-false/ioi_gpt2 is missing"]
    shutil.copytree(both / "abs-true" / "ioi_gpt2", tmp_path / "IOI_gpt2")
    found = check_submission(tmp_path)
    assert messages(found) == ["ioi_gpt2 is evaluated for CMD here and in abs-true/ioi_gpt2; keep one"]
    assert "this name is evaluated as ioi_gpt2" in messages(found, "warning")


def test_a_folder_or_a_stray_file_in_a_pair(tmp_path):
    write_pair(tmp_path, "ioi_gpt2", some_scores())
    (tmp_path / "ioi_gpt2" / "empty").mkdir()
    (tmp_path / "ioi_gpt2" / "notes.txt").write_text("")
    found = check_submission(tmp_path)
    assert found.passed
    assert "the evaluator does not look into this folder" in messages(found, "warning")
    assert "neither .json nor .pt, so it is passed over" in messages(found, "warning")
    (tmp_path / "ioi_gpt2" / "empty" / "more.json").write_text("{}")
    assert any("counts it as a circuit" in text for text in messages(check_submission(tmp_path)))


def test_a_file_that_cannot_be_read_is_never_said_to_load(tmp_path):
    (tmp_path / "ioi_gpt2").mkdir()
    path = tmp_path / "ioi_gpt2" / "importances.pt"
    path.write_bytes(b"not a file of torch")
    found = check_submission(tmp_path)
    assert not found.passed
    assert "importances.pt is not read" in messages(found)[0]
    assert "can be loaded" not in "\n".join(found.lines())
    scores = some_scores()
    edges = dict(zip(GPT2.edge_names(), scores.values.tolist(), strict=True))
    saved(path, GPT2, edges, d_model=768)
    found = check_submission(tmp_path)
    assert found.passed
    assert found.files[0].listed == 32491
    np.testing.assert_allclose(read_scores(tmp_path / "ioi_gpt2").scores.values, scores.values, rtol=1e-6)
    for changes, message in (
        ({"edges_scores": None}, "lacks edges_scores"),
        ({"nodes_in_graph": None}, "lacks nodes_in_graph"),
        ({"d_model": 8}, "and the pair's model has"),
    ):
        saved(path, GPT2, edges, **({"d_model": 768} | changes))
        assert any(message in text for text in messages(check_submission(tmp_path)))
    saved(path, GPT2, {**edges, "m0->m1": float("nan")}, d_model=768)
    assert messages(check_submission(tmp_path)) == ["edges without a finite score: m0->m1"]


# --- nodes ------------------------------------------------------------------------------------------------------------


def node_scores(graph=GPT2) -> EdgeScores:
    return replace(some_scores(graph), nodes=np.random.default_rng(1).normal(size=graph.n_senders))


def test_importances_of_nodes_are_written_read_and_checked_at_their_level(tmp_path):
    scores = node_scores()
    (folder,) = write_pair(tmp_path, "ioi_gpt2", scores, level="node")
    values = json.loads((folder / "importances.json").read_text())
    assert {name: node.get("score") for name, node in values["nodes"].items()} == {
        **dict(zip(GPT2.sender_names, scores.nodes.tolist(), strict=True)),
        "logits": None,
    }
    assert read(folder).importances.nodes.tolist() == scores.nodes.tolist()
    assert check_submission(tmp_path, "node").passed
    for edge in values["edges"].values():
        edge["score"] = 0.0
    values["nodes"]["m3"]["score"] = float("nan")
    (folder / "importances.json").write_text(json.dumps(values))
    assert messages(check_submission(tmp_path)) == [
        "only nodes have scores, so it is evaluated at node level; hand it in so, and check it with --level node"
    ]
    assert "1 nodes have no score, and are in every circuit" in messages(check_submission(tmp_path, "node"), "warning")
    write_pair(tmp_path, "ioi_gpt2", some_scores(), force=True)
    assert messages(check_submission(tmp_path, "node")) == [
        "no node has a score, so it cannot be evaluated at node level"
    ]


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (some_scores(SMALL), {"level": "node"}, "not of every head and MLP"),
        (node_scores(SMALL), {"level": "node", "circuits": "both"}, "the nine circuits are of edges"),
        (node_scores(SMALL), {"level": "neuron"}, "neurons are not scored here"),
    ],
)
def test_levels_that_cannot_be_written_are_refused(scores, options, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        write_pair(tmp_path, "a_b", scores, d_model=8, **options)
    with pytest.raises(OptionError, match="use one of edge, node"):
        check_submission(tmp_path, "neuron")


# --- the beginning of prompts -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_scores_of_prompts_without_bos_are_exported_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="ioi_gpt2: the prompts had no BOS token, .* find them again with --bos"):
        write_pair(tmp_path, "ioi_gpt2", some_scores(bos=False))
    with pytest.warns(UserWarning, match="not known whether the prompts began"):
        write_pair(tmp_path, "ioi_gpt2", some_scores(), force=True)
    write_pair(tmp_path, "ioi_gpt2", some_scores(bos=True), force=True)


def test_several_pairs_or_circuits_are_asked_for_one(both):
    with pytest.raises(CircuitError, match="several pairs"):
        read(both)
    with pytest.raises(CircuitError, match="holds 9 circuits"):
        read(both / "abs-true" / "ioi_gpt2")
