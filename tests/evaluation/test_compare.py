"""Two circuits held against each other: counts, chance, correlations, tables and pictures."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind as cf
from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.parquet import write_parquet
from circuitfind.graph import ComputationGraph
from circuitfind.rendering import draw
from circuitfind.run.comparison_files import comparison_dot, lines, write_comparison
from circuitfind.run.overlap import expected_jaccard, overlap
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import best_edges

GRAPH = ComputationGraph(2, 3)


def some_scores(seed, graph=GRAPH, **about) -> EdgeScores:
    known = Provenance(**({"ablation": "corrupted", "algorithm": f"seed-{seed}"} | about))
    return EdgeScores(graph, np.random.default_rng(seed).normal(size=graph.n_edges), known)


def two(n=30) -> tuple[Circuit, Circuit]:
    return best_edges(some_scores(0), n), best_edges(some_scores(1), n + 5)


def from_names(*names) -> Circuit:
    return Circuit(GRAPH, GRAPH.mask(names))


# --- overlap ----------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_sets_of_names():
    a, b = two()
    found = cf.compare(a, b)
    one, other = ({edge["name"] for edge in circuit.edges} for circuit in (a, b))
    assert (found.edges.both, found.edges.only_a, found.edges.only_b) == (
        len(one & other),
        len(one - other),
        len(other - one),
    )
    assert found.edges.jaccard == pytest.approx(len(one & other) / len(one | other))
    assert found.edges.overlap == pytest.approx(len(one & other) / 30)
    nodes = set(a.nodes), set(b.nodes)
    assert found.nodes.jaccard == pytest.approx(len(nodes[0] & nodes[1]) / len(nodes[0] | nodes[1]))
    assert (found.nodes.both + found.nodes.only_a, found.nodes.both + found.nodes.only_b) == (
        len(a.nodes),
        len(b.nodes),
    )


@pytest.mark.parametrize(
    ("n", "a", "b", "fixed"), [(6, 2, 3, 0), (6, 3, 3, 2), (5, 0, 2, 1), (5, 5, 2, 0), (7, 4, 5, 0)]
)
def test_chance_is_the_mean_over_all_pairs_of_sets(n, a, b, fixed):
    values = []
    for one in itertools.combinations(range(n), a):
        for other in itertools.combinations(range(n), b):
            shared = len(set(one) & set(other)) + fixed
            values.append(shared / (a + b + 2 * fixed - shared))
    assert expected_jaccard(n, a, b, fixed) == pytest.approx(np.mean(values))


@settings(max_examples=30)
@given(st.integers(0, 2**16), st.integers(0, 60), st.integers(0, 60))
def test_overlap_is_symmetric_and_lies_between_0_and_1(seed, n_a, n_b):
    rng = np.random.default_rng(seed)
    a, b = (np.isin(np.arange(60), rng.permutation(60)[:n]) for n in (n_a, n_b))
    one, other = overlap(a, b), overlap(b, a)
    assert (one.jaccard, one.overlap, one.by_chance) == (other.jaccard, other.overlap, other.by_chance)
    assert (one.both, one.only_a, one.only_b) == (other.both, other.only_b, other.only_a)
    if n_a and n_b:
        assert 0 <= one.jaccard <= one.overlap <= 1
        assert 0 < one.by_chance <= 1
    assert (one.jaccard is None) == (n_a == n_b == 0)


def test_a_circuit_is_equal_to_itself_and_an_empty_one_to_none():
    a, _ = two()
    same = cf.compare(a, a)
    assert (same.edges.jaccard, same.nodes.jaccard, same.edges.only_a) == (1, 1, 0)
    agreement = same.agreement["all"]
    assert (agreement.spearman, agreement.kendall, agreement.same_sign) == pytest.approx((1, 1, 1))
    assert len(same.to_frame()) == 0
    assert "No edge differs." in "\n".join(lines(same))
    empty = Circuit(GRAPH, np.zeros(GRAPH.n_edges, dtype=bool))
    against = cf.compare(a, empty)
    assert (against.edges.jaccard, against.edges.overlap) == (0, None)
    nothing = cf.compare(empty, empty)
    assert (nothing.edges.jaccard, nothing.nodes.jaccard, nothing.agreement) == (None, None, {})
    assert "-" in "\n".join(lines(nothing))


# --- scores -----------------------------------------------------------------------------------------------------------


def kendall_by_pairs(x, y) -> float:
    """Tau-b, pair by pair."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    both = [sum(s * s for s in column) for column in zip(*signs, strict=True)]
    return sum(a * b for a, b in signs) / np.sqrt(both[0] * both[1])


def ranks(x) -> np.ndarray:
    return np.array([np.mean(np.flatnonzero(np.sort(x) == value)) for value in x])


