"""Pairs checked on the command line, good and faulty."""

import json
import re
from dataclasses import replace

import pytest
from command_lines import CLEAN, CORRUPTED, FEW, TOP, row

import circuitfind as cf
from circuitfind.task.write_pairs import write_pairs


def test_check_pairs_says_pair_by_pair_and_keeps_the_good_ones(run, pairs_csv, tmp_path):
    with pairs_csv.open("a") as file:
        file.write("When Xerxes and John went,When Mary and John went, Mary, John,\n")
    code, out, _ = run("check-pairs", pairs_csv, "--keep-good", "good.csv")
    assert code == 0
    assert "unknown-word" in out
    assert "13 pairs: 12 can be used, 12 are good" in out
    kept = cf.load_task(str(tmp_path / "good.csv")).fixed
    assert [pair.clean for pair in kept] == [pair.clean for pair in cf.TASKS["ioi"].pairs(12)]
    assert run("discover", "--data", "good.csv", *TOP, "--out", "good")[0] == 0


def test_check_pairs_says_loudly_that_a_model_cannot_do_it(run, tmp_path):
    pairs = [replace(p, correct=p.incorrect, incorrect=p.correct) for p in cf.TASKS["ioi"].pairs(4)]
    write_pairs(cf.PromptPairs(tuple(pairs)), tmp_path / "swapped.csv")
    code, out, _ = run("check-pairs", "swapped.csv")
    assert code == 2
    assert (
        "wins on 0% of the usable clean prompts (95 % interval 0% to 49%), which is no better than chance\n"
        "the model cannot do this task" in out
    )
    assert out.count(" model-wrong ") == 4
    assert "       4 model-wrong" in out


HEADER = "clean,corrupted,correct,incorrect\n"


GOOD = "".join(row(CLEAN.replace("store", place), CORRUPTED.replace("store", place)) for place in ("store", "garden"))


