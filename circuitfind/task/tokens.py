"""Prompt pairs as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.pairs import PromptPairs
from circuitfind.task.whole_numbers import Ids, truths, whole_numbers

if TYPE_CHECKING:
    import pandas

NO_TOKEN = -1
ANSWERS = ("all", "first")
"""Which tokens of an answer count."""


class Tokenizer(Protocol):
    """What circuitfind needs from a tokenizer: text to ids (with the model's special tokens) and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        ...


@dataclass(frozen=True)
class TokenizedPair:
    """One pair as token ids.

    Attributes:
        clean, corrupted: ids of the prompts.
        place: position whose logits predict the first token of an answer.
        correct, incorrect: the ids of every answer, each answer once.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    place: int
    correct: tuple[tuple[int, ...], ...]
    incorrect: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class AnswerSteps:
    """How rows of :class:`TokenPairs` belong together where answers have several tokens.

    A row is one token of one answer: the prompt, the answer's earlier tokens (teacher forcing), and the token as the only
    answer. So every engine and every algorithm reads an answer of any length at all its positions.

    Attributes:
        pair: which pair a row belongs to, (rows,).
        answer: which of the pair's answers, the correct ones first, (rows,).
        weight: what a row's log-probability counts in the mean over rows, (rows,): the number of rows per pair, divided by
            the number of correct (or incorrect) answers of the pair. So the mean over rows is the mean over pairs.
        right, wrong: how many answers of every pair are correct and incorrect, (pairs,).
        rows_per_pair: the number of rows, divided by that of pairs.
    """

    pair: Ids
    answer: Ids
    weight: np.ndarray[Any, np.dtype[np.float64]]
    right: Ids
    wrong: Ids
    rows_per_pair: float

    @property
    def n_pairs(self) -> int:
        """How many pairs there are."""
        return len(self.right)

    def take(self, rows: np.ndarray[Any, Any]) -> AnswerSteps:
        """Those of some rows. Their weights stay what they are."""
        return AnswerSteps(
            self.pair[rows], self.answer[rows], self.weight[rows], self.right, self.wrong, self.rows_per_pair
        )

    def take_pairs(self, pairs: Ids) -> tuple[Ids, AnswerSteps]:
        """The rows of some pairs (sorted numbers), and how they belong together; means over rows stay means over pairs."""
        rows = np.flatnonzero(np.isin(self.pair, pairs))
        per_pair = len(rows) / len(pairs)
        weight, number = self.weight[rows] * (per_pair / self.rows_per_pair), np.searchsorted(pairs, self.pair[rows])
        return rows, AnswerSteps(number, self.answer[rows], weight, self.right[pairs], self.wrong[pairs], per_pair)


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Prompt pairs as integer arrays, right-padded.

    Causal attention never sees padding. If attention is not causal, prompts of different lengths are kept in separate batches
    (:func:`circuitfind.execution.make_batches`).

    Attributes:
        clean, corrupted: token ids, shape (prompts, positions), padded with 0 after ``length``; without corrupted prompts
            ``corrupted`` has no positions.
        length: real tokens of each prompt, shape (prompts,).
        answer_position: position whose logits are read, shape (prompts,); the last real token, or the one at
            :attr:`PromptPair.answer_at`.
        correct, incorrect: ids of the answers, shape (prompts, most answers), filled up with -1.
        text: the pairs these ids came from, one for each row, or None.
        steps: how rows belong together where answers have several tokens; None where each row is a pair of its own.
        reference: prompts that are not measured, but that ``mean-reference`` ablation takes its means over (their clean side);
            None without them.
        names: what messages call every row: where its file has it, or its number in the whole that a split was taken from. By
            default those of the text, or numbers.
    """

    clean: np.ndarray[Any, np.dtype[np.int64]]
    corrupted: np.ndarray[Any, np.dtype[np.int64]]
    length: np.ndarray[Any, np.dtype[np.int64]]
    answer_position: np.ndarray[Any, np.dtype[np.int64]]
    correct: np.ndarray[Any, np.dtype[np.int64]]
    incorrect: np.ndarray[Any, np.dtype[np.int64]]
    text: PromptPairs | None = None
    steps: AnswerSteps | None = None
    reference: TokenPairs | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted", "length", "answer_position", "correct", "incorrect"):
            object.__setattr__(self, name, whole_numbers(getattr(self, name), name))
        _check_lengths(self)

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        """How many there are, how long they are, and where they came from."""
        rows = "" if self.steps is None else f" in {len(self):,} rows"
        source = "" if self.text is None else f"; {self.text.source}"
        size = f"{self.n_pairs:,} pairs{rows} of at most {self.clean.shape[1]} tokens"
        return f"TokenPairs({size}{source}; to_frame() shows them)"

    def to_frame(self) -> pandas.DataFrame:
        """A row for every row: ``clean, corrupted, correct, incorrect`` as text, or as ids where there is no text."""
        import pandas

        sides = ("clean", "corrupted", "correct", "incorrect")
        if self.text is not None:
            return pandas.DataFrame([{side: getattr(pair, side) for side in sides} for pair in self.text])
        return pandas.DataFrame({side: getattr(self, side).tolist() for side in sides})

    def called(self, row: int) -> str:
        """What messages call the pair of a row."""
        if self.names:
            return self.names[row]
        number = row if self.steps is None else int(self.steps.pair[row])
        return self.text[row].called(number) if self.text is not None else f"pair {number + 1}"

    def called_pair(self, pair: int) -> str:
        """What messages call a pair, which may have several rows."""
        return self.called(pair if self.steps is None else int(np.flatnonzero(self.steps.pair == pair)[0]))

    @property
    def fingerprint(self) -> str:
        """What provenance knows these prompts by: that of their text, or of the ids where there is none."""
        return self.checksum() if self.text is None else self.text.fingerprint

    @property
    def n_pairs(self) -> int:
        """How many pairs there are: the rows, unless answers have several tokens."""
        return len(self) if self.steps is None else self.steps.n_pairs

    @property
    def has_corrupted(self) -> bool:
        """Whether there are corrupted prompts."""
        return bool(self.corrupted.shape[1])

    @classmethod
    def from_ids(
        cls, clean: Any, corrupted: Any, correct: Any, incorrect: Any = (), *, mask: Any = None, answer_at: Any = None
    ) -> TokenPairs:
        """Pairs that are already token ids, padded on either side.

        Args:
            clean, corrupted: ids (prompts, positions): arrays, tensors on any device, or lists; ``corrupted`` is None where
                there are none.
            correct, incorrect: ids of the answers, (prompts, answers), filled up with -1; no incorrect ones are needed by
                metrics that use none.
            mask: 1 at tokens and 0 at padding, (prompts, positions), as tokenizers give it; everything is a token if None.
            answer_at: column of the token whose logits are read, (prompts,), padding counted; the last token if None.

        Raises:
            PairsError: what are no ids, shapes that do not match, a mask whose tokens are not contiguous, or an answer read
                outside them.

        Example:
            >>> import circuitfind as cf
            >>> pairs = cf.TokenPairs.from_ids([[5, 1, 2], [5, 2, 1]], [[5, 2, 2], [5, 1, 1]], [3, 1], [1, 3])
            >>> len(pairs), pairs.length.tolist(), pairs.correct.tolist()
            (2, [3, 3], [[3], [1]])
        """
        ids = whole_numbers(clean, "clean ids")
        other = ids if corrupted is None else whole_numbers(corrupted, "corrupted ids")
        real = np.ones(ids.shape, dtype=bool) if mask is None else truths(mask, "the mask's values")
        _check_shapes(ids, other, real)
        start, length = real.argmax(1), real.sum(1)
        take = np.minimum(start[:, None] + np.arange(int(length.max(initial=1))), ids.shape[1] - 1)
        inside = np.arange(take.shape[1]) < length[:, None]
        rows = np.arange(len(ids))[:, None]
        right, wrong = _answer_rows(correct, len(ids), "correct"), _answer_rows(incorrect, len(ids), "incorrect")
        answer = length - 1 if answer_at is None else whole_numbers(answer_at, "columns of answer_at") - start
        if answer.shape != length.shape or ((answer < 0) | (answer >= length)).any():
            raise PairsError("answer_at must name a column that holds a token, one for every prompt")
        corrupted = (other[rows, take] * inside)[:, : take.shape[1] * (corrupted is not None)]
        return cls(ids[rows, take] * inside, corrupted, length, answer, right, wrong)

    def checksum(self) -> str:
        """SHA-256 of the ids and the answer positions, for provenance."""
        digest = hashlib.sha256()
        elsewhere = (self.answer_position,) if (self.answer_position != self.length - 1).any() else ()
        for array in (self.clean, self.corrupted, self.length, self.correct, self.incorrect, *elsewhere):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        if self.reference is not None:
            digest.update(self.reference.checksum().encode())
        if self.steps is not None:
            digest.update(self.steps.pair.tobytes() + self.steps.answer.tobytes() + self.steps.weight.tobytes())
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
            None if self.steps is None else self.steps.take(rows),
            self.reference,
            tuple(self.called(int(row)) for row in rows),
        )

    def take_pairs(self, pairs: Sequence[int]) -> TokenPairs:
        """Some pairs whole, with all rows of each; ``pairs`` are sorted numbers."""
        if self.steps is None:
            return self.take(pairs)
        rows, steps = self.steps.take_pairs(np.asarray(pairs, dtype=np.int64))
        return replace(self.take(rows), steps=steps)


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


