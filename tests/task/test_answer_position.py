"""Answers read before the end of the prompt: in pairs, in files, and everywhere that logits are looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from builders import TIGHT, random_pairs, small_model
from toy_tokenizer import ToyTokenizer

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import PairsError
from circuitfind.execution import measure_circuits, prepare_ablation
from circuitfind.execution.batches import make_batches
from circuitfind.task import PromptPair, PromptPairs, TokenPairs, find_problems, load_pairs, tokenize
from circuitfind.task.metrics import METRICS
from circuitfind.task.write_pairs import write_pairs

TOKENIZER = ToyTokenizer("The", " cat", " dog", " s", "at", " sat", " is", " on", " ran")
PAIR = PromptPair("The cat is on", "The dog is on", (" sat",), (" ran",))
RECORD = {"clean": "The cat is on", "corrupted": "The dog is on", "correct": " sat", "incorrect": " ran"}
OTHERWISE = ("information-flow-routes", "edge-pruning", "subnetwork-probing")
"""These count every token of the prompt, or draw random masks by prompt."""


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_the_answer_is_read_at_the_token_that_ends_there() -> None:
    for end, position in ((0, 3), (3, 0), (7, 1), (10, 2), (13, 3)):
        tokens = tokenize(PromptPairs((replace(PAIR, answer_at=end), PAIR)), TOKENIZER)
        assert tokens.answer_position.tolist() == [position, 3]
        assert tokens.take([0]).answer_position.tolist() == [position]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (-1, "answer_at=-1 lies outside the clean prompt, which has 13 characters"),
        (14, "answer_at=14 lies outside the clean prompt"),
        (5, r"answer_at=5 does not end with a token of the clean prompt \(The\|␣cat\|␣is\|␣on\)"),
    ],
)
def test_a_place_that_is_no_tokens_end_is_a_fault_of_its_pair(end: int, message: str) -> None:
    (problem,) = find_problems(PromptPairs((replace(PAIR, answer_at=end),)), TOKENIZER)
    assert problem.fault == "answer-place"
    with pytest.raises(PairsError, match=f"pair 1: {message}"):
        tokenize(PromptPairs((replace(PAIR, answer_at=end),)), TOKENIZER)


def test_the_place_is_part_of_what_identifies_pairs_and_leaves_other_fingerprints_as_they_were() -> None:
    here, there, last = (PromptPairs((replace(PAIR, answer_at=end),)) for end in (7, 10, 0))
    assert len({pairs.fingerprint for pairs in (here, there, last)}) == 3
    assert len({tokenize(pairs, TOKENIZER).checksum() for pairs in (here, there, last)}) == 3
    assert tokenize(PromptPairs((replace(PAIR, answer_at=13),)), TOKENIZER).checksum() == (
        tokenize(last, TOKENIZER).checksum()
    )
    assert here[0] != there[0]


def test_token_ids_may_say_the_column_of_the_answer_padding_counted() -> None:
    ids, mask = np.arange(8).reshape(2, 4), np.array([[0, 1, 1, 1], [1, 1, 0, 0]])
    pairs = TokenPairs.from_ids(ids, ids[::-1], [1, 2], [3, 4], mask=mask, answer_at=[2, 0])
    assert pairs.answer_position.tolist() == [1, 0]
    for wrong in ([0, 0], [2, 2], [2]):
        with pytest.raises(PairsError, match="answer_at must name a column that holds a token"):
            TokenPairs.from_ids(ids, ids, [1, 2], [3, 4], mask=mask, answer_at=wrong)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "end"),
    [("7", 7), (7, 7), (7.0, 7), ("7.0", 7), ("cat", 7), ("is", 10), ("", 0), (None, 0), (float("nan"), 0), (0, 0)],
)
def test_a_column_says_it_in_characters_or_by_a_word(cell: Any, end: int) -> None:
    assert load_pairs([{**RECORD, "answer_at": cell}])[0].answer_at == end


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("dog", "answer_at=dog: 'dog' is in the clean prompt 0 times; correct the word or its number"),
        ("cat#2", "'cat' is in the clean prompt 1 time"),
        (7.5, "column 'answer_at' holds 7.5; write a number of characters or a word"),
        (True, "column 'answer_at' holds True"),
        ([7], r"column 'answer_at' holds \[7\]"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row(cell: Any, message: str) -> None:
    with pytest.raises(PairsError, match=f"row 1: .*{message}"):
        load_pairs([{**RECORD, "answer_at": cell}])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_written_pairs_come_back(tmp_path: Path, suffix: str) -> None:
    pairs = PromptPairs((replace(PAIR, answer_at=7), PAIR))
    write_pairs(pairs, tmp_path / f"pairs.{suffix}")
    assert load_pairs(tmp_path / f"pairs.{suffix}").pairs == pairs.pairs
    write_pairs(PromptPairs((PAIR,)), tmp_path / f"plain.{suffix}")
    assert "answer_at" not in (tmp_path / f"plain.{suffix}").read_text()


def test_an_answers_space_is_that_after_the_word_it_is_read_at() -> None:
    record = {"clean": "f ( x", "corrupted": "g ( x", "correct": "a", "incorrect": "b"}
    assert load_pairs([record])[0].correct == (" a",)
    assert load_pairs([{**record, "answer_at": 3}])[0].correct == ("a",)


# --- everywhere that logits are looked at -----------------------------------------------------------------------------


def early(model, uneven=False) -> TokenPairs:
    pairs = random_pairs(model, 4, shortest=5, uneven=uneven)
    return replace(pairs, answer_position=pairs.length - np.array([1, 3, 2, 4]))


def cut(pairs: TokenPairs) -> TokenPairs:
    """The same prompts, ending where the answer is read."""
    length = pairs.answer_position + 1
    real = np.arange(pairs.clean.shape[1]) < length[:, None]
    return replace(pairs, clean=pairs.clean * real, corrupted=pairs.corrupted * real, length=length)


@pytest.mark.parametrize("name", [a.name for a in ALGORITHMS if a.name not in OTHERWISE])
def test_under_causal_attention_it_is_as_if_the_prompt_ended_there(name: str) -> None:
    model = small_model()
    pairs = early(model)
    metric = METRICS["kl" if name in ("acdc", "refine") else "logit-diff"]
    options = {"budget": 40.0} if name == "refine" else {}
    algorithm = ALGORITHMS[name]
    here, there = (algorithm(Problem(model, given, metric), **options).values for given in (pairs, cut(pairs)))
    np.testing.assert_allclose(here, there, **TIGHT)
    assert np.abs(here).max() > 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_circuits_are_measured_where_the_answer_is(causal: bool, ablation: str) -> None:
    model = small_model(causal=causal)
    pairs, rng = early(model, uneven=True), np.random.default_rng(0)
    masks = rng.random((3, model.graph.n_edges)) < 0.6
    prepared = prepare_ablation(ablation, model, make_batches(model, pairs))
    found = measure_circuits(model, pairs, masks, [METRICS["logit-diff"]], prepared)["logit-diff"]
    for number, mask in enumerate(masks):
        kept = set(model.graph.edge_names(np.flatnonzero(mask)))
        for row in range(len(pairs)):
            clean, corrupted = (
                torch.from_numpy(side[row, : pairs.length[row]]) for side in (pairs.clean, pairs.corrupted)
            )
            (ablated,) = naive.ablated_values(model, ablation, [corrupted])
            logits = naive.circuit_logits(model, clean, ablated, kept)[pairs.answer_position[row]]
            expected = logits[pairs.correct[row]].mean() - logits[pairs.incorrect[row]].mean()
            np.testing.assert_allclose(found[number, row], float(expected), **TIGHT)
