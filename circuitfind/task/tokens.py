"""Prompt pairs as token ids, and every reason why a pair cannot be tokenised."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.pairs import PromptPair, PromptPairs

NO_TOKEN = -1
Ids = np.ndarray[Any, np.dtype[np.int64]]


class Tokenizer(Protocol):
    """What circuitfind needs from a tokenizer: text to ids (with the model's special tokens) and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole prompt."""
        ...

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of a continuation, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        ...


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Prompt pairs as integer arrays, right-padded.

    Causal attention never sees padding. If attention is not causal, prompts of different lengths are kept in separate batches
    (:func:`circuitfind.execution.make_batches`).

    Attributes:
        clean, corrupted: token ids, shape (prompts, positions), padded with 0 after ``length``.
        length: real tokens of each prompt, shape (prompts,).
        answer_position: position whose logits are read, shape (prompts,); the last real token, or the one at
            :attr:`PromptPair.answer_at`.
        correct, incorrect: token ids of the answers, shape (prompts, most answers), padded with -1.
        text: the pairs these ids came from, or None.
        reference: prompts that are not measured, but that ``mean-reference`` ablation takes its means over (their clean side);
            None without them.
    """

    clean: np.ndarray[Any, np.dtype[np.int64]]
    corrupted: np.ndarray[Any, np.dtype[np.int64]]
    length: np.ndarray[Any, np.dtype[np.int64]]
    answer_position: np.ndarray[Any, np.dtype[np.int64]]
    correct: np.ndarray[Any, np.dtype[np.int64]]
    incorrect: np.ndarray[Any, np.dtype[np.int64]]
    text: PromptPairs | None = None
    reference: TokenPairs | None = None

    def __len__(self) -> int:
        return len(self.clean)

    @classmethod
    def from_ids(
        cls, clean: Any, corrupted: Any, correct: Any, incorrect: Any = (), *, mask: Any = None, answer_at: Any = None
    ) -> TokenPairs:
        """Pairs that are already token ids, padded on either side.

        Args:
            clean, corrupted: token ids (prompts, positions), arrays or tensors.
            correct, incorrect: token ids of the answers, (prompts, answers), padded with -1; some metrics need no incorrect
                answers.
            mask: 1 at tokens and 0 at padding, (prompts, positions), as tokenizers return it; None means no padding.
            answer_at: column of the token whose logits are read, (prompts,), counting padding; the last token if None.

        Raises:
            PairsError: shapes do not match, a mask's tokens are not contiguous, or an answer is read outside them.
        """
        ids, other = (np.asarray(side, dtype=np.int64) for side in (clean, corrupted))
        real = np.ones(ids.shape, dtype=bool) if mask is None else np.asarray(mask).astype(bool)
        _check_shapes(ids, other, real)
        start, length = real.argmax(1), real.sum(1)
        take = np.minimum(start[:, None] + np.arange(int(length.max(initial=1))), ids.shape[1] - 1)
        inside = np.arange(take.shape[1]) < length[:, None]
        rows = np.arange(len(ids))[:, None]
        right, wrong = _answer_rows(correct, len(ids), "correct"), _answer_rows(incorrect, len(ids), "incorrect")
        answer = length - 1 if answer_at is None else np.asarray(answer_at, dtype=np.int64) - start
        if answer.shape != length.shape or ((answer < 0) | (answer >= length)).any():
            raise PairsError("answer_at must name a column that holds a token, one for every prompt")
        return cls(ids[rows, take] * inside, other[rows, take] * inside, length, answer, right, wrong)

    def checksum(self) -> str:
        """SHA-256 of the ids and the answer positions, for provenance."""
        digest = hashlib.sha256()
        elsewhere = (self.answer_position,) if (self.answer_position != self.length - 1).any() else ()
        for array in (self.clean, self.corrupted, self.length, self.correct, self.incorrect, *elsewhere):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        if self.reference is not None:
            digest.update(self.reference.checksum().encode())
        return digest.hexdigest()

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> TokenPairs:
        """The pairs at ``rows`` (indices, or one boolean per pair), cut to the longest prompt among them."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        longest = int(self.length[rows].max(initial=1))
        return TokenPairs(
            self.clean[rows, :longest],
            self.corrupted[rows, :longest],
            self.length[rows],
            self.answer_position[rows],
            self.correct[rows],
            self.incorrect[rows],
            PromptPairs(tuple(self.text[int(i)] for i in rows), self.text.source) if self.text is not None else None,
            self.reference,
        )


def _check_shapes(clean: Ids, corrupted: Ids, real: np.ndarray[Any, Any]) -> None:
    if clean.ndim != 2 or clean.shape != corrupted.shape:
        raise PairsError(
            f"clean ids are {clean.shape}, corrupted ids {corrupted.shape}; both must be (prompts, positions)"
        )
    if real.shape != clean.shape:
        raise PairsError(f"the mask is {real.shape}, the ids are {clean.shape}; give 1 or 0 for every id")
    for row, tokens in enumerate(real):
        if not tokens.any():
            raise PairsError(f"row {row + 1} of the mask has no token; drop the row")
        places = np.flatnonzero(tokens)
        if len(places) != places[-1] - places[0] + 1:
            raise PairsError(f"row {row + 1} of the mask has padding between tokens; pad on the left or on the right")


def _answer_rows(answers: Any, n: int, kind: str) -> Ids:
    rows = np.asarray(answers, dtype=np.int64)
    rows = np.full((n, 1), NO_TOKEN) if rows.size == 0 and kind == "incorrect" else rows.reshape(len(rows), -1)
    if len(rows) != n:
        raise PairsError(f"{len(rows)} rows of {kind} answers for {n} prompts; give one row for each")
    return rows


@dataclass(frozen=True)
class PairProblem:
    """Why a pair cannot be used: its row (from 0), a short name of the fault, and a sentence for the user."""

    row: int
    fault: str
    message: str


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return "|".join(tokenizer.decode([token]) for token in ids)


def _pair_problem(row: int, pair: PromptPair, tokenizer: Tokenizer) -> PairProblem | None:
    """The first reason why ``pair`` cannot be tokenised, or None."""

    def problem(fault: str, message: str) -> PairProblem:
        return PairProblem(row, fault, f"pair {row + 1}: {message}")

    for side, text in (("clean", pair.clean), ("corrupted", pair.corrupted)):
        if not text.strip():
            return problem("empty-prompt", f"the {side} prompt is empty; write a prompt or drop the row")
    if not pair.correct:
        return problem("no-answer", "no correct answer is given; fill the column 'correct'")
    try:
        clean, corrupted = tokenizer.encode(pair.clean), tokenizer.encode(pair.corrupted)
        answers = {text: tokenizer.encode_answer(text) for text in (*pair.correct, *pair.incorrect)}
    except PairsError as error:
        return problem("unknown-word", str(error))
    if len(clean) != len(corrupted):
        return problem(
            "unequal-length",
            f"clean has {len(clean)} tokens ({_shown(tokenizer, clean)}), corrupted has {len(corrupted)} "
            f"({_shown(tokenizer, corrupted)}); reword one of them so that both have the same number of tokens",
        )
    if found := _answer_problem(pair, answers, tokenizer):
        return problem(*found)
    if pair.answer_at and (reason := _answer_place_problem(pair, clean, tokenizer)):
        return problem("answer-place", reason)
    for label, end in pair.labels.items():
        if not 1 <= end <= len(pair.clean):
            return problem(
                "label-outside",
                f"the label {label}={end} lies outside the clean prompt, which has {len(pair.clean)} characters; give the "
                "number of characters up to and including the labelled word",
            )
    return None


def _answer_problem(
    pair: PromptPair, answers: Mapping[str, Sequence[int]], tokenizer: Tokenizer
) -> tuple[str, str] | None:
    """Why the answers cannot be distinguished by one token each: the fault and a message."""
    for text, ids in answers.items():
        if len(ids) != 1:
            return (
                "answer-tokens",
                f"the answer {text!r} is {len(ids)} tokens ({_shown(tokenizer, ids)}), but one is needed; use an "
                "answer that is a single token, with its leading space where the text has one",
            )
    if shared := {answers[text][0] for text in pair.correct} & {answers[text][0] for text in pair.incorrect}:
        return (
            "same-answer",
            f"{_shown(tokenizer, sorted(shared))!r} is both a correct and an incorrect answer; they must differ",
        )
    return None


def _answer_place_problem(pair: PromptPair, clean: Sequence[int], tokenizer: Tokenizer) -> str:
    """Why the answer cannot be read where the pair says; empty if it can."""
    end = pair.answer_at
    if not 1 <= end <= len(pair.clean):
        return (
            f"answer_at={end} lies outside the clean prompt, which has {len(pair.clean)} characters; give the number of "
            "characters up to and including the word at which the answer is read, or 0 for the last"
        )
    try:
        before = tokenizer.encode(pair.clean[:end])
    except PairsError:
        before = []
    if not before or list(clean[: len(before)]) != list(before):
        return (
            f"answer_at={end} does not end with a token of the clean prompt ({_shown(tokenizer, clean)}); count the "
            "characters up to and including the word at which the answer is read"
        )
    return ""


def find_problems(pairs: PromptPairs, tokenizer: Tokenizer) -> list[PairProblem]:
    """The pairs that cannot be used with this tokenizer, in order, with one problem each."""
    found = (_pair_problem(row, pair, tokenizer) for row, pair in enumerate(pairs))
    return [problem for problem in found if problem is not None]


def _padded(rows: list[list[int]], fill: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    width = max((len(row) for row in rows), default=0)
    return np.array([row + [fill] * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)


def _answer_ids(answers: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """The distinct ids: two spellings of one token must not count twice in a sum of probabilities."""
    return list(dict.fromkeys(tokenizer.encode_answer(text)[0] for text in answers))


def tokenize(pairs: PromptPairs, tokenizer: Tokenizer) -> TokenPairs:
    """Token ids of all pairs.

    Raises:
        PairsError: there are no pairs, or some cannot be used; at most five are named with both tokenisations.
    """
    if not len(pairs):
        raise PairsError(f"no prompt pairs in {pairs.source}; at least one is needed")
    if problems := find_problems(pairs, tokenizer):
        lines = [problem.message for problem in problems[:5]]
        if len(problems) > 5:
            lines.append(f"... and {len(problems) - 5} more")
        raise PairsError(
            f"{len(problems)} of {len(pairs)} pairs from {pairs.source} cannot be used:\n  "
            + "\n  ".join(lines)
            + "\n'circuitfind check-pairs' lists all of them; with --keep-good FILE it writes those that can be used"
        )
    clean = [tokenizer.encode(pair.clean) for pair in pairs]
    length = np.array([len(row) for row in clean], dtype=np.int64)
    return TokenPairs(
        clean=_padded(clean, 0),
        corrupted=_padded([tokenizer.encode(pair.corrupted) for pair in pairs], 0),
        length=length,
        answer_position=np.array(
            [len(tokenizer.encode(p.clean[: p.answer_at] if p.answer_at else p.clean)) - 1 for p in pairs],
            dtype=np.int64,
        ),
        correct=_padded([_answer_ids(pair.correct, tokenizer) for pair in pairs], NO_TOKEN),
        incorrect=_padded([_answer_ids(pair.incorrect, tokenizer) for pair in pairs], NO_TOKEN),
        text=pairs,
    )
