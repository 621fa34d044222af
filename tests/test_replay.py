"""A log of ACDC replays clean with the plain engine; what was changed in it is found, at its step."""

import csv
import json
import shutil
from collections import Counter
from functools import partial

import numpy as np
import pytest
from conftest import small_model
from runs import run

import circuitfind as cf
from circuitfind.discovery.search.visiting_order import visiting_order
from circuitfind.errors import CircuitError, CircuitfindError, OptionError, UnknownNameError
from circuitfind.run.replay import PROMPTS_ON_CPU, Disagreement, PlainCircuit, Replay, Rule, replay_decisions
from circuitfind.scores import EdgeScores
from circuitfind.scores.decision_table import COLUMNS, Row, edges_called, read_table
from circuitfind.scores.decisions import HOW, PORT_CUT, SAME_VALUE, TESTED, UNREAD
from circuitfind.task.write_pairs import write_pairs

CONFIG = {
    "task": "induction",
    "model": "induction-2l",
    "algorithm": "acdc",
    "n": 6,
    "n_held_out": 3,
    "n_random": 0,
    "seed": 2,
}
CONFIG |= {"options": {"threshold": 0.03}}
RUNS = {
    "corrupted": {},
    "zero": {"ablation": "zero"},
    "mean-positional": {"ablation": "mean-positional"},
    "three ports together, heads upwards": {"options": {"split_qkv": False, "heads": "low-to-high"}},
    "whole ports too": {"options": {"direct_edges": True}},
    "size of the logit difference": {"metric": "logit-diff", "options": {"absolute": True, "threshold": 0.1}},
    "sweep": {"options": {"threshold": (0.3, 0.03)}},
    "float64": {"dtype": "float64"},
}
STEP = 40
"""A tested row of the corrupted run, with some decisions of both kinds before it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The run folder of one of :data:`RUNS`; each is made once."""
    place, folders = tmp_path_factory.mktemp("replay"), {}

    def make(name: str):
        if name not in folders:
            folders[name] = run(dict(CONFIG, **RUNS[name]), place / f"run-{len(folders)}").folder
        return folders[name]

    return make


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "decisions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder, rows, columns=None) -> None:
    with (folder / "decisions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of a run, its log as a list of rows, and a function that writes the list back."""

    def make(name: str = "corrupted"):
        folder = tmp_path / "copy"
        shutil.copytree(made(name), folder)
        rows = rows_of(folder)
        return folder, rows, lambda: write(folder, rows)

    return make


# --- a log replays clean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_every_decision_of_a_run_is_made_again(made, name):
    folder = made(name)
    rows = rows_of(folder)
    replays = replay_decisions(folder)
    assert [replay.threshold for replay in replays] == (
        [0.3, 0.03] if name == "sweep" else [float(rows[0]["threshold"])]
    )
    for replay in replays:
        assert replay.passed, replay.first
        assert (replay.agree, replay.too_close) == (replay.rows, 0)
        assert replay.tested == sum(
            row["how"].startswith("tested") for row in rows if float(row["threshold"]) == replay.threshold
        )
        assert replay.largest < (1e-12 if name == "float64" else 5e-6)
    assert sum(replay.rows for replay in replays) == len(rows)


def test_the_runs_above_hold_every_way_to_decide(made):
    ways = Counter(row["how"] for name in RUNS for row in rows_of(made(name)))
    assert set(HOW) - {"tested in float64"} <= set(ways)
    assert min(ways.values()) > 0


def test_one_threshold_of_a_sweep_and_the_first_tests_alone(made):
    (replay,) = replay_decisions(made("sweep") / "decisions.csv", threshold=0.03, steps=7)
    assert (replay.threshold, replay.tested, replay.passed) == (0.03, 7, True)
    assert len(replay_decisions(made("sweep"), steps=1)) == 2
    (whole,) = replay_decisions(made("sweep"), threshold=0.3, steps=10**6)
    assert whole.rows == 257


def test_another_precision_may_be_asked_for(made):
    (replay,) = cf.replay_decisions(str(made("corrupted")), dtype="float32", steps=60)
    assert replay.passed
    assert 0 < replay.largest < 2e-5


def test_the_micro_batches_of_the_replay_do_not_matter(made, monkeypatch):
    monkeypatch.setattr("circuitfind.run.replay.PROMPTS_ON_CPU", 4)
    assert CONFIG["n"] < PROMPTS_ON_CPU
    (replay,) = replay_decisions(made("mean-positional"), steps=20)
    assert replay.passed


def test_pairs_of_ones_own_are_read_from_the_run_folder(tmp_path):
    """Fewer than the file has, in an order that its name decides."""
    data = tmp_path / "mine.csv"
    write_pairs(cf.TASKS["induction"].pairs(12), data)
    folder = run(dict(CONFIG, task=str(data), n=5), tmp_path / "out").folder
    data.unlink()
    (replay,) = replay_decisions(folder, steps=10)
    assert replay.passed


# --- what was changed is found ----------------------------------------------------------------------------------------


def flipped(row) -> None:
    row["decision"] = "kept" if row["decision"] == "cut" else "cut"


def only_step(copy, change, name="corrupted", step=STEP) -> Replay:
    """The replay of a log with one changed row, at which it must be found."""
    folder, rows, save = copy(name)
    change(rows[step - 1])
    save()
    (replay,) = replay_decisions(folder)
    assert replay.first is not None
    assert (replay.first.step, replay.first.edge) == (step, rows[step - 1]["edge"])
    return replay


def step_of(folder, **values) -> int:
    """The last step whose row has these values."""
    return max(int(row["step"]) for row in rows_of(folder) if values.items() <= row.items())


@pytest.mark.parametrize("decision", ["kept", "cut"])
def test_another_decision_is_found_at_its_step(copy, made, decision):
    step = next(
        int(row["step"])
        for row in rows_of(made("corrupted"))[STEP:]
        if row["how"] == "tested" and row["decision"] == decision
    )
    replay = only_step(copy, flipped, step=step)
    other = "cut" if decision == "kept" else "kept"
    assert replay.first.reason == f"the log has {other}, the replay {decision}"
    assert abs(replay.first.logged - replay.first.replayed) < 1e-5


@pytest.mark.parametrize("column", ["before", "after", "delta"])
def test_another_number_is_found_and_spoils_no_other_row(copy, column):
    def change(row):
        row[column] = repr(float(row[column]) + 1e-3)

    replay = only_step(copy, change)
    assert replay.agree == replay.rows - 1
    assert f"the log has {column} " in replay.first.reason
    assert (replay.largest == pytest.approx(1e-3, rel=0.01)) == (column == "delta")


@pytest.mark.parametrize(("how", "reason"), [(UNREAD, "a kept edge leaves it"), (PORT_CUT, "but it was not")])
def test_a_reason_that_does_not_hold_is_found(copy, made, how, reason):
    step = step_of(made("corrupted"), how="tested", decision="cut")
    replay = only_step(copy, lambda row: row.update(how=HOW[how], delta="", margin=""), step=step)
    assert reason in replay.first.reason
    assert replay.first.logged is None


def test_a_value_that_is_not_the_same_is_found(copy, made):
    step = step_of(made("corrupted"), how="tested", decision="kept")
    replay = only_step(copy, lambda row: row.update(how=HOW[SAME_VALUE], delta=""), step=step)
    assert "the cut changes the loss" in replay.first.reason


@pytest.mark.parametrize("how", [UNREAD, PORT_CUT])
def test_what_is_not_tested_must_be_cut(copy, made, how):
    step = step_of(made("whole ports too"), how=HOW[how])
    replay = only_step(copy, flipped, "whole ports too", step)
    assert replay.first.reason == "the log has kept, the replay cut"


def test_a_changed_row_after_the_last_step_is_not_seen(copy):
    folder, rows, save = copy()
    flipped(rows[STEP - 1])
    save()
    before = sum(row["how"].startswith("tested") for row in rows[: STEP - 1])
    assert rows[STEP - 1]["how"] == "tested"
    assert replay_decisions(folder, steps=before)[0].passed
    assert not replay_decisions(folder, steps=before + 1)[0].passed


def test_every_disagreement_of_a_sweep_is_told_apart(copy):
    folder, rows, save = copy("sweep")
    flipped(rows[257 + STEP])
    save()
    first, second = replay_decisions(folder)
    assert first.passed
    assert (second.first.step, second.first.threshold) == (STEP + 1, 0.03)


# --- one row against its rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "kept", "absolute", "right"),
    [
        (1.0, 1.5, True, False, True),  # delta is the threshold: strictly below would be cut
        (1.0, 1.25, True, False, False),
        (1.0, 0.0, False, False, True),
        (1.0, 0.0, False, True, False),
        (1.0, 0.0, True, True, True),
    ],
)
def test_the_rule_is_strict_and_may_be_about_sizes(before, after, kept, absolute, right):
    row = Row(1, "a0.h0->logits", (0,), before, after, after - before, kept, TESTED)
    assert (Rule(0.5, absolute, 0.0, 1e-5).objection(row, before, after) == "") == right


