"""Run folders of searches that decide edge by edge."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from picture_text import picture_text
from runs import CONFIG, FILES, run

import circuitfind as cf
from circuitfind import rendering
from circuitfind.errors import OptionError
from circuitfind.execution import make_batches
from circuitfind.run import said
from circuitfind.run.estimate import estimate
from circuitfind.selection.prefixes import decided_edges
from circuitfind.setting.defaults import FAITHFULNESS

SCHEMA = json.loads((Path(cf.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8"))


DECIDING = dict(CONFIG, task="induction", model="induction-2l", algorithm="acdc", n=6, n_random=0)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    return run(dict(DECIDING, options={"threshold": 0.3}), tmp_path_factory.mktemp("runs") / "acdc")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return run(dict(DECIDING, options={"threshold": "0.03,0.3"}), tmp_path_factory.mktemp("runs") / "sweep")


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_its_decisions_are_a_table_with_every_digit(decided):
    assert {path.name for path in decided.folder.iterdir()} == FILES | {"decisions.csv"}
    (log,) = decided.scores.decisions
    rows = table(decided.folder / "decisions.csv")
    assert [row["edge"] for row in rows] == log.to_frame().edge.tolist()
    assert [int(row["step"]) for row in rows] == list(range(1, 258))
    for column, name in enumerate(("before", "after")):
        assert [float(row[name]) for row in rows] == log.values[:, column].tolist()
    assert [float(row["delta"]) for row in rows if row["delta"]] == log.delta[log.tested].tolist()
    assert [row["decision"] == "kept" for row in rows] == log.kept_candidates.tolist()


def test_its_own_circuit_is_the_default_and_what_pruning_drops_is_said(decided):
    circuit, kept = decided.circuit, decided.scores.decided
    chosen = {"rule": "decided", "threshold": 0.3, "absolute": False, "asked": int(kept.sum()), "kept": circuit.n_edges}
    assert circuit.selection == chosen
    assert not (circuit.kept & ~kept).any()
    dropped = chosen["asked"] - chosen["kept"]
    assert dropped > 1
    assert decided.sentences[-1] == (
        f"{dropped} kept edges are on no path from the input and were pruned: under corrupted ablation they carry nothing."
    )
    assert set(decided.scores.decisions[0].summary()) < set(decided.sentences)
    jsonschema.validate(json.loads((decided.folder / "circuit.json").read_text()), SCHEMA)
    assert "edges kept at threshold 0.3" in picture_text((decided.folder / "circuit.dot").read_text())


def test_one_dropped_edge_is_not_several():
    scores = cf.discover(cf.load_model("induction-2l"), "induction", algorithm="acdc", n=2, threshold=0.03)
    circuit = cf.select(scores)
    assert circuit.selection["asked"] - circuit.selection["kept"] == 1
    sentence = "1 kept edge is on no path from the input and was pruned: under corrupted ablation it carries nothing."
    assert said.about_decisions(scores, circuit)[-1] == sentence
    assert not any("pruned" in line for line in said.about_decisions(scores, cf.select(scores, top=20)))


def test_a_sweep_has_its_thresholds_as_a_table_and_is_chosen_from_by_faithfulness(swept):
    assert {path.name for path in swept.folder.iterdir()} == FILES | {"decisions.csv", "thresholds.csv"}
    logs = swept.scores.decisions
    assert [log.threshold for log in logs] == [0.3, 0.03]
    expected = [(repr(log.threshold), str(log.kept.sum()), str(log.tested.sum())) for log in logs]
    rows = table(swept.folder / "thresholds.csv")
    assert [tuple(row.values()) for row in rows] == expected
    assert list(rows[0]) == ["threshold", "kept", "tests"]
    assert len(table(swept.folder / "decisions.csv")) == 2 * 257
    assert {line for log in logs for line in log.summary()} < set(swept.sentences)
    assert (swept.circuit.selection["rule"], swept.circuit.selection["target"]) == ("faithfulness", FAITHFULNESS)


def test_an_explicit_rule_is_obeyed_all_the_same(decided, tmp_path):
    done = run(dict(DECIDING, rule="top", value=12, options={"threshold": 0.3}), tmp_path / "top")
    assert done.circuit.selection["rule"] == "top"
    assert {path.name for path in done.folder.iterdir()} == FILES | {"decisions.csv"}
    assert not any("pruned" in line for line in done.sentences)


def test_without_a_rule_select_gives_the_decided_circuit_or_the_faithful_one(decided, swept):
    assert (cf.select(decided.scores).kept == decided.circuit.kept).all()
    with pytest.raises(OptionError, match="choosing by faithfulness runs the model"):
        cf.select(swept.scores)
    with pytest.raises(
        OptionError, match=r"acdc decided at 2 thresholds, so it has no single circuit of its own; give top="
    ):
        decided_edges(swept.scores)
    ranked = cf.discover(cf.load_model("induction-2l"), "induction", algorithm="random-edges", n=2)
    with pytest.raises(OptionError, match="random-edges ranks edges and keeps none itself"):
        decided_edges(ranked)


def test_the_caption_says_when_sizes_were_decided_about(decided):
    by_size = replace(decided.circuit, selection={**decided.circuit.selection, "absolute": True})
    assert rendering.selection_words(by_size) == "edges kept at threshold 0.3 by |delta|"


def test_the_estimate_of_a_search_holds_all_prompts_at_once():
    model = cf.load_model("induction-2l")
    setting = cf.Setting("induction", model, n=64)

    def megabytes(algorithm, size):
        line = estimate(setting.but(batch_size=size), algorithm, cf.ALGORITHMS[algorithm].options)
        return float(re.search(r"([\d,]+) MB above the model", line)[1].replace(",", ""))

    assert megabytes("acdc", 8) > 0.5 * megabytes("acdc", 64)  # batches of similar length are less padded
    assert megabytes("eap", 8) < 0.2 * megabytes("eap", 64)
    c, graph = model.config, model.graph
    tokens = sum(batch.clean.numel() for batch in make_batches(model, setting.train, 8))
    vectors = 2 * graph.n_senders + len(graph.blocks) + graph.n_layers * 3 * graph.n_heads + 1
    numbers = tokens * (vectors * c.d_model + 3 * graph.n_layers * graph.n_heads * c.d_head)
    assert megabytes("acdc", 8) == round(4 * numbers / 2**20)
