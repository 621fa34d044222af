"""Certificates: the bound that is derived, tried on every subset of prompts, and the confidence that is claimed."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.evaluation import certify_edges
from circuitfind.evaluation.other_prompts.certificates import EDITS, inclusion_needed
from circuitfind.evaluation.other_prompts.resampling import resampled_edges
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance

SMALL = ComputationGraph(1, 2)
N, SIZE = 7, 5


def scores_of(seed: int, n_prompts: int = N, noise: float = 1.3, ablation: str = "corrupted") -> EdgeScores:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=SMALL.n_edges) + noise * rng.normal(size=(n_prompts, SMALL.n_edges))
    parts = parts.astype(np.float32)
    return EdgeScores(SMALL, parts.mean(0, dtype=np.float64), Provenance(ablation=ablation), parts, "prompt")


class Selections:
    """The selection from every subset of some prompts, so that chances of inclusion are exact sums."""

    def __init__(self, scores: EdgeScores, n: int = SIZE) -> None:
        self.n_prompts = len(scores.parts)
        subsets = (np.arange(2**self.n_prompts)[:, None] >> np.arange(self.n_prompts)) & 1
        found = resampled_edges(scores, subsets.astype(float), n, True, "")
        self.subsets = subsets.astype(bool)
        self.kept = np.array([np.isin(np.arange(SMALL.n_edges), edges) for edges in found])

    def inclusion(self, prompts, keep: float) -> np.ndarray:
        """Chance of every edge to be in the circuit of a subsample of these prompts."""
        there = np.isin(np.arange(self.n_prompts), list(prompts))
        possible = ~(self.subsets & ~there).any(1)
        size = self.subsets.sum(1)
        weight = np.where(possible, keep**size * (1 - keep) ** (there.sum() - size), 0.0)
        assert weight.sum() == pytest.approx(1)
        return weight @ self.kept


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.15, 0.4, 0.7])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_a_deletion_moves_the_chance_of_inclusion_no_further_than_derived(keep, radius):
    selections = Selections(scores_of(0))
    here, untouched = selections.inclusion(range(N), keep), (1 - keep) ** radius
    for removed in combinations(range(N), radius):
        there = selections.inclusion(set(range(N)) - set(removed), keep)
        assert (there >= 1 - (1 - here) / untouched - 1e-12).all()
        assert (there <= here / untouched + 1e-12).all()


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("keep", [0.25, 0.35])
def test_no_edge_beyond_the_needed_chance_changes_sides(edits, keep):
    """Every deletion of up to r of the prompts; or of r prompts and insertion of others in their place."""
    moved = certain = 0
    for seed, noise in ((0, 0.3), (1, 0.3), (2, 0.8), (3, 1.3), (4, 3.0)):
        selections = Selections(scores_of(seed, N + 2, noise))
        here = selections.inclusion(range(N), keep)
        for radius in (1, 2):
            inside, outside = inclusion_needed(radius, keep, edits)
            majority = here > 0.5
            for size in range(radius + 1):
                for removed in combinations(range(N), size):
                    for added in [()] if edits == "deletions" else [(), (N,), (N, N + 1)][: radius + 1]:
                        there = selections.inclusion((set(range(N)) - set(removed)) | set(added), keep) > 0.5
                        assert there[here > inside].all()
                        assert not there[here < outside].any()
                        moved += int((there != majority).sum())
            certain += int((here > inside).sum())
    assert min(moved, certain) > 5


def test_no_smaller_chance_would_do():
    """A selection that keeps an edge if prompt 0 is drawn, or else with just less than a half, is as bad as can be."""
    keep, radius = 0.3, 1
    inside, _ = inclusion_needed(radius, keep)
    without = 0.5 - 1e-9  # what is left when prompt 0 is deleted: the majority cuts the edge
    assert keep * 1 + (1 - keep) * without == pytest.approx(inside)
    replaced = 0.5 - 1e-9  # prompt 0 always led to the edge, the one in its place never does, others in a share x
    x = replaced / (1 - keep)
    assert keep * 1 + (1 - keep) * x == pytest.approx(inclusion_needed(radius, keep, "any")[0])


def test_more_changes_need_a_greater_chance():
    for edits in EDITS:
        for keep in (0.1, 0.5, 0.9):
            needed = [inclusion_needed(radius, keep, edits)[0] for radius in range(6)]
            assert needed[0] == 0.5
            assert (np.diff(needed) > 0).all()
            assert inclusion_needed(3, keep, edits)[1] == pytest.approx(1 - needed[3])


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_certificates_hold_for_every_deletion(radius, ablation):
    inside = outside = unsure = 0
    for seed in range(3):
        scores = scores_of(seed, ablation=ablation)
        found = certify_edges(scores, SIZE, radius=radius, keep=0.25, n_samples=3000, alpha=1e-4, seed=seed)
        selections = Selections(scores)
        here = selections.inclusion(range(N), 0.25)
        assert ((found.low <= here) & (here <= found.high)).all()
        for size in range(radius + 1):
            for removed in combinations(range(N), size):
                majority = selections.inclusion(set(range(N)) - set(removed), 0.25) > 0.5
                assert majority[found.certified_in].all()
                assert not majority[found.certified_out].any()
        assert (found.certified_in.astype(int) + found.certified_out + found.abstained == 1).all()
        inside, outside = inside + found.certified_in.sum(), outside + found.certified_out.sum()
        unsure += found.abstained.sum()
    assert min(inside, outside, unsure) > 0


def test_all_bounds_hold_at_once_as_often_as_claimed():
    scores = scores_of(1, 5)
    here = Selections(scores).inclusion(range(5), 0.5)
    wrong = 0
    for seed in range(200):
        found = certify_edges(scores, SIZE, radius=0, n_samples=60, alpha=0.2, seed=seed)
        wrong += bool(((here < found.low) | (here > found.high)).any())
    assert 0 < wrong <= 0.2 * 200 + 4 * np.sqrt(0.16 * 200)


def test_an_edge_s_radius_is_the_largest_that_certifies_it():
    scores = scores_of(2, 12, noise=0.4)
    found = certify_edges(scores, SIZE, radius=1, keep=0.2, n_samples=2000)
    for radius in range(13):
        other = replace(found, radius=radius)
        decided = other.certified_in | other.certified_out
        assert (decided == (found.radii >= radius)).all()
    assert len(np.unique(found.radii)) > 3


def test_prompts_that_all_say_the_same_certify_their_circuit():
    scores = scores_of(0, 16, noise=0.0)
    found = certify_edges(scores, SIZE, radius=3, keep=0.3, n_samples=2000)
    (own,) = resampled_edges(scores, np.ones((1, 16)), SIZE, True, "")
    assert np.flatnonzero(found.certified_in).tolist() == own.tolist()
    assert not found.abstained.any()
    assert found.circuit.kept.tolist() == found.certified_in.tolist()
    assert found.circuit.selection["asked"] == found.circuit.selection["kept"] == len(own)
    assert not any("on no path" in line for line in found.lines())


def test_a_certified_edge_without_a_certified_path_is_dropped_from_the_circuit_and_said():
    """Half of the prompts have a head read the input through the query, the others through the value."""
    n = 30
    parts = np.zeros((n, SMALL.n_edges), dtype=np.float32)
    parts[:, SMALL.edge_index("a0.h0->logits")] = 5
    parts[: n // 2, SMALL.edge_index("input->a0.h0<q>")] = 4
    parts[n // 2 :, SMALL.edge_index("input->a0.h0<v>")] = 4
    scores = EdgeScores(SMALL, parts.mean(0, dtype=np.float64), Provenance(ablation="corrupted"), parts, "prompt")
    found = certify_edges(scores, 2, radius=1, keep=0.3, n_samples=1000)
    assert found.certified_in[SMALL.edge_index("a0.h0->logits")]
    assert found.abstained[SMALL.edge_index("input->a0.h0<q>")]
    assert found.circuit.n_edges == 0
    assert found.circuit.selection["asked"] == 1
    assert "1 of the edges in are on no path of certified edges, so the circuit of these has 0 edges." in found.lines()


def test_means_over_all_prompts_are_a_caveat():
    assert "held fixed" in certify_edges(scores_of(0, ablation="mean"), SIZE).lines()[-1]
    assert "held fixed" not in " ".join(certify_edges(scores_of(0, ablation="zero"), SIZE).lines())


def test_the_same_seed_gives_the_same_certificate():
    scores = scores_of(0)
    first, again, other = (certify_edges(scores, SIZE, seed=seed).to_json() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_cannot_be_certified_is_refused():
    scores = scores_of(0)
    for how, message in (
        ({"radius": 12}, "the scores are of 7 prompts only"),
        ({"radius": 7, "keep": 0.6}, "no edge could be certified for 7 prompts"),
        ({"radius": 1, "keep": 0.6, "edits": "any"}, "1.000 is needed"),
        ({"radius": 2, "n_samples": 5}, "Draw more samples"),
        ({"keep": 1.0}, "keep=1: give a number above 0 and below 1"),
        ({"alpha": 0.0}, "alpha=0: give a number above 0 and below 1"),
        ({"edits": "all"}, "use 'deletions' or 'any'"),
        ({"radius": -1}, "radius=-1: give 0 or more"),
        ({"n_samples": 0}, "samples=0: give 1 or more"),
    ):
        with pytest.raises(OptionError, match=message):
            certify_edges(scores, SIZE, **how)
    with pytest.raises(OptionError, match="--parts prompt"):
        certify_edges(replace(scores, parts=None, parts_axis=""), SIZE)


# --- on a model -------------------------------------------------------------------------------------------------------


def test_python_and_the_command_line_certify_the_same_edges(command_line, tmp_path):
    model = cf.load_model("tasks-4l")
    scores = cf.discover(model, "ioi", algorithm="eap", n=16, parts="prompt")
    found = cf.certify(scores, 40, keep=0.3, n_samples=300)
    words = ("certify", "ioi", "-a", "eap", "--prompts", 16, "--edges", 40, "--keep", 0.3, "--samples", 300)
    code, text, err = command_line(*words, "--json")
    assert (code, err) == (0, "")
    values = json.loads(text)
    names = model.graph.edge_names(np.flatnonzero(found.certified_in).tolist())
    assert sorted(row["name"] for row in values["certified_in"]) == sorted(names)
    assert len(names) > 5
    assert len(values["certified_in"]) + len(values["abstained"]) + values["certified_out"] == model.graph.n_edges
    assert all(row["radius"] >= 1 for row in values["certified_in"])
    code, out, _ = command_line(*words, "--out", tmp_path / "certified.json")
    assert code == 0
    assert out.splitlines()[:-1] == found.lines() == values["sentences"]
    circuit = Circuit.load(tmp_path / "certified.json")
    assert circuit.kept.tolist() == found.circuit.kept.tolist()
    assert circuit.selection["rule"] == "certified"
    code, _, err = command_line(*words, "--radius", "9")
    assert code == 2
    assert "no edge could be certified for 9 prompts" in err
