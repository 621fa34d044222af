"""From text to token ids, as the model reads it, and every reason why a pair cannot be read.

An answer is read together with its prompt. Its tokens are those that follow the prompt's own tokens in the text of both:
``"yes"`` is another token after ``'Ann said "'`` than at the beginning of a text. Where the prompt's own tokens change when the
answer follows, the pair is refused, because no position of the prompt then predicts the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass

from circuitfind.errors import PairsError
from circuitfind.task.pairs import Answer, PromptPair, PromptPairs
from circuitfind.task.tokens import TokenizedPair, Tokenizer, TokenPairs, from_readings

SPACE = "␣"
"""How a space is shown in a token."""


@dataclass(frozen=True)
class PairProblem:
    """Why one pair cannot be used: its row (from 0), a short name of the fault, and the sentence for people."""

    row: int
    fault: str
    message: str


class _FaultError(Exception):
    """Why a pair cannot be read: the fault's name and the sentence."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


# --- what a person sees -----------------------------------------------------------------------------------------------


def token_texts(tokenizer: Tokenizer, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds, with every space visible.

    Args:
        before: the tokens that come before. Many tokenizers drop the space at the beginning of a text.

    Returns:
        One text per token; a space is shown as ``␣``.
    """
    context = list(before[-1:])
    so_far = tokenizer.decode(context) if context else ""
    texts = []
    for token in ids:
        context.append(int(token))
        whole = tokenizer.decode(context)
        texts.append(whole[len(so_far) :] if whole.startswith(so_far) else tokenizer.decode([token]))
        so_far = whole
    return [text.replace(" ", SPACE) for text in texts]


def shown(tokenizer: Tokenizer, ids: Sequence[int], before: Sequence[int] = ()) -> str:
    """Tokens for a message, with ``|`` between them."""
    return "|".join(token_texts(tokenizer, ids, before))


# --- one pair ---------------------------------------------------------------------------------------------------------


def following(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[int, ...]:
    """The tokens of an answer after a prompt.

    Raises:
        PairsError: the prompt's own tokens change when the answer follows, or a word is unknown.

    Example:
        >>> import circuitfind as cf
        >>> tokenizer = cf.load_model("tasks-4l").tokenizer
        >>> following(tokenizer, "Mary gave a drink to", " John") == tuple(tokenizer.encode("John"))
        True
    """
    own, whole = encoded(tokenizer, [prompt, prompt + answer])
    try:
        return _what_follows(tokenizer, "prompt", prompt, own, answer, whole)
    except _FaultError as fault:
        raise PairsError(str(fault)) from None


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of several prompts, together where the tokenizer can do that."""
    together = getattr(tokenizer, "encode_all", None)
    return together(texts) if together is not None else [tokenizer.encode(text) for text in texts]


def _what_follows(
    tokenizer: Tokenizer, side: str, prompt: str, own: Sequence[int], answer: str, whole: Sequence[int]
) -> tuple[int, ...]:
    """The tokens of ``whole`` after those of the prompt alone."""
    if prompt[-1:] == answer[:1] == " ":
        raise _FaultError(
            "two-spaces",
            f"the {side} prompt ends in a space and the answer {answer!r} begins with one; remove the space from the prompt",
        )
    if list(whole[: len(own)]) == list(own) and len(whole) > len(own):
        return tuple(whole[len(own) :])
    same = next((at for at, (a, b) in enumerate(zip(own, whole, strict=False)) if a != b), min(len(own), len(whole)))
    alone, together = (shown(tokenizer, ids[same:], ids[:same]) for ids in (own, whole))
    repair = "end the prompt at the border of a token, or give the answer as token ids"
    if prompt[-1:].isspace() and prompt.rstrip():
        moved = prompt[len(prompt.rstrip()) :] + answer
        repair = f"end the {side} prompt before its white space, and write the answer as {moved!r}"
    raise _FaultError(
        "border",
        f"the tokens of the {side} prompt change when the answer {answer!r} follows: it ends in {alone or 'nothing'} alone, "
        f"and the text goes on as {together or 'nothing'} with the answer; {repair}",
    )


def read_pair(pair: PromptPair, tokenizer: Tokenizer) -> TokenizedPair:
    """One pair as ids.

    Raises:
        PairsError: the pair cannot be read.
    """
    try:
        return _read(pair, tokenizer, bare=not pair.corrupted)
    except _FaultError as fault:
        raise PairsError(str(fault)) from None


def _read(pair: PromptPair, tokenizer: Tokenizer, bare: bool) -> TokenizedPair:
    """One pair as ids; ``bare`` if no pair has a corrupted prompt."""
    for side, text in (("clean", pair.clean), ("corrupted", pair.corrupted)):
        if not text.strip() and not (bare and side == "corrupted"):
            raise _FaultError("empty-prompt", f"the {side} prompt is empty; write a prompt or drop the row")
    if not pair.correct:
        raise _FaultError("no-answer", "no correct answer is given; fill the column 'correct'")
    if pair.answer_at and not 1 <= pair.answer_at <= len(pair.clean):
        raise _FaultError(
            "answer-place",
            f"answer_at={pair.answer_at} lies outside the clean prompt, which has {len(pair.clean)} characters; give the "
            "number of characters up to and including the word at which the answer is read, or 0 for the last",
        )
    clean, corrupted = _prompts(pair, tokenizer)
    place = _place(pair, clean, tokenizer)
    follows = _all_that_follows(pair, clean, corrupted, tokenizer)
    sides = [
        tuple(_ids(answer, follows, tokenizer) for answer in answers) for answers in (pair.correct, pair.incorrect)
    ]
    reading = TokenizedPair(clean, corrupted, place, *(tuple(dict.fromkeys(side)) for side in sides))
    if shared := [ids for ids in reading.correct if ids in reading.incorrect]:
        raise _FaultError(
            "same-answer",
            f"{shown(tokenizer, shared[0], clean)!r} is both a correct and an incorrect answer; they must differ",
        )
    for label, end in pair.labels.items():
        if not 1 <= end <= len(pair.clean):
            raise _FaultError(
                "label-outside",
                f"the label {label}={end} lies outside the clean prompt, which has {len(pair.clean)} characters; give the "
                "number of characters up to and including the labelled word",
            )
    return reading


def _prompts(pair: PromptPair, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of both prompts."""
    try:
        clean, *other = map(tuple, encoded(tokenizer, [pair.clean, pair.corrupted] if pair.corrupted else [pair.clean]))
    except PairsError as error:
        raise _FaultError("unknown-word", str(error)) from None
    if not other:
        return clean, ()
    (corrupted,) = other
    if len(clean) != len(corrupted):
        raise _FaultError(
            "unequal-length",
            f"clean has {len(clean)} tokens ({shown(tokenizer, clean)}), corrupted has {len(corrupted)} "
            f"({shown(tokenizer, corrupted)}); reword one of them so that both have the same number of tokens",
        )
    return clean, corrupted


def _all_that_follows(
    pair: PromptPair, clean: Sequence[int], corrupted: Sequence[int], tokenizer: Tokenizer
) -> dict[str, tuple[int, ...]]:
    """What each answer that is text is, after both prompts."""
    answers = [answer for answer in dict.fromkeys((*pair.correct, *pair.incorrect)) if isinstance(answer, str)]
    if not answers:
        return {}
    starts, own = {"clean": pair.clean[: pair.answer_at] if pair.answer_at else pair.clean}, [clean]
    if pair.answer_at:  # a place in the middle is known in the clean prompt only
        own = [encoded(tokenizer, [starts["clean"]])[0]]
    elif pair.corrupted:
        starts["corrupted"], own = pair.corrupted, [clean, corrupted]
    try:
        whole = encoded(tokenizer, [start + answer for start in starts.values() for answer in answers])
    except PairsError as error:
        raise _FaultError("unknown-word", str(error)) from None
    found: dict[str, tuple[int, ...]] = {}
    for number, (side, start) in enumerate(starts.items()):
        for answer, ids in zip(answers, whole[number * len(answers) :], strict=False):
            try:
                follows = _what_follows(tokenizer, side, start, own[number], answer, ids)
            except _FaultError:
                if not pair.alone:
                    raise
                follows = _on_its_own(tokenizer, answer)
            if found.setdefault(answer, follows) != follows:
                raise _FaultError(
                    "border",
                    f"the answer {answer!r} is {shown(tokenizer, found[answer], clean)} after the clean prompt and "
                    f"{shown(tokenizer, follows, corrupted)} after the corrupted one; end both prompts in the same way",
                )
    return found


def _on_its_own(tokenizer: Tokenizer, answer: str) -> tuple[int, ...]:
    """The tokens of an answer without its prompt, and without special tokens."""
    special, ids = encoded(tokenizer, ["", answer])
    return tuple(ids[len(special) :])


def _ids(answer: Answer, follows: dict[str, tuple[int, ...]], tokenizer: Tokenizer) -> tuple[int, ...]:
    """An answer's ids: what follows the prompt, or the ids that were given."""
    if isinstance(answer, str):
        return follows[answer]
    ids = (answer,) if isinstance(answer, int) else tuple(answer)
    size = len(tokenizer) if isinstance(tokenizer, Sized) else None
    if not ids or any(token < 0 or (size is not None and token >= size) for token in ids):
        raise _FaultError(
            "no-token",
            f"the answer {answer!r} is no token of the model; ids go from 0 to {size - 1 if size else 'the last'}",
        )
    return ids


def _place(pair: PromptPair, clean: Sequence[int], tokenizer: Tokenizer) -> int:
    """The position whose logits predict the answer."""
    if not pair.answer_at:
        return len(clean) - 1
    try:
        before = tokenizer.encode(pair.clean[: pair.answer_at])
    except PairsError:
        before = []
    if not before or list(clean[: len(before)]) != list(before):
        raise _FaultError(
            "answer-place",
            f"answer_at={pair.answer_at} does not end with a token of the clean prompt ({shown(tokenizer, clean)}); count "
            "the characters up to and including the word at which the answer is read",
        )
    return len(before) - 1


# --- many pairs -------------------------------------------------------------------------------------------------------


def read_pairs(
    pairs: Iterable[PromptPair], tokenizer: Tokenizer, longest: int | None = None
) -> list[TokenizedPair | PairProblem]:
    """Every pair as ids, or why it cannot be read, in order.

    Args:
        longest: how many tokens the model reads at most; any number if None.
    """
    found: list[TokenizedPair | PairProblem] = []
    pairs = list(pairs)
    bare = not any(pair.corrupted for pair in pairs)
    for row, pair in enumerate(pairs):
        try:
            reading = _read(pair, tokenizer, bare)
            _check_length(reading, longest)
            found.append(reading)
        except _FaultError as fault:
            found.append(PairProblem(row, fault.fault, f"{pair.called(row)}: {fault}"))
    return found


def _check_length(reading: TokenizedPair, longest: int | None) -> None:
    answer = max(len(ids) for ids in (*reading.correct, *reading.incorrect))
    tokens = max(len(reading.clean), reading.place + answer)
    if longest is not None and tokens > longest:
        with_answer = " with the answer" if tokens > len(reading.clean) else ""
        raise _FaultError(
            "too-long",
            f"the prompt has {tokens} tokens{with_answer}, but the model reads at most {longest}; shorten it",
        )


def find_problems(pairs: PromptPairs, tokenizer: Tokenizer, longest: int | None = None) -> list[PairProblem]:
    """Every pair that cannot be used with this tokenizer, one problem each, in order."""
    return [found for found in read_pairs(pairs, tokenizer, longest) if isinstance(found, PairProblem)]


def tokenize(
    pairs: PromptPairs, tokenizer: Tokenizer, *, answers: str = "all", longest: int | None = None
) -> TokenPairs:
    """Token ids of all pairs.

    Args:
        longest: how many tokens the model reads at most; any number if None.
        answers: ``"all"`` tokens of an answer count, or the ``"first"`` alone.

    Raises:
        PairsError: there are no pairs, or some cannot be used; up to five are named with both tokenisations.
    """
    if not len(pairs):
        raise PairsError(f"no prompt pairs in {pairs.source}; at least one is needed")
    found = read_pairs(pairs, tokenizer, longest)
    if problems := [one for one in found if isinstance(one, PairProblem)]:
        lines = [problem.message for problem in problems[:5]]
        if len(problems) > 5:
            lines.append(f"... and {len(problems) - 5} more")
        raise PairsError(
            f"{len(problems)} of {len(pairs)} pairs from {pairs.source} cannot be used:\n  "
            + "\n  ".join(lines)
            + "\n'circuitfind check-pairs' lists all of them; with --keep-good FILE it writes those that can be used"
        )
    return from_readings([one for one in found if isinstance(one, TokenizedPair)], pairs, answers)
