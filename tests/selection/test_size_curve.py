"""Faithfulness against size: the numbers are those of evaluations, and every form says the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import random_pairs, small_model
from numpy.testing import assert_allclose

import circuitfind as cf
from circuitfind.errors import OptionError, RenderError
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.run.selecting import select_in
from circuitfind.selection import size_curve
from circuitfind.selection.prefixes import top_edges
from circuitfind.task.metrics import METRICS

SETTING = cf.Setting("induction", model="induction-2l", n=8, n_held_out=10)


@pytest.fixture(scope="module")
def scores():
    return cf.discover(SETTING, algorithm="eap")


@pytest.fixture(scope="module")
def curve(scores):
    return cf.curve(SETTING, scores, split="held-out")


def test_every_size_is_what_an_evaluation_of_its_circuit_finds(scores):
    sizes = [30, 60, 257]
    curve = cf.curve(SETTING, scores, split="held-out", sizes=sizes)
    for at, n in enumerate(sizes):
        circuit = top_edges(scores, n)
        found = cf.evaluate(SETTING, circuit, n_random=0)
        assert (curve.asked[at], curve.kept[at]) == (n, circuit.n_edges)
        assert_allclose(curve.measured["kl"].values[at], found.kl, atol=1e-5)
        assert_allclose(curve.by_metric.values[at], found.circuit, atol=1e-5)
        assert curve.faithfulness[at] == pytest.approx(found.faithfulness, abs=1e-6)
        assert curve.interval[at] == pytest.approx(found.interval, abs=1e-6)


def test_the_regular_sizes_go_on_until_the_target_is_reached_for_good(curve):
    assert (np.diff(curve.kept) > 0).all()
    assert (curve.faithfulness[-2:] >= 0.87).all()
    assert not (curve.faithfulness[-3:] >= 0.87).all()
    low, high = curve.range
    assert curve.kept[0] <= low <= high <= curve.kept[-1]
    assert f"{low:,} to {high:,} edges" in curve.sentence or f"{low:,} edges" in curve.sentence
    assert "10 held-out prompts" in curve.sentence


def test_table_json_and_notebook_show_the_same_numbers(curve):
    frame, plain = curve.to_frame(), json.loads(json.dumps(curve.to_json()))
    assert frame.edges.tolist() == curve.kept.tolist() == [row["edges"] for row in plain["sizes"]]
    assert_allclose(frame.faithfulness, curve.faithfulness)
    assert (frame.faithfulness_low <= frame.faithfulness).all()
    assert (frame.faithfulness_high >= frame.faithfulness).all()
    assert_allclose([row["kl"] for row in plain["sizes"]], curve.measured["kl"].mean)
    assert plain["metrics"]["kl"]["unit"] == METRICS["kl"].unit
    assert plain["range"] == list(curve.range)
    assert curve._repr_svg_().lstrip().startswith("<?xml")
    assert f"{len(curve.kept)} circuits" in repr(curve)


def test_a_metric_that_is_not_the_tasks_has_the_tasks_beside_it():
    setting = SETTING.but(metric="kl")
    curve = cf.curve(setting, cf.discover(setting, algorithm="eap-ig-inputs", steps=2), sizes=[60, 257])
    assert list(curve.measured) == ["kl", "logit-diff"]
    assert curve.faithfulness[-1] == pytest.approx(1)


def test_the_curve_of_a_selection_is_made_of_its_own_runs(scores, monkeypatch):
    circuit, chosen = select_in(scores, SETTING)
    assert chosen.chosen == circuit.n_edges
    assert circuit.n_edges in chosen.kept
    assert chosen.n_prompts == 8 + 32
    low, high = chosen.range
    assert low <= circuit.n_edges <= high
    at = chosen.kept.tolist().index(circuit.n_edges)
    assert chosen.faithfulness[at] == pytest.approx(circuit.selection["reached_on_train"])
    assert chosen.to_frame().query("chosen").edges.tolist() == [circuit.n_edges]
    assert select_in(scores, SETTING, top=9).curve is None

    def none(self, new):
        raise AssertionError("measured again")

    monkeypatch.setattr(CircuitRunner, "_measure", none)
    assert len(chosen.to_frame()) == len(chosen.kept)


def test_fewer_sizes_on_request(scores):
    assert cf.curve(SETTING, scores, most=20).kept[-1] < 30
    pieces = cf.curve("induction-2l", "induction", scores, n=8, split="held-out", sizes=[257])
    assert pieces.kept.tolist() == [257]
    assert np.isinf(cf.curve(SETTING, scores, most=20).range).all()
    assert "takes more than" in cf.curve(SETTING, scores, most=20).sentence


def test_what_cannot_be_measured_is_refused(scores):
    with pytest.raises(OptionError, match="give numbers of edges from 1 to 257"):
        cf.curve(SETTING, scores, sizes=[0])
    with pytest.raises(OptionError, match="give a number above 0"):
        cf.curve(SETTING, scores, faithfulness=0)
    model = small_model()
    pairs = random_pairs(model, 4)
    same = replace(pairs, corrupted=pairs.clean)
    found = cf.discover(model, "ioi", pairs=pairs, algorithm="eap")
    with pytest.raises(OptionError, match="these prompts do not show the behaviour"):
        cf.curve(model, "ioi", found, pairs=same)


def test_the_picture_is_the_same_bytes_again_and_names_what_it_shows(curve, tmp_path):
    one, other = (curve.plot(tmp_path / f"{name}.svg", title="Induction").read_bytes() for name in "ab")
    assert one == other
    words = one.decode()
    for word in ("Induction", "faithfulness", "target 85%", "edges kept", "logit difference"):
        assert word in words
    assert curve.plot(tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    names = [axes.get_ylabel().replace("\n", " ") for axes in curve.plot().axes]
    assert names == ["faithfulness", "logit difference", "KL to the full model in nats"]
    with pytest.raises(RenderError, match="suffix"):
        curve.plot(tmp_path / "c.xyz")


def test_a_unit_that_does_not_say_the_metrics_name_has_it_beside_it() -> None:
    assert size_curve._label("prob-diff", "probability difference") == "probability difference"
    assert size_curve._label("accuracy", "share of prompts") == "accuracy\nshare of prompts"
    assert size_curve._label("logit-diff", "logit") == "logit-diff\nlogit"
