"""Logs that are damaged or do not fit are refused; the command's exit codes."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from builders import small_model
from replayed import SEARCH, STEP, flipped, write
from runs import run

from circuitfind.discovery.search.visiting_order import visiting_order
from circuitfind.errors import CircuitError, CircuitfindError, OptionError, UnknownNameError
from circuitfind.run.replay import Disagreement, PlainCircuit, replay_decisions
from circuitfind.scores import EdgeScores
from circuitfind.scores.decision_table import COLUMNS, edges_called, read_table


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("changes", [{}, {"d_mlp": 0}], ids=str)
def test_every_candidate_is_found_by_its_name(split, changes):
    candidates = visiting_order(small_model(**changes).graph, "high-to-low", split, split)
    for number in range(len(candidates)):
        called = edges_called(candidates.graph, candidates.name(number))
        assert sorted(called) == sorted(candidates.edges(number))


@pytest.mark.parametrize(
    "name", ["", "a0.h1", "a0.h1->", "->logits", "m0->", "a1.h1<q>->a1.h2", "a1.h1->a0.h1", "a1.h0<q>"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises((UnknownNameError, CircuitError)):
        edges_called(small_model().graph, name)


def changed(**values):
    return lambda rows: rows[STEP - 1].update(values)


DAMAGES = {
    "a row is missing": (lambda rows: rows.pop(STEP), rf"row {STEP + 1}: step {STEP + 2} follows step {STEP}"),
    "the end is missing": (lambda rows: rows.pop(), r"threshold 0\.03: 256 decisions, but the run makes 257"),
    "unknown edge": (changed(edge="a0.h9->logits"), rf"row {STEP}: unknown sender in edge .*'a0\.h9'"),
    "edge against the order": (
        changed(edge="a0.h0->logits"),
        rf"step {STEP}: a0\.h0->logits, but the run's next edge is",
    ),
    "another decision": (
        changed(decision="perhaps"),
        rf"row {STEP}: decision is 'perhaps'; it is one of 'cut', 'kept'",
    ),
    "another reason": (changed(how="guessed"), "how is 'guessed'; it is one of 'tested', "),
    "no number": (changed(before="much"), f"row {STEP}: could not convert string to float: 'much'"),
    "infinite": (changed(after="inf"), f"row {STEP}: .* are not finite numbers"),
    "a test without delta": (changed(delta=""), f"row {STEP}: .* are not finite numbers"),
    "another threshold": (changed(threshold="0.04"), "step 40 follows step 0"),
    "other thresholds": (
        lambda rows: [row.update(threshold="0.04") for row in rows],
        r"has decisions at the thresholds 0\.04; the run was made at 0\.03",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_refused_with_the_place(copy, damage):
    change, message = DAMAGES[damage]
    folder, rows, save = copy()
    change(rows)
    save()
    with pytest.raises(CircuitError, match=message):
        replay_decisions(folder)


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_missing_column_is_named(copy, missing):
    folder, rows, _ = copy()
    write(folder, rows, [name for name in COLUMNS if name != missing])
    with pytest.raises(CircuitError, match=f"has no column '{missing}'; a log of decisions has step, threshold, edge"):
        replay_decisions(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column 'step'"),
        (b"\xff\xfe\x00", "is not a readable log of decisions"),
        (",".join(COLUMNS).encode() + b"\n", r"at the thresholds \(none\)"),
        (",".join(COLUMNS).encode() + b"\n1,0.03\n", "row 1: decision is None"),
    ],
)
def test_a_file_that_is_no_log_is_refused(copy, content, message):
    folder, _, _ = copy()
    (folder / "decisions.csv").write_bytes(content)
    with pytest.raises(CircuitError, match=message):
        replay_decisions(folder)


def test_other_prompts_are_refused(copy):
    folder, _, _ = copy()
    circuit = json.loads((folder / "circuit.json").read_text())
    circuit["provenance"]["pairs_hash"] = "0" * 64
    (folder / "circuit.json").write_text(json.dumps(circuit))
    with pytest.raises(
        CircuitError, match=r"are not those of the run any more \(fingerprint .*, the run's is 000000000000"
    ):
        replay_decisions(folder)


def test_a_log_needs_its_run_folder(made, tmp_path):
    shutil.copy(made("corrupted") / "decisions.csv", tmp_path / "log.csv")
    with pytest.raises(OptionError, match=r"is not a run folder: it has no config\.json.*give the folder"):
        replay_decisions(tmp_path / "log.csv")
    with pytest.raises(OptionError, match=r"there is no .*nowhere; give a run folder"):
        replay_decisions(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps 0: give at least 1"),
        ({"threshold": 0.5}, r"--threshold 0\.5: the log has 0\.03"),
        ({"dtype": "float16"}, "unknown dtype 'float16'; use one of float32, float64, bfloat16"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused(made, options, message):
    with pytest.raises(OptionError, match=message):
        replay_decisions(made("corrupted"), **options)


def test_a_run_without_decisions_is_refused(copy, tmp_path):
    folder, _, _ = copy()
    (folder / "decisions.csv").unlink()
    with pytest.raises(OptionError, match=r"there is no .*decisions.csv; make the run again"):
        replay_decisions(folder)
    ranked = run(dict(SEARCH, algorithm="eap", rule="top", value=20, options={}), tmp_path / "eap").folder
    with pytest.raises(OptionError, match="is a run of eap, which makes no decisions to replay"):
        replay_decisions(ranked)


@pytest.fixture
def command(command_line):
    """Run ``circuitfind replay``: exit code, standard output, standard error."""
    return partial(command_line, "replay")


def test_the_command_exits_with_0_if_all_agrees(command, made):
    code, out, err = command(made("corrupted"))
    assert (code, err) == (0, "")
    assert out.startswith("threshold 0.03: 257 of 257 decisions agree (")
    code, out, _ = command(made("sweep"), "--threshold", "0.3", "--steps", "3", "--dtype", "float32", "--json")
    values = json.loads(out)
    assert (code, values["passed"], len(values["thresholds"])) == (0, True, 1)
    assert (values["thresholds"][0]["tested"], values["thresholds"][0]["first"]) == (3, None)


def test_the_command_exits_with_1_and_the_first_disagreement(command, copy):
    folder, rows, save = copy()
    flipped(rows[STEP - 1])
    save()
    code, out, err = command(folder)
    assert (code, err) == (1, "")
    assert f"first disagreement: step {STEP}, {rows[STEP - 1]['edge']}: the log has " in out
    code, out, _ = command(folder, "--json")
    first = json.loads(out)["thresholds"][0]["first"]
    assert (code, first["step"], first["edge"]) == (1, STEP, rows[STEP - 1]["edge"])
    assert first["logged"] == float(rows[STEP - 1]["delta"])


def test_the_command_exits_with_2_where_the_log_is_damaged(command, copy):
    folder, rows, save = copy()
    rows.pop(3)
    save()
    code, out, err = command(folder)
    assert (code, out) == (2, "")
    assert err.startswith("circuitfind: ")
    assert len(err.splitlines()) == 1


def test_the_table_holds_the_very_numbers_of_the_log(made):
    folder = made("sweep")
    scores = EdgeScores.load(folder / "scores.safetensors")
    logs = read_table(folder / "decisions.csv", scores.graph)
    assert list(logs) == [log.threshold for log in scores.decisions]
    for log, rows in zip(scores.decisions, logs.values(), strict=True):
        assert [(row.before, row.after, row.kept, row.how) for row in rows] == [tuple(v) for v in log.values[:, :4]]
        assert [row.delta for row in rows if row.tested] == log.delta[log.tested].tolist()


def test_a_disagreement_says_all_of_it():
    lost = Disagreement(7, "m0->logits", None, 0.25, 0.01, "the port was not cut")
    assert str(lost) == "step 7, m0->logits: the port was not cut (log: no delta, replay: delta +0.25, threshold 0.01)"


def test_a_loss_that_is_none_stops_the_replay(made, monkeypatch):
    monkeypatch.setattr(PlainCircuit, "is_read", lambda self, row: True)
    monkeypatch.setattr(
        "circuitfind.run.replay.run_masked", lambda model, *rest: model.logits(*rest[:1], rest[-1])[None] * np.nan
    )
    with pytest.raises(CircuitfindError, match="the replayed loss is nan"):
        replay_decisions(made("corrupted"), steps=1)
