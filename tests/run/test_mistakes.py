"""Arguments in the wrong place, under the name of the command line, or of another kind are refused in a sentence."""

import numpy as np
import pytest
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.statistics import share_interval


@pytest.fixture(scope="module")
def scores():
    return cf.discover("induction-2l", "induction", algorithm="random-edges", n=2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda s: cf.discover("induction", "induction-2l"),
            r"the model first, then the task: discover\(model, 'induction'",
        ),
        (lambda s: cf.discover("induction"), r"the model first, then the task: discover\(model, 'induction'"),
        (lambda s: cf.discover(cf.load_task("ioi"), "tasks-4l"), r"discover\(model, 'ioi', ...\)"),
        (
            lambda s: cf.evaluate("induction-2l", "induction", s),
            "needs a circuit as .circuit., but scores",
        ),
        (lambda s: cf.evaluate(cf.select(s, top=5), "induction-2l", "induction"), "was given a circuit as its model"),
        (lambda s: cf.select(cf.select(s, top=5)), "select.* needs scores as 'scores', but a circuit was given"),
        (lambda s: cf.render(s, "x.svg"), "render.* needs a circuit"),
        (lambda s: cf.discover("induction-2l", "induction", prompts=8), "no argument 'prompts'; in Python it is 'n'"),
        (lambda s: cf.evaluate("induction-2l", "induction", cf.select(s, top=5), held_out=8), "it is 'n_held_out'"),
    ],
)
def test_mistakes_are_named(scores, call, said):
    with pytest.raises(OptionError, match=said):
        call(scores)


def test_a_model_and_a_task_of_one_name_are_the_model_and_the_task():
    assert cf.discover("siit-hist", "siit-hist", algorithm="random-edges", n=2).provenance.model == "siit-hist"


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: cf.load_task("IOI"), "ioi"),
        (lambda: cf.discover("induction-2l", "induction", algorithm="EAP"), "eap"),
        (lambda: cf.Setting("ioi", "tasks-4l", ablation="ZERO"), "zero"),
    ],
)
def test_suggestions_ignore_case_and_long_lists_are_cut(call, near):
    with pytest.raises(UnknownNameError) as found:
        call()
    text = str(found.value)
    assert f"Did you mean {near!r}?" in text
    listing = text.partition("Available: ")[2].partition(".")[0]
    assert listing.startswith(near)
    assert listing.count(",") <= 7


def test_a_list_that_is_cut_says_how_many_more_there_are_and_where():
    with pytest.raises(
        UnknownNameError, match=r"a9, a8, a7, a6, a5 and 6 more \('circuitfind tasks' lists them\)"
    ) as found:
        raise UnknownNameError("task", "a", [f"a{n}" for n in range(10)] + ["b"])
    assert "a0" not in str(found.value)


def test_scores_say_what_they_are(scores):
    assert repr(scores).startswith("EdgeScores(257 edges; random-edges on induction, induction-2l; strongest ")


@pytest.mark.parametrize(("hits", "n"), [(7, 14), (0, 10), (10, 10), (131, 256)])
def test_the_interval_of_a_share_is_wilsons(hits, n):
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(share_interval(hits / n, n), (expected.low, expected.high), atol=1e-9)


def test_advice_about_a_flat_metric_does_not_go_in_a_circle():
    model = small_model()
    setting = cf.Setting(cf.load_task(random_pairs(model), name="random"), model=model, metric="kl", ablation="mean")
    with pytest.raises(OptionError, match="or the algorithm eap-ig-activations"):
        cf.discover(setting, algorithm="eap")
    assert np.isfinite(cf.discover(setting, algorithm="eap-ig-activations").values).all()
