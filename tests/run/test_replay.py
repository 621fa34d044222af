"""A log of ACDC replays clean with the plain engine; what was changed in it is found, at its step."""

from collections import Counter

import numpy as np
import pytest
from replayed import RUNS, SEARCH, STEP, flipped, rows_of
from runs import run

import circuitfind as cf
from circuitfind.run.replay import PROMPTS_ON_CPU, DecisionRule, Replay, replay_decisions
from circuitfind.scores.decision_table import LoggedDecision
from circuitfind.scores.decisions import HOW, PORT_CUT, SAME_VALUE, TESTED, UNREAD
from circuitfind.task.write_pairs import write_pairs


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
    assert SEARCH["n"] < PROMPTS_ON_CPU
    (replay,) = replay_decisions(made("mean-positional"), steps=20)
    assert replay.passed


def test_pairs_of_ones_own_are_read_from_the_run_folder(tmp_path):
    """Fewer than the file has, in an order that its name decides."""
    data = tmp_path / "mine.csv"
    write_pairs(cf.TASKS["induction"].pairs(12), data)
    folder = run(dict(SEARCH, task=str(data), n=5), tmp_path / "out").folder
    data.unlink()
    (replay,) = replay_decisions(folder, steps=10)
    assert replay.passed


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
    row = LoggedDecision(1, "a0.h0->logits", (0,), before, after, after - before, kept, TESTED)
    assert (DecisionRule(0.5, absolute, 0.0, 1e-5).objection(row, before, after) == "") == right


def test_what_rounding_cannot_tell_may_be_either():
    rule = DecisionRule(0.5, False, 1e-11, 1e-5)
    for kept in (True, False):
        row = LoggedDecision(1, "a0.h0->logits", (0,), 2.0, 2.5, 0.5, kept, TESTED)
        assert rule.too_close(row, 2.0, 2.5 + 1e-11)
        assert rule.objection(row, 2.0, 2.5 + 1e-11) == ""
        assert not rule.too_close(row, 2.0, 2.5 + 1e-10)
    untested = LoggedDecision(1, "a0.h0->logits", (0,), 2.0, 2.0, np.nan, False, UNREAD)
    assert not DecisionRule(0.0, False, 1e-11, 1e-5).too_close(untested, 2.0, 2.0)


def test_a_threshold_of_0_leaves_ties_and_says_so(tmp_path):
    folder = run(dict(SEARCH, options={"threshold": 0.0}), tmp_path / "out").folder
    (replay,) = replay_decisions(folder)
    assert replay.passed
    assert 0 < replay.too_close < replay.tested
    assert replay.sentences()[1].startswith(f"{replay.too_close} of the tests are too close to the threshold to tell")
