"""Results of patching and ablation: tables, rankings, JSON, pictures, refusals, the command line."""

import json

import numpy as np
import pandas
import pytest
from builders import TIGHT, random_pairs, small_model
from plain_patching import (
    IOI,
    ablated,
    naive_metric,
    patched_logits,
    tokens_of,
    walk,
)

import circuitfind as cf
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.patching.by_layer import by_layer
from circuitfind.patching.sites import label, names_of
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.statistics import RESAMPLES, mean_intervals
from circuitfind.task import spans_of
from circuitfind.task.metrics import METRICS


@pytest.mark.parametrize("metric", ["kl", "nll", "prob-diff"])
def test_positive_helps_whatever_the_metric(metric):
    model, sign = small_model(), METRICS[metric].sign
    pairs = random_pairs(model)
    clean = [walk(model, tokens_of(pairs, row, "clean"), lambda name, value: value)[-1] for row in range(len(pairs))]
    values = ablated(model, pairs, "corrupted")
    found = cf.activation_patch(model, IOI, "m1", by="position", direction="noising", metric=metric, pairs=pairs)
    for row, logits in enumerate(patched_logits(model, pairs, "noising", values, ["m1"], 2)):
        before, after = (naive_metric(pairs, row, x, metric, clean[row]) for x in (clean[row], logits))
        np.testing.assert_allclose(found.per_example[0, 2, row], sign * (before - after), **TIGHT)
        np.testing.assert_allclose(found.clean[row], before, **TIGHT)


def test_a_metric_of_ones_own_is_measured():
    model = small_model()
    pairs = random_pairs(model)

    def first_logit(logits, targets):
        return logits[..., 0]

    found = cf.ablate(model, IOI, "a1.h0", metric=first_logit, ablation="zero", pairs=pairs)
    values = ablated(model, pairs, "zero")
    expected = [logits[0] for logits in patched_logits(model, pairs, "noising", values, ["a1.h0"], None)]
    np.testing.assert_allclose(found.after[0], expected, **TIGHT)
    assert found.provenance.metric == "first-logit"


def test_shares_are_ratios_of_means_over_the_prompts_that_have_the_part():
    model = small_model()
    pairs = random_pairs(model)
    for direction in ("denoising", "noising"):
        found = cf.activation_patch(model, IOI, "node", by="position", direction=direction, pairs=pairs)
        for column in range(len(found.columns)):
            has = pairs.length > column
            whole = (found.clean[has] - found.corrupted[has]).mean()
            np.testing.assert_allclose(found.shares[:, column], found.values[:, column] / whole, **TIGHT)
            np.testing.assert_allclose(found.values[:, column], found.per_example[:, column, has].mean(1), **TIGHT)


def test_intervals_are_those_of_resampled_prompts():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2, 3, 6))
    values[0, 1, 2:] = np.nan
    values[1, 2] = np.nan
    found = mean_intervals(values, seed=5)
    drawn = np.random.default_rng(5).integers(0, 6, (RESAMPLES, 6))
    for row, column in np.ndindex(2, 3):
        means = []
        for resample in drawn:
            kept = [values[row, column, prompt] for prompt in resample if not np.isnan(values[row, column, prompt])]
            means += [sum(kept) / len(kept)] if kept else []
        expected = np.quantile(means, (0.025, 0.975)) if means else (np.nan, np.nan)
        np.testing.assert_allclose(found[row, column], expected, **TIGHT)


@pytest.fixture(scope="module")
def zoo():
    return cf.load_model("tasks-4l"), cf.load_task("ioi")


def test_a_labelled_token_is_the_position_where_it_stands(zoo):
    model, task = zoo
    pairs = tokenized_pairs(model, task, split="train", n=1)
    spans = spans_of(pairs, "span", model.tokenizer)
    by_span, by_position = (cf.activation_patch(model, task, "head", by=by, pairs=pairs) for by in ("span", "position"))
    assert by_span.columns == spans.labels
    for column, name in enumerate(by_span.columns):
        (places,) = np.nonzero(spans.of[0] == column)
        if name != "rest":
            np.testing.assert_allclose(by_span.values[:, column], by_position.values[:, places[0]], atol=1e-5)


