"""A run folder is whole or partial, never overwritten by accident, and the same again from the same configuration."""

import csv
import html
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest
import torch
from runs import config_of, run, setting_of

import circuitfind as cf
from circuitfind import models, progress, rendering
from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import sums
from circuitfind.errors import CircuitfindError, NumericalError, OptionError, PairsError
from circuitfind.execution import make_batches
from circuitfind.run import calls, pipeline
from circuitfind.run.estimate import estimate
from circuitfind.run.folder import RunFolder
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import decided_edges
from circuitfind.setting.defaults import FAITHFULNESS
from circuitfind.task.write_pairs import write_pairs

CONFIG = {"n": 8, "n_held_out": 6, "n_random": 2, "seed": 1, "batch_size": 4}
SCHEMA = json.loads((Path(cf.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8"))
FILES = {
    "config.json",
    "scores.safetensors",
    "circuit.json",
    "edges.csv",
    "evaluation.json",
    "circuit.dot",
    "circuit.svg",
    "circuit.png",
    "versions.json",
    "summary.txt",
}


DECIDING = dict(CONFIG, task="induction", model="induction-2l", algorithm="acdc", n=6, n_random=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(CONFIG, tmp_path_factory.mktemp("runs") / "ioi")


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    return run(dict(DECIDING, options={"threshold": 0.3}), tmp_path_factory.mktemp("runs") / "acdc")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return run(dict(DECIDING, options={"threshold": "0.03,0.3"}), tmp_path_factory.mktemp("runs") / "sweep")


def interrupt(monkeypatch, at_step: int) -> None:
    """Ctrl-C in the middle of discovery."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    original, done = sums.in_pieces, []

    def interrupted(step, contribute):
        if len(done) == at_step:
            raise KeyboardInterrupt
        done.append(step)
        return original(step, contribute)

    monkeypatch.setattr(sums, "in_pieces", interrupted)


def started(out, monkeypatch, config=CONFIG, at_step=1):
    """A folder in which one step of the discovery is done."""
    with monkeypatch.context() as patch:
        interrupt(patch, at_step)
        with pytest.raises(KeyboardInterrupt):
            run(config, out)
    return out.with_name(out.name + ".partial")


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_a_finished_run_has_every_file_and_leaves_nothing_else(finished):
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert [path.name for path in finished.folder.parent.iterdir()] == [finished.folder.name]


def test_the_files_hold_what_was_returned(finished):
    folder = finished.folder
    assert (EdgeScores.load(folder / "scores.safetensors").values == finished.scores.values).all()
    assert (Circuit.load(folder / "circuit.json").kept == finished.circuit.kept).all()
    assert json.loads((folder / "evaluation.json").read_text())["faithfulness"] == finished.evaluation.faithfulness
    assert (folder / "summary.txt").read_text().splitlines() == finished.sentences
    rows = (folder / "edges.csv").read_text().splitlines()
    assert rows[0] == "name,source,target,port,score"
    assert len(rows) == 1 + finished.circuit.n_edges


def test_a_large_circuit_has_its_strongest_edges_in_the_table_and_all_in_json(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "MOST_ROWS", 7)
    done = run(dict(CONFIG, algorithm="eap", rule="top", value=40), tmp_path / "out")
    rows = (tmp_path / "out" / "edges.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == [edge["name"] for edge in done.circuit.edges[:7]]
    assert len(Circuit.load(tmp_path / "out" / "circuit.json").edges) == done.circuit.n_edges > 7
    assert f"edges.csv holds the 7 strongest of the {done.circuit.n_edges} kept edges" in done.sentences[-1]


def test_the_configuration_is_resolved_and_the_versions_are_named(finished):
    config = json.loads((finished.folder / "config.json").read_text())
    assert config["seed"] == 1
    assert config["model"] == "tasks-4l"
    assert config["circuitfind"] == cf.__version__
    assert config["algorithm"] == "eap-ig-inputs"
    setting, rest = setting_of(CONFIG), config_of(CONFIG).resolved(setting_of(CONFIG))[0]
    assert config == {**setting.to_json(), **asdict(rest), "metric_source": {}, "circuitfind": cf.__version__}
    assert {"n_prompts": 8, "n_held_out": 6, "batch_size": 4}.items() <= config.items()
    versions = json.loads((finished.folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert set(pipeline.PACKAGES) <= set(versions)
    assert set(versions["seconds"]) == {"load", "discover", "select", "evaluate", "draw"}


def test_the_provenance_leads_back_to_the_prompts(finished):
    p = finished.circuit.provenance
    model = cf.load_model("tasks-4l")
    pairs = cf.load_task("ioi").pairs(8, split="train", seed=1, tokenizer=model.tokenizer)
    assert (p.n_prompts, p.pairs_hash, p.seed) == (8, pairs.fingerprint, 1)


def test_the_same_configuration_gives_the_same_bytes(finished, tmp_path):
    again = run(CONFIG, tmp_path / "elsewhere")
    for name in FILES - {"versions.json"}:
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_another_batch_size_or_seed_of_the_control_gives_the_same_circuit(finished, tmp_path):
    other = run(dict(CONFIG, batch_size=3, n_random=0, n_held_out=3), tmp_path / "other")
    assert (other.circuit.kept == finished.circuit.kept).all()


def test_what_is_going_on_is_said(tmp_path):
    said = []
    run(dict(CONFIG, algorithm="eap", rule="top", value=30), tmp_path / "out", say=said.append)
    assert said[0].startswith("Transformer('tasks-4l'")
    assert said[1] == "task ioi: 8 train and 6 held-out pairs"
    assert any(line.startswith("eap: 1,519 edges") for line in said)


def test_the_default_folder_says_task_model_and_algorithm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(dict(CONFIG, algorithm="eap", rule="greedy", value=30))
    assert done.folder.resolve() == tmp_path / "results/ioi/tasks-4l/eap"
    assert {path.name for path in done.folder.iterdir()} == FILES


# --- an algorithm that decides edge by edge ---------------------------------------------------------------------------


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
    assert "edges kept at threshold 0.3" in html.unescape((decided.folder / "circuit.dot").read_text())


def test_one_dropped_edge_is_not_several():
    scores = cf.discover(cf.load_model("induction-2l"), "induction", algorithm="acdc", n=2, threshold=0.03)
    circuit = cf.select(scores)
    assert circuit.selection["asked"] - circuit.selection["kept"] == 1
    sentence = "1 kept edge is on no path from the input and was pruned: under corrupted ablation it carries nothing."
    assert pipeline._about_decisions(scores, circuit)[-1] == sentence
    assert not any("pruned" in line for line in pipeline._about_decisions(scores, cf.select(scores, top=20)))


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
        OptionError, match=r"acdc decided at 2 thresholds, so there is no one circuit of its own; give top="
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


# --- what is there already --------------------------------------------------------------------------------------------


def test_a_finished_folder_is_refused_before_the_model_loads_and_replaced_by_force(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    (out / "note.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *args, **options: pytest.fail("the model was loaded"))
        with pytest.raises(OptionError, match="exists already; choose another --out, or replace it with --force"):
            run(CONFIG, out)
    assert (out / "note.txt").exists()
    run(dict(CONFIG, algorithm="eap", rule="top", value=30), out, force=True)
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "config.json").read_text())["algorithm"] == "eap"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_never_deletes_a_folder_that_no_run_has_made(tmp_path, monkeypatch):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    (precious / "config.json").write_text("{}")
    file = tmp_path / "file"
    file.write_text("also precious")
    monkeypatch.chdir(precious)
    for out in (precious, precious.parent / "thesis" / ".", file):
        with pytest.raises(
            OptionError, match=r"is not a run folder, so it is not replaced|is the working folder or holds it"
        ):
            RunFolder(out, force=True)
    assert (precious / "chapter.txt").read_text() == "years of work"
    assert file.read_text() == "also precious"


def test_an_interrupted_run_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    partial = started(out, monkeypatch)
    assert (partial / "checkpoint.safetensors").exists()
    assert not out.exists()
    said, computed = [], []
    original = sums.in_pieces
    monkeypatch.setattr(sums, "in_pieces", lambda *step: computed.append(step) or original(*step))
    resumed = run(CONFIG, out, say=said.append)
    assert f"going on with the interrupted run in {partial}" in said
    assert len(computed) == 1, "one of two micro-batches was left"
    for name in FILES - {"versions.json"}:
        assert (resumed.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == FILES
    assert not partial.exists()


def test_a_run_interrupted_after_discovery_does_not_discover_again(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(calls, "select", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(CONFIG, out)
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered again"))
    resumed = run(CONFIG, out)
    assert (resumed.folder / "circuit.json").read_bytes() == (finished.folder / "circuit.json").read_bytes()


def test_found_scores_serve_another_rule_of_selection(finished, tmp_path, monkeypatch):
    """A target that no circuit reaches is noticed after discovery; the corrected command does not start again."""
    out = tmp_path / "out"
    with pytest.raises(OptionError, match=r"no prefix of the ranking reaches faithfulness 1\.9"):
        run(dict(CONFIG, value=1.9), out)
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered again"))
    done = run(dict(CONFIG, rule="top", value=50), out)
    assert done.circuit.selection["asked"] == 50
    assert (done.scores.values == finished.scores.values).all()


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "eap"}, {"options": {"steps": 3}}, {"seed": 2}, {"n": 9}, {"task": "greater-than"}],
    ids=str,
)
def test_a_partial_folder_of_other_settings_is_refused_and_dropped_by_force(changes, tmp_path, monkeypatch):
    out, other = tmp_path / "out", dict(CONFIG, **changes)
    partial = started(out, monkeypatch)
    with pytest.raises(OptionError, match="holds an interrupted run with other settings, prompts, weights or code"):
        run(other, out)
    assert (partial / "checkpoint.safetensors").exists()
    done = run(dict(other, rule="top", value=50), out, force=True)
    assert {path.name for path in done.folder.iterdir()} == FILES


def test_other_rows_under_the_same_name_are_noticed(tmp_path, monkeypatch):
    data = tmp_path / "pairs.csv"
    write_pairs(cf.TASKS["ioi"].pairs(12, seed=1), data)
    config = dict(CONFIG, task=str(data))
    started(tmp_path / "out", monkeypatch, config)
    write_pairs(cf.TASKS["ioi"].pairs(12, seed=2), data)
    with pytest.raises(OptionError, match="other settings, prompts"):
        run(config, tmp_path / "out")


def test_scores_and_checkpoints_are_written_whole(tmp_path):
    folder = RunFolder(tmp_path / "out")
    folder.begin({"circuitfind": "1"}, {"seed": 0})
    model = cf.load_model("induction-2l")
    scores = cf.discover(model, "induction", algorithm="random-edges", n=2)
    folder.store_scores(scores)
    assert (folder.stored_scores().values == scores.values).all()
    assert {path.name for path in folder.partial.iterdir()} == {"key.json", "config.json", "scores.safetensors"}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "eapp"}, "Did you mean 'eap'"),
        ({"ablation": "means"}, "Did you mean 'mean'"),
        ({"metric": "logits"}, "unknown metric 'logits'"),
        ({"task": "ioy"}, "Did you mean 'ioi'"),
        ({"options": {"step": 3}}, "Did you mean 'steps'"),
        ({"options": {"steps": "few"}}, "it should be a whole number"),
        ({"algorithm": "eap-ig-inputs", "ablation": "zero"}, "eap-ig-inputs is not defined for 'zero' ablation"),
        ({"algorithm": "exact", "parts": "position"}, "exact cannot keep scores apart by 'position'; it offers prompt"),
        ({"n": 0}, "--prompts 0: give at least 1"),
        ({"n_held_out": -3}, "--held-out -3: give at least 1"),
        ({"n_random": -1}, "--random -1: give at least 0"),
        ({"seed": -1}, "--seed -1: give at least 0"),
        ({"batch_size": 0}, "--batch-size 0: give at least 1"),
        ({"value": 0.0}, "--faithfulness 0: give a share"),
        ({"value": float("nan")}, "--faithfulness nan"),
        ({"rule": "top", "value": -2.0}, "cannot keep -2 edges"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_before_the_model_loads(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *args, **options: pytest.fail("the model was loaded"))
    with pytest.raises(CircuitfindError, match=message):
        run(dict(CONFIG, **changes), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def failing_pairs(tmp_path):
    """IOI with the answers swapped: the model prefers the wrong one."""
    pairs = cf.TASKS["ioi"].pairs(12)
    swapped = [replace(pair, correct=pair.incorrect, incorrect=pair.correct) for pair in pairs]
    write_pairs(cf.PromptPairs(tuple(swapped)), tmp_path / "swapped.csv")
    return str(tmp_path / "swapped.csv")


def test_a_model_that_cannot_do_the_task_stops_the_run_before_discovery(tmp_path, monkeypatch):
    config = dict(CONFIG, task=failing_pairs(tmp_path))
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered all the same"))
    with pytest.raises(
        PairsError, match=r"the correct answer on only 0% of the 8 train prompts.*check-pairs.*--anyway"
    ):
        run(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["swapped.csv"]


def test_anyway_goes_on_and_says_so(tmp_path):
    said = []
    config = dict(CONFIG, task=failing_pairs(tmp_path), anyway=True, rule="top", value=50)
    done = run(config, tmp_path / "out", say=said.append)
    assert any(line.startswith("Weak: model 'tasks-4l' prefers the correct answer on only 0%") for line in said)
    assert done.evaluation.accuracy_full == 0
    assert any("the full model itself is right on 0%" in sentence for sentence in done.sentences)


def test_pairs_without_wrong_answers_have_no_chance_to_compare_with(tmp_path):
    pairs = tuple(replace(pair, incorrect=()) for pair in cf.TASKS["ioi"].pairs(12))
    write_pairs(cf.PromptPairs(pairs), tmp_path / "open.csv")
    config = dict(CONFIG, task=str(tmp_path / "open.csv"), rule="top", value=50)
    with pytest.raises(OptionError, match=r"'logit-diff' needs incorrect answers.*use the metric nll or kl"):
        run(config, tmp_path / "refused")
    done = run(dict(config, metric="nll"), tmp_path / "out")
    assert json.loads((done.folder / "evaluation.json").read_text())["accuracy"] is None


def test_one_prompt_is_both_splits_and_that_is_said(tmp_path):
    write_pairs(cf.TASKS["ioi"].pairs(1), tmp_path / "one.csv")
    done = run(dict(CONFIG, task=str(tmp_path / "one.csv"), rule="top", value=50), tmp_path / "out")
    assert any("measured on the prompt it was found on" in sentence for sentence in done.sentences)


def with_weight(key, value):
    model = cf.load_model("tasks-4l")
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    weights[key].view(-1)[0] = value
    return cf.Transformer(model.config, weights, tokenizer=model.tokenizer, name="broken")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_stops_the_run_with_its_layer(value, tmp_path, monkeypatch):
    broken = with_weight("layers.2.W_O", value)
    monkeypatch.setattr(models, "load", lambda *args, **options: broken)
    with pytest.raises(
        NumericalError, match="NaN or infinity in model 'broken' after layer 2, on the clean prompt of pair"
    ):
        run(CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(NumericalError, match="after layer 2"):
        cf.discover(broken, "ioi", n=4)


def test_the_key_of_a_run_is_made_of_what_decides_its_scores(tmp_path):
    def key(name, **decisive):
        folder = RunFolder(tmp_path / name)
        folder.begin({"seconds": name}, decisive)
        return folder.key

    assert key("a", seed=0) == key("b", seed=0) != key("c", seed=1)


@pytest.mark.parametrize(("rule", "value"), [("top", 20), ("faithfulness", 0.5)])
def test_an_algorithm_that_searches_for_a_size_is_told_it_before_it_begins(tmp_path, rule, value):
    config = {
        "task": "induction",
        "model": "induction-2l",
        "algorithm": "refine",
        "n": 16,
        "n_held_out": 8,
        "n_random": 1,
    }
    config |= {"rule": rule, "value": value}
    found = run(config, tmp_path / "out")
    name = {"top": "edges", "faithfulness": "faithfulness"}[rule]
    told = (value,) if rule == "top" else value
    assert found.scores.provenance.options[name] == told
    assert (found.circuit.kept == found.scores.chosen).all()
    own = run(dict(config, options={name: "15" if rule == "top" else "0.4"}), tmp_path / "own")
    assert own.scores.provenance.options[name] == ((15,) if rule == "top" else 0.4), "what is given by name comes first"
