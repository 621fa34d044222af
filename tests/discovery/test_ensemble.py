"""Ensembles: means of scores or of ranks, of methods that run or of scores that exist."""

from dataclasses import replace

import numpy as np
import pytest
from attribution import MODEL, PAIRS, result, scores
from builders import TIGHT, small_model

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.progress import Checkpoint
from circuitfind.scores import Provenance
from circuitfind.scores.combination import combine_values, signed_ranks
from circuitfind.task.metrics import METRICS

DEFAULT = ("eap", "eap-ig-inputs", "eap-ig-activations")


def test_an_ensemble_is_the_mean_of_its_members():
    alone = [scores(name) for name in DEFAULT]
    assert (scores("ensemble", by="raw") == sum(alone) / 3).all()
    expected = sum(one / np.abs(one).max() for one in alone) / 3
    np.testing.assert_allclose(scores("ensemble"), expected, **TIGHT)
    np.testing.assert_allclose(scores("ensemble", by="rank"), sum(signed_ranks(one) for one in alone) / 3, **TIGHT)


def test_ranks_are_shares_of_the_edges_with_the_sign_of_the_score_and_ties_share_theirs():
    np.testing.assert_allclose(signed_ranks(np.array([0.5, -2.0, 0.0, 2.0])), [0.5, -0.875, 0, 0.875])


def test_an_ensemble_with_sizes_has_no_sign():
    found = result("ensemble", members="eap, hisp", by="mean")
    assert not found.provenance.signed
    alone = [np.abs(scores(name)) for name in ("eap", "hisp")]
    np.testing.assert_allclose(found.values, sum(one / one.max() for one in alone) / 2, **TIGHT)
    assert result("ensemble").provenance.signed


def test_an_ensemble_costs_what_its_members_cost():
    graph, algorithm = MODEL.graph, ALGORITHMS["ensemble"]
    each = [ALGORITHMS[name].forwards(graph, ALGORITHMS[name].options) for name in ("eap", "exact")]
    assert algorithm.forwards(graph, {"members": "eap,exact", "by": "mean"}) == sum(each)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"members": "eap"}, OptionError, "name two or more different algorithms"),
        ({"members": "eap,eap"}, OptionError, "name two or more different algorithms"),
        ({"members": "eap,ensemble"}, OptionError, "none of them ensemble"),
        ({"members": "eap,eapig"}, UnknownNameError, "unknown algorithm 'eapig'"),
        ({"by": "median"}, UnknownNameError, "unknown way to combine scores 'median'"),
    ],
)
def test_what_is_no_ensemble_is_refused_before_anything_runs(options, error, message):
    with pytest.raises(error, match=message):
        ALGORITHMS["ensemble"].resolve(options)


def test_an_interrupted_ensemble_does_not_run_its_finished_members_again(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    ran, stop = [], "eap-ig-inputs"
    original = Algorithm.__call__

    def recorded(self, problem, **options):
        ran.append(self.name)
        if self.name == stop:
            raise KeyboardInterrupt
        return original(self, problem, **options)

    monkeypatch.setattr(Algorithm, "__call__", recorded)
    problem = Problem(MODEL, PAIRS, METRICS["logit-diff"], checkpoint=Checkpoint(tmp_path / "c.safetensors", "this"))
    with pytest.raises(KeyboardInterrupt):
        original(ALGORITHMS["ensemble"], problem)
    assert ran == ["eap", "eap-ig-inputs"]
    stop = ""
    again = replace(problem, checkpoint=Checkpoint(tmp_path / "c.safetensors", "this"))
    resumed = original(ALGORITHMS["ensemble"], again).values
    assert ran[2:] == ["eap-ig-inputs", "eap-ig-activations"]
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert (resumed == scores("ensemble")).all()


def test_a_part_of_a_run_keeps_its_sums_beside_the_runs(tmp_path):
    whole = Checkpoint(tmp_path / "sums.safetensors", "run")
    assert whole.of_part("eap").path == tmp_path / "sums-eap.safetensors"
    assert whole.of_part("eap").key != whole.of_part("exact").key != whole.key
    assert Checkpoint().of_part("eap").path is None


def test_scores_that_exist_already_are_combined_with_what_they_have_in_common():
    one, other = result("eap"), result("eap-ig-inputs")
    combined = cf.combine_scores([one, other], by="rank")
    assert (combined.values == combine_values([one.values, other.values], "rank")).all()
    p = combined.provenance
    assert (p.algorithm, p.metric, p.ablation, p.signed) == ("combined", "logit-diff", "corrupted", True)
    assert p.options == {"members": "eap,eap-ig-inputs", "by": "rank"}
    nll = result("eap", metric="nll")
    assert cf.combine_scores([one, nll]).provenance.metric == Provenance().metric
    assert not cf.combine_scores([one, result("hisp")]).provenance.signed


def test_what_cannot_be_combined_is_refused():
    one, other = result("eap"), result("eap", small_model(n_layers=1))
    with pytest.raises(OptionError, match="1 score to combine; give at least two"):
        cf.combine_scores([one])
    with pytest.raises(CircuitError, match="of different graphs"):
        cf.combine_scores([one, other])
    with pytest.raises(UnknownNameError, match="unknown way to combine scores 'median'"):
        cf.combine_scores([one, one], by="median")