def test_the_result_is_a_table_a_ranking_json_and_a_picture(zoo, tmp_path):
    model, task = zoo
    found = cf.activation_patch(model, task, "head", by="span", n=6, direction="noising", ablation="mean")
    frame = found.to_frame()
    assert len(frame) == found.values.size == 32 * len(found.columns)
    row = frame[(frame["component"] == "a1.h3") & (frame["part"] == "S2")].iloc[0]
    place = found.rows.index("a1.h3"), found.columns.index("S2")
    assert (row["effect"], row["share"], row["prompts"]) == (found.values[place], found.shares[place], 6)
    assert (row["low"], row["high"]) == tuple(found.intervals[place])
    assert found.top(5)["effect"].abs().is_monotonic_decreasing
    assert found.top(5, absolute=False)["effect"].is_monotonic_decreasing
    assert found.top(1)["effect"].abs().item() == np.nanmax(np.abs(found.values))
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["rows"][place[0]] == "a1.h3"
    assert told["effects"][place[0]][place[1]] == found.values[place]
    assert (told["provenance"]["ablation"], told["provenance"]["split"], told["direction"]) == (
        "mean",
        "train",
        "noising",
    )
    drawn = found.render(tmp_path / "map.svg").read_text(encoding="utf-8")
    assert "a1.h3" in drawn
    assert "S2" in drawn


def test_what_is_not_asked_for_is_not_kept(zoo):
    model, task = zoo
    found = cf.activation_patch(model, task, "mlp", n=4, per_example=False)
    assert found.per_example is None
    assert found.to_json()["per_example"] is None


def test_without_parts_components_stand_by_layer(zoo, tmp_path):
    model, task = zoo
    found = cf.activation_patch(model, task, "node", n=4)
    values, rows, columns = found.table()
    assert rows == ["input", "0", "1", "2", "3"]
    assert columns == [*map(str, range(8)), "mlp", "input"]
    for number, name in enumerate(found.rows):
        row, column = (name, name) if name == "input" else (name[1], "mlp" if name[0] == "m" else name[4:])
        assert values[rows.index(row), columns.index(column)] == found.values[number, 0]
    assert np.isnan(values).sum() == values.size - len(found.rows)
    assert found.render(tmp_path / "map.png").exists()
    assert by_layer(("a0.h1", "a0.h1+m2"), np.zeros(2)) is None
    streams = by_layer(names_of(model.graph, "residual"), np.arange(9.0))
    assert streams[1:] == (["0", "1", "2", "3", "final"], ["pre", "mid"])
    assert streams[0][:4].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_ablation_is_a_table_json_and_a_picture(zoo, tmp_path):
    model, task = zoo
    found = cf.ablate(model, task, "head", each=True, n=4)
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    np.testing.assert_allclose(frame["before"] - frame["after"], frame["effect"], atol=1e-9)
    assert (frame["low"] <= frame["effect"]).all()
    assert (frame["effect"] <= frame["high"]).all()
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["component"] for row in told["effects"]] == list(found.names)
    assert (np.array(told["per_example"]["after"]) == found.after).all()
    assert found.provenance.split == "held-out"
    assert found.render(tmp_path / "map.svg").exists()
    assert cf.ablate(model, task, ["a0.h1", "m1"], n=4).render(tmp_path / "one.svg").exists()


def test_a_long_list_has_a_short_name():
    assert label(["a0.h0", "m1"]) == "a0.h0+m1"
    assert label([f"m{layer}" for layer in range(9)]) == "m0+m1+m2+m3+m4+4 more"