def test_rank_correlations_are_those_of_pairs_and_of_ranks():
    a, b = two()
    found = cf.compare(a, b).agreement
    for name, edges in (("all", a.kept | True), ("union", a.kept | b.kept), ("shared", a.kept & b.kept)):
        x, y = np.round(a.scores[edges], 1), np.round(b.scores[edges], 1)
        rounded = cf.compare(
            replace(a, scores=np.round(a.scores, 1)), replace(b, scores=np.round(b.scores, 1))
        ).agreement[name]
        assert found[name].n == rounded.n == edges.sum()
        assert rounded.kendall == pytest.approx(kendall_by_pairs(x, y))
        assert rounded.spearman == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])
        opinion = (x != 0) & (y != 0)
        assert rounded.same_sign == pytest.approx(np.mean((x > 0)[opinion] == (y > 0)[opinion]))


def test_scores_without_signs_are_compared_by_size():
    a, b = two()
    sizes = replace(some_scores(0), values=np.abs(a.scores), provenance=Provenance(signed=False, algorithm="sizes"))
    found = cf.compare(sizes, some_scores(1))
    assert found.edges is None
    assert found.agreement["all"].same_sign is None
    both = cf.compare(sizes, replace(some_scores(1), values=np.abs(b.scores)))
    assert found.agreement["all"].spearman == both.agreement["all"].spearman
    with pytest.raises(OptionError, match="scores and no circuit"):
        found.to_frame()
    with pytest.raises(OptionError, match="scores and no circuit"):
        comparison_dot(found)


def test_scores_that_are_all_equal_have_no_rank_correlation():
    flat = EdgeScores(GRAPH, np.ones(GRAPH.n_edges))
    agreement = cf.compare(flat, some_scores(1)).agreement["all"]
    assert (agreement.spearman, agreement.kendall) == (None, None)
    assert agreement.same_sign == pytest.approx((some_scores(1).values > 0).mean())


def test_a_circuits_file_ranks_its_own_edges_only(tmp_path):
    a, b = two()
    for name, circuit in (("a.json", a), ("b.json", b)):
        circuit.save(tmp_path / name)
    found = cf.compare(tmp_path / "a.json", tmp_path / "b.json")
    assert found.edges == cf.compare(a, b).edges
    assert list(found.agreement) == ["shared"]
    assert found.agreement["shared"] == cf.compare(a, b).agreement["shared"]
    rows = found.to_frame()
    only = rows[rows["in"] == "only A"]
    assert only.score_b.isna().all()
    assert only.score_a.notna().all()
    assert cf.compare(from_names("m0->m1"), a).agreement == {}


# --- what can be compared ---------------------------------------------------------------------------------------------


def numbers(found) -> dict:
    """What a comparison measured, without where its sides come from, which some formats do not say."""
    return {name: value for name, value in found.to_json().items() if name != "runs"}


def test_every_form_of_the_same_scores_gives_the_same_comparison(tmp_path):
    a, b = two()
    some_scores(0).save(tmp_path / "a.safetensors")
    write_parquet(some_scores(0), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(to_eap_ig(a, d_model=8)))
    (tmp_path / "run").mkdir()
    a.save(tmp_path / "run" / "circuit.json")
    some_scores(0).save(tmp_path / "run" / "scores.safetensors")
    wanted = numbers(cf.compare(a, b, names=("A", "B")))
    for path in (tmp_path / "a.json", tmp_path / "run", tmp_path / "run" / "circuit.json", str(tmp_path / "run")):
        assert numbers(cf.compare(path, b, names=("A", "B"))) == wanted
    best = numbers(cf.compare(a, replace(b, kept=best_edges(some_scores(1), 30).kept), names=("A", "B")))
    for name in ("a.safetensors", "a.parquet", "a.json", "run"):
        assert numbers(cf.compare(tmp_path / name, some_scores(1), top=30, names=("A", "B"))) == best
    chosen = replace(some_scores(0), chosen=a.kept)
    assert numbers(cf.compare(chosen, b, names=("A", "B"))) == wanted


def test_importances_of_eap_ig_are_scores_without_a_circuit(tmp_path):
    values = to_eap_ig(replace(two()[0], kept=np.zeros(GRAPH.n_edges, dtype=bool)), d_model=8)
    values["edges"]["m0->m1"]["score"] = None
    (tmp_path / "a.json").write_text(json.dumps(values))
    found = cf.compare(tmp_path / "a.json", some_scores(1))
    assert found.edges is None
    assert found.agreement["all"].n == GRAPH.n_edges - 1


def test_what_has_no_common_edges_is_refused():
    a, _ = two()
    other = best_edges(some_scores(0, ComputationGraph(3, 3)), 20)
    with pytest.raises(CircuitError, match=r"different graphs .2 layers x 3 heads, .*; 3 layers"):
        cf.compare(a, other)
    with pytest.raises(OptionError, match="no scores of all edges, so its 5 best"):
        cf.compare(from_names("m0->m1"), a, top=5)
    layout = Layout(("rest",), np.ones((1, 1), dtype=bool), np.array([True]))
    with pytest.raises(CircuitError, match="parts of prompts"):
        cf.compare(Circuit(GRAPH, a.kept[None], layout=layout), a)
    with pytest.raises(CircuitError, match="nowhere"):
        cf.compare("nowhere.json", a)