def _check_lengths(pairs: TokenPairs) -> None:
    """Refuse arrays of which a prompt or an answer would be read outside."""
    sizes = {name: len(getattr(pairs, name)) for name in ("clean", "corrupted", "length", "answer_position", "correct")}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise PairsError(f"the arrays of prompt pairs must have a row for each pair; there are {said}")
    corrupted = pairs.corrupted if pairs.corrupted.shape[1:] != (0,) else pairs.clean
    if pairs.clean.ndim != 2 or pairs.clean.shape != corrupted.shape:
        _check_shapes(pairs.clean, corrupted, np.ones(pairs.clean.shape, dtype=bool))
    outside = (
        (pairs.answer_position < 0) | (pairs.answer_position >= pairs.length) | (pairs.length > pairs.clean.shape[1])
    )
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise PairsError(
            f"row {row + 1} has {pairs.length[row]} tokens of {pairs.clean.shape[1]} and reads its answer at position "
            f"{pairs.answer_position[row]} (from 0); it must be one of its tokens"
        )


def _answer_rows(answers: Any, n: int, kind: str) -> Ids:
    rows = whole_numbers(answers, f"{kind} answers")
    rows = np.full((n, 1), NO_TOKEN) if rows.size == 0 and kind == "incorrect" else rows.reshape(len(rows), -1)
    if len(rows) != n:
        raise PairsError(f"{len(rows)} rows of {kind} answers for {n} prompts; give one row for each")
    return rows