@pytest.mark.parametrize(
    ("shape", "what", "options", "error", "words"),
    [
        ({}, "a9.h1", {}, UnknownNameError, "unknown component 'a9.h1'"),
        ({}, "heads", {}, UnknownNameError, "unknown component 'heads'"),
        ({}, [], {}, OptionError, "name at least one"),
        ({}, [["m0"], []], {}, OptionError, "name at least one"),
        ({}, "m0.n20", {}, OptionError, "m0 has no neuron 20; its neurons are 0 to 19"),
        ({}, "m2.n0", {}, OptionError, "there is no MLP m2"),
        ({"d_mlp": 0}, "mlp", {}, OptionError, "has no MLPs"),
        ({"d_mlp": 0}, "m0.n1", {}, OptionError, "this model has 0 MLPs"),
        ({"granularity": "attention blocks"}, "head", {}, OptionError, "no write of its own; use 'attention'"),
        ({"parallel": True}, "resid_mid.0", {}, UnknownNameError, "unknown component 'resid_mid.0'"),
        ({}, "head", {"by": "word"}, OptionError, "use 'position', 'span', 'length' or ''"),
        ({}, "head", {"by": "span"}, OptionError, "no labelled positions"),
        ({}, "head", {"direction": "forward"}, OptionError, "'denoising'"),
        ({}, "head", {"ablation": "mean"}, OptionError, "direction='noising'"),
        ({}, "head", {"ablation": "none", "direction": "noising"}, UnknownNameError, "unknown ablation 'none'"),
    ],
)
def test_what_makes_no_sense_is_refused(shape, what, options, error, words):
    model = small_model(**shape)
    with pytest.raises(error, match=words.replace("(", r"\(")):
        cf.activation_patch(model, IOI, what, pairs=random_pairs(model), **options)


def test_experts_have_no_neurons():
    model = small_model(gated=True, n_experts=3, experts_per_token=2, d_expert=6, dense_layers=(0,), activation="silu")
    pairs = random_pairs(model)
    assert len(cf.ablate(model, IOI, "m0", neurons=[1], pairs=pairs).names) == 1
    for words in ({"nodes": "m1", "neurons": "all"}, {"nodes": "m1.n0"}):
        with pytest.raises(OptionError, match=r"m1 is a mixture of experts: .* ablate m1 as a whole"):
            cf.ablate(model, IOI, words.pop("nodes"), pairs=pairs, **words)


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ("a0.h1", {"neurons": [1]}, "belongs to one MLP"),
        (["m0", "m1"], {"neurons": [1]}, "belongs to one MLP"),
        ("m0", {"neurons": "some"}, "a list of numbers, or 'all'"),
        ("m0", {"neurons": []}, "no neuron of m0 is given"),
        ("m0", {"neurons": [-1]}, "has no neuron -1"),
        ([["m0"], ["m1"]], {"each": True}, "one list after the other"),
    ],
)
def test_what_cannot_be_knocked_out_is_refused(nodes, options, words):
    model = small_model()
    with pytest.raises(OptionError, match=words):
        cf.ablate(model, IOI, nodes, pairs=random_pairs(model), **options)


def test_the_command_line_patches_and_draws(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("activation-patch", "ioi", "--what", "residual", "--by", "span", "--prompts", "4", "--out", "map.svg")
    code, out, err = command_line(*words)
    assert (code, err) == (0, "")
    assert "resid_final at END (4)" in out
    assert "+100.0%" in out
    assert (tmp_path / "map.svg").exists()
    code, out, _ = command_line(*words, "--json", "--direction", "noising", "--ablation", "mean")
    told = json.loads(out)
    assert (code, told["direction"], told["picture"]) == (0, "noising", "map.svg")


def test_the_command_line_knocks_out(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line("ablate", "ioi", "a0.h6", "m1", "--prompts", "4")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("a0.h6+m1")
    code, out, _ = command_line("ablate", "ioi", "m2", "--neurons", "3,17", "--each", "--prompts", "4", "--json")
    assert (code, [row["component"] for row in json.loads(out)["effects"]]) == (0, ["m2.n3", "m2.n17"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("activation-patch", "ioi", "--direction", "up"), "direction 'up'"),
        (("activation-patch", "ioi", "--out", "map.gif"), "must be one of .svg, .png, .pdf"),
        (("ablate", "ioi", "a9.h1"), "unknown component 'a9.h1'"),
        (("ablate", "ioi", "m1", "--neurons", "x"), "separated by commas"),
        (("ablate", "ioi", "m1", "--ablation", "none"), "unknown ablation 'none'"),
    ],
)
def test_the_command_line_refuses_with_one_message(command_line, words, said):
    code, _, err = command_line(*words)
    assert code == 2
    assert err.count("circuitfind: ") == 1
    assert said in err


def test_neurons_have_no_optimal_constants(few_pairs):
    with pytest.raises(OptionError, match="neurons have no constants of optimal ablation"):
        cf.ablate(small_model(), IOI, "m0.n3", ablation="optimal", pairs=few_pairs)
