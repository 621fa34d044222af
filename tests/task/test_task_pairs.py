"""Pairs as text, pairs as token ids, and the splits of a task."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizer import ToyTokenizer

import circuitfind as cf
from circuitfind.errors import OptionError, PairsError, UnknownNameError
from circuitfind.task import PromptPair, PromptPairs, Task, find_problems, is_held_out, tokenize

TOKENIZER = ToyTokenizer("The", " cat", " dog", " owl", " s", "at", " sat", " ran", " is", " on", " mat", " my", " x")
PAIR = PromptPair("The cat", "The dog", (" sat",), (" ran",))
LONG = PromptPair("The cat is on", "The dog is on", (" mat", " my"), (" dog",))


def first_problem(pair: PromptPair) -> tuple[str, str]:
    (problem,) = find_problems(PromptPairs((pair,)), TOKENIZER)
    return problem.fault, problem.message


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_single_answer_may_be_plain_text() -> None:
    assert PromptPair("a", "b", " Mary", [" John", " Tom"]) == PromptPair("a", "b", (" Mary",), (" John", " Tom"))  # type: ignore[arg-type]


def test_pairs_made_from_lists_can_be_hashed() -> None:
    pairs = PromptPairs([PromptPair("a", "b", [" Mary"], [])])  # type: ignore[arg-type]
    assert hash(pairs) == hash(PromptPairs((PromptPair("a", "b", (" Mary",)),)))


def test_a_slice_keeps_the_source() -> None:
    assert PromptPairs((PAIR, LONG), "here")[1:] == PromptPairs((LONG,), "here")


def test_the_fingerprint_tells_prompts_answers_and_order_but_not_labels() -> None:
    fingerprint = PromptPairs((PAIR, LONG)).fingerprint
    assert PromptPairs((replace(PAIR, labels={"END": 7}), LONG), "elsewhere").fingerprint == fingerprint
    others = [
        PromptPairs((LONG, PAIR)),
        PromptPairs((PAIR,)),
        PromptPairs((replace(PAIR, corrupted="The owl"), LONG)),
        PromptPairs((replace(PAIR, incorrect=()), LONG)),
    ]
    assert len({fingerprint, *(pairs.fingerprint for pairs in others)}) == 5


# --- token ids --------------------------------------------------------------------------------------------------------


def test_shorter_prompts_and_answer_lists_are_padded_on_the_right() -> None:
    tokens = tokenize(PromptPairs((PAIR, LONG)), TOKENIZER)
    assert tokens.clean.tolist() == [[0, 1, 0, 0], [0, 1, 8, 9]]
    assert tokens.corrupted.tolist() == [[0, 2, 0, 0], [0, 2, 8, 9]]
    assert tokens.length.tolist() == [2, 4]
    assert tokens.answer_position.tolist() == [1, 3]
    assert tokens.correct.tolist() == [[6, -1], [10, 11]]
    assert tokens.incorrect.tolist() == [[7], [2]]
    assert {array.dtype for array in (tokens.clean, tokens.corrupted, tokens.length, tokens.correct)} == {
        np.dtype("int64")
    }
    assert len(tokens) == 2


def test_pairs_without_wrong_answers_have_an_empty_array_of_them() -> None:
    assert tokenize(PromptPairs((replace(PAIR, incorrect=()),)), TOKENIZER).incorrect.shape == (1, 0)


def test_two_spellings_of_one_token_count_once() -> None:
    class Careless(ToyTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(re.sub(r"(\w)sat", r"\1 sat", text))

    tokens = tokenize(PromptPairs((replace(PAIR, correct=(" sat", "sat")),)), Careless(*TOKENIZER.pieces))
    assert tokens.correct.tolist() == [[6]]


@pytest.mark.parametrize("rows", [[0], np.array([0]), np.array([True, False]), [-2]])
def test_take_cuts_to_the_longest_prompt_taken(rows: list[int]) -> None:
    taken = tokenize(PromptPairs((PAIR, LONG), "here"), TOKENIZER).take(rows)
    assert taken.clean.tolist() == [[0, 1]]
    assert taken.corrupted.tolist() == [[0, 2]]
    assert taken.text == PromptPairs((PAIR,), "here")


def test_take_may_reorder_repeat_and_take_nothing() -> None:
    tokens = tokenize(PromptPairs((PAIR, LONG)), TOKENIZER)
    assert tokens.take([1, 0, 1]).length.tolist() == [4, 2, 4]
    assert len(tokens.take([])) == 0
    assert replace(tokens, text=None).take([1]).text is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_taking_rows_equals_tokenising_those_pairs(rows: list[int]) -> None:
    words = " cat is on my mat".split(" ")[1:]
    pairs = [
        PromptPair("The" + "".join(f" {word}" for word in words[:n]), "The" + " x" * n, (" dog",)) for n in range(5)
    ]
    taken = tokenize(PromptPairs(tuple(pairs)), TOKENIZER).take(rows)
    fresh = tokenize(PromptPairs(tuple(pairs[row] for row in rows)), TOKENIZER)
    for name in ("clean", "corrupted", "length", "answer_position", "correct", "incorrect"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(fresh, name))


# --- problems ---------------------------------------------------------------------------------------------------------


def test_unequal_length_names_both_tokenisations() -> None:
    fault, message = first_problem(replace(PAIR, corrupted="The dog is"))
    assert fault == "unequal-length"
    assert "2 tokens (The|␣cat)" in message
    assert "3 (The|␣dog|␣is)" in message


def test_an_answer_that_is_correct_and_incorrect_is_named() -> None:
    fault, message = first_problem(replace(PAIR, correct=(" sat", " ran")))
    assert fault == "same-answer"
    assert "'␣ran' is both" in message


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"clean": " "}, "empty-prompt"),
        ({"corrupted": " "}, "empty-prompt"),
        ({"correct": ()}, "no-answer"),
        ({"clean": "The cow"}, "unknown-word"),
        ({"incorrect": (" cow",)}, "unknown-word"),
    ],
)
def test_other_faults_have_names(change: dict[str, object], fault: str) -> None:
    assert first_problem(replace(PAIR, **change))[0] == fault  # type: ignore[arg-type]


def test_problems_come_in_order_with_the_row_counted_from_one_in_the_text() -> None:
    bad = replace(PAIR, correct=())
    problems = find_problems(PromptPairs((PAIR, bad, PAIR, bad)), TOKENIZER)
    assert [problem.row for problem in problems] == [1, 3]
    assert problems[0].message.startswith("pair 2: ")


def test_tokenize_names_the_first_five_bad_pairs_and_counts_the_rest() -> None:
    pairs = PromptPairs((PAIR, *[replace(PAIR, correct=())] * 7), "animals.csv")
    with pytest.raises(PairsError, match=r"7 of 8 pairs from animals\.csv cannot be used") as caught:
        tokenize(pairs, TOKENIZER)
    assert "pair 6: " in str(caught.value)
    assert "pair 7: " not in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_tokenize_refuses_an_empty_set() -> None:
    with pytest.raises(PairsError, match="no prompt pairs in nowhere"):
        tokenize(PromptPairs((), "nowhere"), TOKENIZER)


# --- tasks that propose pairs -----------------------------------------------------------------------------------------


def propose(rng: random.Random, side: str) -> PromptPair:
    """Two numbers; small ones make prompts of unequal length."""
    first, second = rng.randrange(30), rng.randrange(30)
    if side == "right":
        first, second = second, first
    return PromptPair(f"{first} {second}", f"{first} x", (" yes",), (" no",), combination=(str(first), str(second)))


TASK = Task(
    name="numbers",
    description="Numbers.",
    source="here",
    clean_rule="two numbers",
    corrupted_rule="one number",
    metric="logit-diff",
    propose=propose,
    options={"side": ("left", "right")},
)


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    assert TASK.pairs(20, seed=3) == TASK.pairs(20, seed=3)
    assert TASK.pairs(20, seed=3).fingerprint != TASK.pairs(20, seed=4).fingerprint


def test_more_pairs_begin_with_the_fewer() -> None:
    assert TASK.pairs(40)[:20] == TASK.pairs(20)


def test_pairs_are_all_different() -> None:
    assert len(set(TASK.pairs(300))) == 300


def test_the_splits_share_no_combination_whatever_the_seeds() -> None:
    train = {pair.combination for seed in range(4) for pair in TASK.pairs(100, seed=seed)}
    held_out = {pair.combination for seed in range(4) for pair in TASK.pairs(60, split="held-out", seed=seed)}
    assert train
    assert held_out
    assert not train & held_out


def test_about_one_combination_in_five_is_held_out() -> None:
    share = np.mean([is_held_out((f"noun{i}", str(j))) for i in range(100) for j in range(50)])
    assert 0.18 < share < 0.22


def test_where_no_combination_is_given_the_clean_prompt_decides() -> None:
    plain = replace(TASK, propose=lambda rng, side: replace(propose(rng, side), combination=()))
    assert all(is_held_out((pair.clean,)) for pair in plain.pairs(20, split="held-out"))


def test_with_a_tokenizer_pairs_that_do_not_fit_are_passed_over() -> None:
    tokenizer = ToyTokenizer(*(str(digit) for digit in range(10)), " ", " x", " yes", " no")
    fitting = TASK.pairs(3, tokenizer=ToyTokenizer(*tokenizer.pieces, *(f" {n}" for n in range(20))))
    assert all(int(pair.clean.split()[1]) < 20 for pair in fitting)
    with pytest.raises(PairsError, match=r"found only 0 of 3 train pairs.*did not fit, e\.g\. .*tokenizer knows"):
        TASK.pairs(3, tokenizer=tokenizer)


def test_too_many_pairs_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(PairsError, match=r"'numbers' found only \d+ of 1000 held-out pairs\. Ask for fewer pairs$"):
        TASK.pairs(1000, split="held-out")


def test_what_there_is_may_be_asked_for() -> None:
    found = TASK.up_to(1000, split="held-out")
    assert 10 < len(found) < 1000
    assert TASK.up_to(5, split="held-out") == TASK.pairs(5, split="held-out") == found[:5]
    assert len(TASK.up_to(3, tokenizer=ToyTokenizer("The"))) == 0


def test_options_default_to_their_first_value() -> None:
    assert TASK.pairs(5) == TASK.pairs(5, side="left")
    assert TASK.pairs(5).fingerprint != TASK.pairs(5, side="right").fingerprint


def test_an_unknown_option_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option of task 'numbers' 'sides'. Did you mean 'side'"):
        TASK.pairs(5, sides="left")


def test_an_unknown_value_split_or_count_is_an_error_with_what_is_allowed() -> None:
    with pytest.raises(OptionError, match="side='up' of task 'numbers': use one of left, right"):
        TASK.pairs(5, side="up")
    with pytest.raises(OptionError, match="unknown split 'test'; use one of train, held-out"):
        TASK.pairs(5, split="test")
    with pytest.raises(OptionError, match="ask for at least 1"):
        TASK.pairs(0)


def test_asking_for_far_too_many_pairs_is_refused_soon() -> None:
    """The number of proposals follows the pairs that exist and not the pairs asked for."""
    proposed = []

    def counted(rng: random.Random, side: str) -> PromptPair:
        proposed.append(side)
        return propose(rng, side)

    with pytest.raises(PairsError, match=r"found only \d+ of 10000000 train pairs"):
        replace(TASK, propose=counted).pairs(10**7)
    assert len(proposed) < 10**6


def test_a_task_either_proposes_pairs_or_has_them() -> None:
    with pytest.raises(OptionError, match=r"either propose=.* or fixed=.*, and not both"):
        replace(TASK, propose=None)
    with pytest.raises(OptionError, match=r"either propose=.* or fixed=.*, and not both"):
        replace(TASK, fixed=PromptPairs((PAIR,)))


# --- tasks made of rows -----------------------------------------------------------------------------------------------


def rows_task(n: int, per_clean: int = 1) -> Task:
    pairs = (PromptPair(f"row {i // per_clean}", f"other {i}", (" yes",), (" no",)) for i in range(n))
    return replace(TASK, propose=None, options={}, fixed=PromptPairs(tuple(pairs), "rows.csv"))


@pytest.mark.parametrize(("rows", "train", "held_out"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (12, 8, 4)])
def test_a_third_of_the_rows_is_held_out(rows: int, train: int, held_out: int) -> None:
    task = rows_task(rows)
    assert len(task.pairs(99)) == train
    assert len(task.pairs(99, split="held-out")) == held_out


def test_a_single_row_serves_both_splits_and_says_so() -> None:
    task = rows_task(1)
    assert task.pairs(5).pairs == task.pairs(5, split="held-out").pairs
    assert "used for discovery and evaluation" in task.pairs(5).source


def test_rows_never_change_split_with_the_seed() -> None:
    task = rows_task(12)
    train = {pair for seed in range(5) for pair in task.pairs(99, seed=seed)}
    held_out = {pair for seed in range(5) for pair in task.pairs(99, split="held-out", seed=seed)}
    assert (len(train), len(held_out)) == (8, 4)
    assert not train & held_out


def test_the_order_of_the_file_does_not_change_the_split() -> None:
    task = rows_task(12)
    assert task.fixed is not None
    backwards = replace(task, fixed=PromptPairs(task.fixed.pairs[::-1], "rows.csv"))
    assert task.pairs(99, seed=1) == backwards.pairs(99, seed=1)


def test_the_seed_decides_which_rows_of_the_split() -> None:
    task = rows_task(40)
    assert task.pairs(5, seed=1) == task.pairs(5, seed=1)
    assert len({task.pairs(5, seed=seed).pairs for seed in range(5)}) > 1


def test_rows_with_the_same_clean_prompt_stay_in_one_split() -> None:
    task = rows_task(12, per_clean=3)
    train = {pair.clean for pair in task.pairs(99)}
    assert not train & {pair.clean for pair in task.pairs(99, split="held-out")}
    assert len(task.pairs(99)) == 9


def test_repeated_rows_count_once() -> None:
    fixed = PromptPairs((PAIR, PAIR, LONG))
    task = replace(rows_task(1), fixed=fixed)
    assert len(task.pairs(99)) + len(task.pairs(99, split="held-out")) == 2


def test_what_was_made_of_a_table_is_printed_short_and_its_prompts_can_be_seen():
    rows = [{"clean": f"{a} met", "corrupted": f"{b} met", "correct": a, "incorrect": b} for a, b in (("x", "y"),) * 2]
    task = cf.load_task(rows)
    assert repr(task) == "Task('own-pairs', 2 pairs, measured by logit-diff)"
    assert repr(task.fixed) == "PromptPairs(2 pairs; the given object)"
    assert repr(cf.load_task("ioi")) == "Task('ioi', makes its pairs, measured by logit-diff)"
    held_out = cf.Setting("ioi", n=4, n_held_out=3).held_out
    assert re.fullmatch(
        r"TokenPairs\(3 pairs of at most \d+ tokens; task ioi, .* to_frame\(\) shows them\)", repr(held_out)
    )
    frame = held_out.to_frame()
    assert frame["clean"].tolist() == [pair.clean for pair in held_out.text]
    assert list(frame) == ["clean", "corrupted", "correct", "incorrect"]
    ids = cf.TokenPairs.from_ids([[5, 1]], [[5, 2]], [3], [1])
    assert ids.to_frame().to_dict("records") == [
        {"clean": [5, 1], "corrupted": [5, 2], "correct": [3], "incorrect": [1]}
    ]
    assert repr(ids) == "TokenPairs(1 pairs of at most 2 tokens; to_frame() shows them)"