def test_what_rounding_cannot_tell_may_be_either():
    rule = Rule(0.5, False, 1e-11, 1e-5)
    for kept in (True, False):
        row = Row(1, "a0.h0->logits", (0,), 2.0, 2.5, 0.5, kept, TESTED)
        assert rule.too_close(row, 2.0, 2.5 + 1e-11)
        assert rule.objection(row, 2.0, 2.5 + 1e-11) == ""
        assert not rule.too_close(row, 2.0, 2.5 + 1e-10)
    untested = Row(1, "a0.h0->logits", (0,), 2.0, 2.0, np.nan, False, UNREAD)
    assert not Rule(0.0, False, 1e-11, 1e-5).too_close(untested, 2.0, 2.0)


def test_a_threshold_of_0_leaves_ties_and_says_so(tmp_path):
    folder = run(dict(CONFIG, options={"threshold": 0.0}), tmp_path / "out").folder
    (replay,) = replay_decisions(folder)
    assert replay.passed
    assert 0 < replay.too_close < replay.tested
    assert replay.sentences()[1].startswith(f"{replay.too_close} of the tests are too close to the threshold to tell")


# --- names of candidates ----------------------------------------------------------------------------------------------


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


# --- what is refused --------------------------------------------------------------------------------------------------


def changed(**values):
    return lambda rows: rows[STEP - 1].update(values)


