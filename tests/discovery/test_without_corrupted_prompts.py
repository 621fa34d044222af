"""Every algorithm that needs no corrupted prompts works without them; means are then those of the clean prompts."""

from dataclasses import replace

import numpy as np
import pytest

import circuitfind as cf

PAIRS = cf.TASKS["induction"].pairs(4)
BARE = cf.PromptPairs(tuple(replace(pair, corrupted="") for pair in PAIRS))
SAME = cf.PromptPairs(tuple(replace(pair, corrupted=pair.clean) for pair in PAIRS))
QUICK = {
    "edge-pruning": {"steps": 3},
    "subnetwork-probing": {"steps": 3},
    "acdc": {"threshold": 0.1},
}

NAMES = [one.name for one in cf.ALGORITHMS if "mean" in one.ablations and one.name != "refine"]
"""All but the one that searches for seconds with what the others are made of."""


@pytest.fixture(scope="module")
def model():
    return cf.load_model("induction-2l")


@pytest.mark.parametrize("ablation", ["mean", "mean-positional", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_clean_prompts_in_the_place_of_corrupted_ones(model, name, ablation):
    found, wanted = (
        cf.discover(model, pairs, algorithm=name, ablation=ablation, n=4, **QUICK.get(name, {})).values
        for pairs in (BARE, SAME)
    )
    assert np.abs(found).max() > 0
    np.testing.assert_array_equal(found, wanted)


def test_information_flow_routes_takes_mean_ablation_where_none_is_asked_for(model):
    assert cf.discover(model, BARE, algorithm="information-flow-routes", n=4).provenance.ablation == "mean"
    assert cf.discover(model, SAME, algorithm="information-flow-routes", n=4).provenance.ablation == "corrupted"


def test_learned_constants_need_no_corrupted_prompts(model):
    assert np.abs(cf.discover(model, BARE, algorithm="eap", ablation="optimal", n=4).values).max() > 0


def test_corrupted_ablation_is_refused(model):
    with pytest.raises(cf.CircuitfindError, match="these pairs have no corrupted prompts, which corrupted ablation"):
        cf.discover(model, BARE, algorithm="exact", n=4)