def test_two_of_one_name_are_told_apart(tmp_path):
    a, _ = two()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        a.save(tmp_path / place / "circuit.json")
    found = cf.compare(tmp_path / "one" / "circuit.json", tmp_path / "two" / "circuit.json")
    assert (found.a.name, found.b.name) == tuple(str(tmp_path / place / "circuit.json") for place in ("one", "two"))
    same = cf.compare(a, a)
    assert (same.a.name, same.b.name) == ("seed-0 (A)", "seed-0 (B)")


# --- tables and pictures ----------------------------------------------------------------------------------------------


def test_the_table_has_every_differing_edge_with_both_scores_strongest_first():
    a, b = two()
    rows = cf.compare(a, b).to_frame()
    assert set(rows.name) == {GRAPH.edge_name(edge) for edge in np.flatnonzero(a.kept ^ b.kept)}
    sizes = []
    for name, where, score_a, score_b in rows.itertuples(index=False):
        edge = GRAPH.edge_index(name)
        assert (score_a, score_b) == (a.scores[edge], b.scores[edge])
        assert where == ("only A" if a.kept[edge] else "only B")
        sizes.append(max(abs(score_a) / np.abs(a.scores).max(), abs(score_b) / np.abs(b.scores).max()))
    assert sizes == sorted(sizes, reverse=True)
    assert len(cf.compare(a, b).to_frame(shared=True)) == np.count_nonzero(a.kept | b.kept)


def strokes(dot):
    """Of every drawn line: source, target, pattern and tooltip."""
    found = re.findall(r'^\t"?([\w.]+)"? -> "?([\w.]+)"?(?::\w:c)? \[(.*)\]$', dot, re.MULTILINE)
    return [(a, b, re.search(r"style=(\w+)", rest)[1]) for a, b, rest in found if "invis" not in rest]


def test_the_picture_has_each_edge_once_in_the_pattern_of_its_set():
    a = from_names("input->m0", "m0->logits", "m0->m1", "m1->logits")
    b = from_names("input->m0", "m0->logits", "input->a1.h0<v>", "a1.h0->logits")
    drawn = strokes(comparison_dot(cf.compare(a, b)))
    patterns = {(source, target): pattern for source, target, pattern in drawn}
    assert patterns == {
        ("input", "m0"): "solid",
        ("m0", "logits"): "solid",
        ("m0", "m1"): "dashed",
        ("m1", "logits"): "dashed",
        ("input", "a1.h0"): "dotted",
        ("a1.h0", "logits"): "dotted",
    }
    assert len(drawn) == 6


@pytest.mark.parametrize("detail", ["auto", "ports", "heads", "layers"])
def test_the_picture_counts_all_edges_of_each_set_whatever_its_detail(detail):
    found = cf.compare(*two(), names=("first & <best>", "second"))
    dot = comparison_dot(found, detail=detail)
    assert f"in both: {found.edges.both} edges" in dot
    assert f"only in A, first &amp; &lt;best&gt;: {found.edges.only_a}" in dot
    assert f"only in B, second: {found.edges.only_b}" in dot
    assert f"Jaccard {found.edges.jaccard:.3f} (two random sets of these sizes: {found.edges.by_chance:.3f})" in dot
    assert draw(dot, "svg").startswith(b"<?xml")
    assert {pattern for _, _, pattern in strokes(dot)} == {"solid", "dashed", "dotted"}


def test_edges_into_shared_keys_are_drawn_to_their_heads():
    graph = ComputationGraph(2, 4, n_kv_groups=2)
    a, b = (best_edges(some_scores(seed, graph), 40) for seed in (0, 1))
    dot = comparison_dot(cf.compare(a, b))
    assert "kv" not in dot
    assert draw(dot, "svg")


def test_a_folder_of_the_comparison_has_tables_and_pictures(tmp_path):
    found = cf.compare(*two())
    paths = write_comparison(found, tmp_path / "out")
    names = {
        "comparison.json",
        "comparison.txt",
        "difference.csv",
        "difference.dot",
        "difference.svg",
        "difference.png",
    }
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found.to_json()
    scores = write_comparison(cf.compare(some_scores(0), some_scores(1)), tmp_path / "scores")
    assert {path.name for path in scores} == {"comparison.json", "comparison.txt"}


def test_the_command_prints_and_writes_the_same(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, circuit in zip(("a.json", "b.json"), two(), strict=True):
        circuit.save(tmp_path / name)
    code, out, _ = command_line("compare", "a.json", "b.json", "--out", "found")
    assert code == 0
    assert (tmp_path / "found" / "comparison.txt").read_text() in out
    code, out, _ = command_line("compare", "a.json", "b.json", "--json")
    assert json.loads(out)["edges"]["both"] == cf.compare(*two()).edges.both
    code, _, err = command_line("compare", "a.json", "b.json", "--edges", "5")
    assert (code, "no scores of all edges" in err) == (2, True)