DAMAGES = {
    "a row is missing": (lambda rows: rows.pop(STEP), rf"row {STEP + 1}: step {STEP + 2} follows step {STEP}"),
    "the end is missing": (lambda rows: rows.pop(), r"threshold 0\.03: 256 decisions, where the run makes 257"),
    "unknown edge": (changed(edge="a0.h9->logits"), rf"row {STEP}: unknown sender in edge .*'a0\.h9'"),
    "edge against the order": (changed(edge="a0.h0->logits"), rf"step {STEP}: a0\.h0->logits, where the run comes to"),
    "another decision": (
        changed(decision="perhaps"),
        rf"row {STEP}: decision is 'perhaps'; it is one of 'cut', 'kept'",
    ),
    "another reason": (changed(how="guessed"), "how is 'guessed'; it is one of 'tested', "),
    "no number": (changed(before="much"), f"row {STEP}: could not convert string to float: 'much'"),
    "infinite": (changed(after="inf"), f"row {STEP}: .* are no numbers"),
    "a test without delta": (changed(delta=""), f"row {STEP}: .* are no numbers"),
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
        (",".join(COLUMNS).encode() + b"\n", "at the thresholds of no row"),
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
    ranked = run(dict(CONFIG, algorithm="eap", rule="top", value=20, options={}), tmp_path / "eap").folder
    with pytest.raises(OptionError, match="is a run of eap, which makes no decisions to replay"):
        replay_decisions(ranked)


# --- on the command line ----------------------------------------------------------------------------------------------


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


# --- parts ------------------------------------------------------------------------------------------------------------


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