FAULTS = {
    "unequal-length": (HEADER + GOOD + row(corrupted=CORRUPTED + " the"), "clean has 14 tokens .* corrupted has 15 "),
    "space-at-the-end": (
        HEADER + GOOD + row(CLEAN + " ", CORRUPTED + " ", " Mary"),
        "the clean prompt ends in a space and the answer ' Mary' begins with one; remove the space from the prompt",
    ),
    "too-long": (HEADER + GOOD + row(CLEAN + " the" * 60, CORRUPTED + " the" * 60), "has 74 tokens, but .* at most 64"),
    "unknown-column": ("clean,corrupted,correct,wrong\n" + GOOD, "has no column 'incorrect'.*'wrong'"),
    "empty-file": ("", r"pairs\.csv is empty"),
    "same-answer": (HEADER + GOOD + row(incorrect=" Mary"), "' Mary' is both a correct and an incorrect answer"),
    "unknown-word": (HEADER + GOOD + row(correct=" Xerxes"), "does not know the word 'Xerxes'"),
    "header-only": (HEADER, "holds no prompt pairs below its header"),
    "not-a-table": ("\0\1\2", "has no column"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_pairs_are_refused_with_the_reason(refused, tmp_path, fault):
    content, reason = FAULTS[fault]
    (tmp_path / "pairs.csv").write_text(content)
    message = refused("discover", "--data", "pairs.csv", *FEW, "--out", "found")
    assert re.search(reason, message, re.DOTALL), message
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


@pytest.mark.parametrize("fault", ["unequal-length", "space-at-the-end", "too-long", "unknown-word"])
def test_check_pairs_reports_faulty_rows_beside_good_ones(run, tmp_path, fault):
    (tmp_path / "pairs.csv").write_text(FAULTS[fault][0])
    code, out, _ = run("check-pairs", "pairs.csv")
    assert code == 0
    assert "3 pairs: 2 can be used, 2 are good" in out
    assert re.search(FAULTS[fault][1], out)


def test_check_pairs_reports_a_label_outside_the_text(run, pairs_csv, tmp_path):
    good, other = cf.TASKS["ioi"].pairs(2)
    write_pairs(cf.PromptPairs((good, replace(other, labels={"S2": 999}))), tmp_path / "labels.csv")
    code, out, _ = run("check-pairs", "labels.csv")
    assert code == 0
    assert "label-outside" in out
    assert "the label S2=999 lies outside the clean prompt" in out


def test_check_pairs_shows_the_answers_as_they_are_read(run, tmp_path):
    (tmp_path / "pairs.csv").write_text(HEADER + row() + row(correct="Mary Paul", incorrect="John Paul"))
    code, out, _ = run("check-pairs", "pairs.csv")
    words = cf.load_model("tasks-4l").tokenizer
    mary, john, paul = (words.encode(name)[0] for name in ("Mary", "John", "Paul"))
    assert code == 0
    assert f"after ...␣a|␣drink|␣to at position 13: correct ␣Mary ({mary}); incorrect ␣John ({john})" in out
    assert f"correct ␣Mary|␣Paul ({mary}, {paul}); incorrect ␣John|␣Paul ({john}, {paul})" in out
    rows = json.loads(run("check-pairs", "pairs.csv", "--json")[1])["rows"]
    assert rows[1]["correct"] == [{"tokens": ["␣Mary", "␣Paul"], "ids": [mary, paul]}]
    assert (rows[1]["read_at"], rows[1]["read_after"]) == (13, "␣a|␣drink|␣to")


def test_check_pairs_measures_a_log_probability_where_no_answer_is_wrong_and_never_prints_nan(run, tmp_path):
    (tmp_path / "pairs.csv").write_text(HEADER + row(incorrect=""))
    _, out, _ = run("check-pairs", "pairs.csv")
    assert re.search(r"log-probability -\d\.\d\d clean, -\d+\.\d\d corrupted", out)
    assert "nan" not in out


def test_check_pairs_says_that_nothing_was_measured_where_no_pair_can_be_used(run, tmp_path):
    (tmp_path / "pairs.csv").write_text(HEADER + row(CLEAN, CLEAN) * 7)
    code, out, _ = run("check-pairs", "pairs.csv", "--keep-good", "good.csv")
    assert code == 2
    assert "7 pairs: 0 can be used, 0 are good\n       7 same-prompt" in out
    assert "... and 2 more that are same-prompt" in out
    assert "no pair can be used, so nothing was measured\nno pair is good, so good.csv was not written" in out
    assert "cannot do this task" not in out
    assert not (tmp_path / "good.csv").exists()
    assert run("check-pairs", "pairs.csv", "--all")[1].count("both prompts are the same") == 7


def test_a_corrupted_prompt_that_changes_nothing_is_no_good_pair_and_the_file_says_so(run, tmp_path):
    capitals = {"Paris": "France", "London": "England", "Madrid": "Spain", "Cairo": "Egypt", "Rome": "Italy"}
    rows = [
        f"{a} is the capital of,{b} is the capital of, {capitals[a]}, {capitals[b]}\n"
        for a in capitals
        for b in capitals
        if a not in ("Rome", b)
    ]
    (tmp_path / "reverse.csv").write_text(HEADER + "".join(rows))
    code, out, _ = run("check-pairs", "reverse.csv")
    assert (code, "16 pairs: 16 can be used, 0 are good" in out) == (0, True)
    assert re.search(
        r"wins on 56% of the usable clean prompts \(95 % interval 33% to \d\d%\), which may be chance\n", out
    )
    assert re.search(r"first choice of all words on \d+%\n", out)
    assert re.search(r"change the mean logit difference by \S0\.0\d .* so they may take nothing of it away", out)
    assert "16 rows, all of one group\n" in out
    report = json.loads(run("check-pairs", "reverse.csv", "--json")[1])
    assert report["verdicts"]["no-contrast"] == round(16 * report["accuracy"])
    assert report["mean_change_95_interval"][0] < report["mean_change"] < 0.05


def test_a_tie_is_called_one(run, tmp_path):
    (tmp_path / "pairs.csv").write_text(HEADER + row())
    assert [one["verdict"] for one in json.loads(run("check-pairs", "pairs.csv", "--json")[1])["rows"]] == ["good"]
    from circuitfind.evaluation.full_model.pair_report import AnswerRead, PairRow, _judged

    answers = (AnswerRead(("a",), (1,)),)
    tied = PairRow(1, "", "good", correct=answers, incorrect=answers, logit_diff=0.001, tokens=3)
    assert (_judged(tied).verdict, _judged(replace(tied, logit_diff=-0.1)).verdict) == ("tie", "model-wrong")
