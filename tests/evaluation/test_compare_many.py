"""Three and more circuits held against each other, and runs that differ in more than their circuits."""

import json
from itertools import combinations

import numpy as np
import pytest

import circuitfind as cf
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.graph import ComputationGraph
from circuitfind.run.comparison_files import lines, write_comparison
from circuitfind.run.sides import letter_of
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import best_edges

GRAPH = ComputationGraph(2, 3)


def ranking(seed, **about) -> EdgeScores:
    known = {"ablation": "corrupted", "algorithm": f"seed-{seed}", "model": "one", "task": "ioi", "metric": "kl"}
    return EdgeScores(GRAPH, np.random.default_rng(seed).normal(size=GRAPH.n_edges), Provenance(**{**known, **about}))


def run_folder(path, n=30, faithfulness=0.5, edges=None):
    path.mkdir()
    circuit = best_edges(ranking(len(path.name)), n)
    circuit.save(path / "circuit.json")
    measured = {
        "n_edges": circuit.n_edges if edges is None else edges,
        "faithfulness": faithfulness,
        "split": "held-out",
    }
    measured |= {"faithfulness_95_interval": [0.25, 0.75], "metric": {"name": "kl"}}
    (path / "evaluation.json").write_text(json.dumps(measured))
    return path


def test_every_two_are_compared_as_two_alone_are():
    circuits = [best_edges(ranking(seed), 30 + seed) for seed in range(4)]
    found = cf.compare(*circuits)
    matrices = {name: found.matrix(name) for name in ("jaccard", "by_chance", "spearman")}
    for i, j in combinations(range(4), 2):
        alone = cf.compare(circuits[i], circuits[j])
        wanted = alone.edges.jaccard, alone.edges.by_chance, alone.agreement["all"].spearman
        assert tuple(matrix[i, j] for matrix in matrices.values()) == wanted
        assert tuple(matrix[j, i] for matrix in matrices.values()) == wanted
    assert (np.diag(matrices["jaccard"]) == 1).all()
    assert np.isnan(np.diag(matrices["by_chance"])).all()
    assert len(found.to_frame()) == 6
    with pytest.raises(UnknownNameError, match="jaccard"):
        found.matrix("jacard")


def test_rankings_alone_have_no_overlap_until_a_size_is_asked_for():
    scores = [ranking(seed) for seed in range(3)]
    assert np.isnan(cf.compare(*scores).matrix("jaccard")[0, 1])
    assert cf.compare(*scores, top=20).matrix("jaccard")[0, 1] < 1
    text = "\n".join(lines(cf.compare(*scores)))
    assert "Jaccard" not in text
    assert "Spearman" in text


@pytest.mark.parametrize("others", [1, 2])
def test_different_models_are_refused_with_both_names(others):
    with pytest.raises(CircuitError, match=r"seed-0 is of model one, seed-9 is of model two"):
        cf.compare(*(ranking(seed) for seed in range(others)), ranking(9, model="two"))


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("metric", "logit-diff", "DIFFERENT metrics: kl (seed-0, seed-1); logit-diff (seed-2)"),
        ("ablation", "zero", "DIFFERENT ablations: corrupted (seed-0, seed-1); zero (seed-2)"),
        ("task", "induction", "DIFFERENT tasks: ioi (seed-0, seed-1); induction (seed-2)"),
    ],
)
def test_what_else_differs_is_said_once(what, value, said):
    found = cf.compare(ranking(0), ranking(1), ranking(2, **{what: value}), top=20)
    assert found.differences == (said,)
    assert "\n".join(lines(found)).count(said) == 1
    two = cf.compare(ranking(0), ranking(2, **{what: value}))
    assert len(two.differences) == 1
    assert two.differences[0] in list(lines(two))
    assert cf.compare(ranking(0), ranking(1), top=20).differences == ()


def test_each_run_shows_the_faithfulness_measured_for_its_own_circuit(tmp_path):
    runs = [run_folder(tmp_path / "a"), run_folder(tmp_path / "bb", 20, 0.875), run_folder(tmp_path / "ccc", edges=99)]
    found = cf.compare(*runs)
    assert [side.to_json()["faithfulness"] for side in found.sides] == [0.5, 0.875, None]
    text = list(lines(found))
    assert text[1] == "B: bb, 20 edges, faithfulness 87.5% (25.0% to 75.0%) in kl, held-out"
    assert text[2] == "C: ccc, 30 edges"
    assert (
        next(iter(lines(cf.compare(*runs[:2]))))
        == "A: a, 30 edges, faithfulness 50.0% (25.0% to 75.0%) in kl, held-out"
    )


def test_a_comparison_of_many_is_written_as_tables(tmp_path):
    found = cf.compare(*(best_edges(ranking(seed), 30) for seed in range(3)))
    files = write_comparison(found, tmp_path / "out")
    assert [file.name for file in files] == ["comparison.json", "comparison.txt", "pairs.csv"]
    assert len(json.loads(files[0].read_text())["pairs"]) == 3
    assert files[2].read_text().splitlines()[0] == "a,b,jaccard,by_chance,spearman"
    assert "seed-2" in found._repr_html_()


def test_names_are_told_apart():
    same = [best_edges(ranking(0), n) for n in (10, 20, 30)]
    assert [side.name for side in cf.compare(*same).sides] == ["seed-0 (A)", "seed-0 (B)", "seed-0 (C)"]
    assert [side.name for side in cf.compare(*same, names="xyz").sides] == ["x", "y", "z"]
    with pytest.raises(OptionError, match="gives 2 names for 3"):
        cf.compare(*same, names=("x", "y"))
    assert [letter_of(number) for number in (0, 25, 26)] == ["A", "Z", "A1"]