def padded(rows: Sequence[Sequence[int]], fill: int) -> Ids:
    """Rows of any lengths as one array (rows, longest), filled up on the right."""
    width = max((len(row) for row in rows), default=0)
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), width)


def from_readings(readings: Sequence[TokenizedPair], pairs: PromptPairs, answers: str = "all") -> TokenPairs:
    """Arrays of pairs that were read one by one.

    Args:
        answers: ``"all"`` tokens of an answer count, or the ``"first"`` alone.

    Raises:
        PairsError: the first tokens of a correct and an incorrect answer are the same, and no others count.
    """
    if answers not in ANSWERS:
        raise PairsError(f"answers={answers!r}: use 'all' tokens of an answer, or the 'first' alone")
    if answers == "first":
        readings = [_first_tokens(pairs[row].called(row), reading) for row, reading in enumerate(readings)]
    if any(len(ids) > 1 for reading in readings for ids in (*reading.correct, *reading.incorrect)):
        return _by_steps(readings, pairs)
    return TokenPairs(
        clean=padded([reading.clean for reading in readings], 0),
        corrupted=padded([reading.corrupted for reading in readings], 0),
        length=np.array([len(reading.clean) for reading in readings], dtype=np.int64),
        answer_position=np.array([reading.place for reading in readings], dtype=np.int64),
        correct=padded([[ids[0] for ids in reading.correct] for reading in readings], NO_TOKEN),
        incorrect=padded([[ids[0] for ids in reading.incorrect] for reading in readings], NO_TOKEN),
        text=pairs,
    )


def _first_tokens(name: str, reading: TokenizedPair) -> TokenizedPair:
    """The pair with the first token of every answer alone, each token once."""
    correct, incorrect = (
        tuple(dict.fromkeys((ids[0],) for ids in side)) for side in (reading.correct, reading.incorrect)
    )
    if set(correct) & set(incorrect):
        raise PairsError(
            f"{name}: a correct and an incorrect answer begin with the same token, so their first tokens do not tell "
            "them apart; use all tokens of the answers"
        )
    return replace(reading, correct=correct, incorrect=incorrect)


def _by_steps(readings: Sequence[TokenizedPair], pairs: PromptPairs) -> TokenPairs:
    """One row for every token of every answer."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("clean", "corrupted", "place", "right", "wrong", "pair", "answer")
    }
    share = []
    for number, reading in enumerate(readings):
        sides = [(ids, True) for ids in reading.correct] + [(ids, False) for ids in reading.incorrect]
        for which, (ids, is_right) in enumerate(sides):
            for step, token in enumerate(ids):
                # The text behind an answer that is read in the middle stays only where no token of the answer replaces it.
                stop, said = (reading.place + 1, ids[:step]) if step else (None, ())
                columns["clean"].append([*reading.clean[:stop], *said])
                columns["corrupted"].append([*reading.corrupted[:stop], *said] if reading.corrupted else [])
                columns["place"].append(reading.place + step)
                columns["right"].append(token if is_right else NO_TOKEN)
                columns["wrong"].append(NO_TOKEN if is_right else token)
                columns["pair"].append(number)
                columns["answer"].append(which)
                share.append(1 / len(reading.correct if is_right else reading.incorrect))
    pair, answer, place, right, wrong = (
        np.array(columns[name], dtype=np.int64) for name in ("pair", "answer", "place", "right", "wrong")
    )
    n_right = np.array([len(reading.correct) for reading in readings], dtype=np.int64)
    n_wrong = np.array([len(reading.incorrect) for reading in readings], dtype=np.int64)
    per_pair = len(pair) / len(readings)
    steps = AnswerSteps(pair, answer, np.array(share) * per_pair, n_right, n_wrong, per_pair)
    return TokenPairs(
        clean=padded(columns["clean"], 0),
        corrupted=padded(columns["corrupted"], 0),
        length=np.array([len(row) for row in columns["clean"]], dtype=np.int64),
        answer_position=place,
        correct=right[:, None],
        incorrect=wrong[:, None],
        text=PromptPairs(tuple(pairs[number] for number in columns["pair"]), pairs.source),
        steps=steps,
    )
