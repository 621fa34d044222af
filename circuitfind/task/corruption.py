"""Corrupted prompts made from clean ones, for pairs that come without them.

* ``swap:A,B``: the labelled spans A and B change places. A label stands for its numbered ones too (``S`` for ``S1``, ``S2``).
* ``resample``: the clean prompt of another row with as many tokens and another answer. Two rows take each other's prompt, so
  that no prompt of one split is in the other.
* ``replace:WORDS``: every word of a vocabulary becomes another word of it, one that is not in the prompt and leaves the number
  of tokens as it is (symmetric token replacement; Zhang & Nanda 2024, arXiv:2309.16042). ``replace:A=WORDS`` replaces the
  labelled span A alone. WORDS is a list with commas, or a file with one word in each line.

Nothing is drawn: the same rows give the same corrupted prompts.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from circuitfind.errors import OptionError, PairsError
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.tables import read_bytes
from circuitfind.task.tokens import Tokenizer

MakeCorrupted = Callable[[PromptPair], str]
"""From a pair to its corrupted prompt, or a PairsError that says why there is none."""
FORMS = "swap:A,B (labelled spans), resample, or replace:WORDS (a list with commas, or a file)"


def check_rule(rule: str) -> tuple[str, str]:
    """The name of a rule and what it is told, if nothing of it is wrong whatever the pairs.

    Raises:
        OptionError: the message says what is allowed.
    """
    name, _, told = rule.partition(":")
    if name == "swap" and (len(labels := [label.strip() for label in told.split(",")]) != 2 or not all(labels)):
        raise OptionError(f"corrupt={rule!r}: name the two labels whose spans change places, such as swap:IO,S")
    if name == "resample" and told:
        raise OptionError(f"corrupt={rule!r}: resample is told nothing")
    if name == "replace" and len(_vocabulary(told)[1]) < 2:
        raise OptionError(
            f"corrupt={rule!r}: give at least two words, such as replace:Mary,John,Ann, or a file of them"
        )
    if name not in ("swap", "resample", "replace"):
        raise OptionError(f"corrupt={rule!r}: use {FORMS}")
    return name, told


def with_corrupted(pairs: PromptPairs, rule: str, tokenizer: Tokenizer | None = None) -> PromptPairs:
    """The pairs with corrupted prompts made by a rule, instead of those that they may have.

    Rows for which the rule makes none are left without one, and a note says why; ``check-pairs`` names them.

    Args:
        rule: see above.
        tokenizer: counts tokens, for ``resample`` and ``replace``.

    Raises:
        OptionError: no such rule, or no tokenizer for it.
        PairsError: the rule makes no corrupted prompt at all.
    """
    name, told = check_rule(rule)
    if name == "swap":
        made = [_tried(pair, lambda pair: _swapped(pair, *told.split(","))) for pair in pairs]
    elif tokenizer is None:
        raise OptionError(f"corrupt={rule!r} counts tokens, so it needs a tokenizer; name the model")
    elif name == "resample":
        made = _resampled(pairs, tokenizer)
    else:
        label, words = _vocabulary(told)
        made = [_tried(pair, lambda pair: _replaced(pair, label, words, tokenizer)) for pair in pairs]
    failed = [f"{pair.called(row)}: {why}" for row, (pair, why) in enumerate(made) if why]
    if len(failed) == len(pairs):
        raise PairsError(f"{pairs.source}: {rule} makes no corrupted prompt of any row; {failed[0]}")
    notes = [f"the corrupted prompts are made by {rule}"]
    if failed:
        notes.append(f"{len(failed)} of {len(pairs)} rows have none; {failed[0]}")
    return replace(pairs, pairs=tuple(pair for pair, _ in made), notes=(*pairs.notes, *notes))


def _tried(pair: PromptPair, make: MakeCorrupted) -> tuple[PromptPair, str]:
    """The pair with its corrupted prompt, and "" or why there is none."""
    try:
        return replace(pair, corrupted=make(pair)), ""
    except PairsError as error:
        return replace(pair, corrupted=""), str(error)


# --- labelled spans ------------------------------------------------------------------------------------------------------


def _spans(pair: PromptPair, label: str) -> list[tuple[int, int]]:
    """Where the words of a label, and of its numbered ones, begin and end."""
    name = re.compile(re.escape(label.strip()) + r"\d*")
    ends = {one: end for one, end in pair.labels.items() if name.fullmatch(one)}
    if not ends:
        known = ", ".join(pair.labels) or "none"
        raise PairsError(f"it has no label {label.strip()!r}, its labels: {known}")
    return sorted({(pair.label_starts.get(one, _beginning(pair.clean, end)), end) for one, end in ends.items()})


def _beginning(clean: str, end: int) -> int:
    """Where the word that ends at a place begins."""
    word = re.search(r"(?:\w+(?:['’-]\w+)*|[^\w\s]+)$", clean[:end])
    return word.start() if word else end


def _swapped(pair: PromptPair, one: str, other: str) -> str:
    spans = {label.strip(): _spans(pair, label) for label in (one, other)}
    texts = {label: {pair.clean[start:end] for start, end in places} for label, places in spans.items()}
    for label, found in texts.items():
        if len(found) > 1:
            shown = ", ".join(map(repr, sorted(found)))
            raise PairsError(f"the label {label!r} stands at several words ({shown}); name one of its numbered labels")
    (first,), (second,) = texts.values()
    if first == second:
        raise PairsError(f"both labels stand at {first!r}, so changing places changes nothing")
    new = dict(zip(spans, (second, first), strict=True))
    return _with_texts(pair.clean, {place: new[label] for label, places in spans.items() for place in places})


def _with_texts(clean: str, texts: Mapping[tuple[int, int], str]) -> str:
    """The prompt with other texts at some places."""
    for (start, end), text in sorted(texts.items(), reverse=True):
        clean = clean[:start] + text + clean[end:]
    return clean


# --- other rows ----------------------------------------------------------------------------------------------------------


def _resampled(pairs: Sequence[PromptPair], tokenizer: Tokenizer) -> list[tuple[PromptPair, str]]:
    """Rows of equal length and with other answers take each other's prompt, in an order that only their texts decide."""
    made: list[tuple[PromptPair, str]] = [(pair, "") for pair in pairs]
    lengths: dict[int, list[int]] = {}
    for row, pair in enumerate(pairs):
        try:
            lengths.setdefault(len(tokenizer.encode(pair.clean)), []).append(row)
        except PairsError as error:
            made[row] = replace(pair, corrupted=""), str(error)
    for length, rows in lengths.items():
        rows.sort(key=lambda row: (zlib.crc32(pairs[row].clean.encode()), pairs[row].clean, row))
        free, partner = list(rows), dict[int, int]()
        while free:
            row = free.pop(0)
            other = next((one for one in free if _differ(pairs[row], pairs[one])), None)
            if other is not None:
                free.remove(other)
                partner |= {row: other, other: row}
        for row in rows:
            made[row] = _from_partner(pairs, row, rows, partner, length)
    return made


def _differ(one: PromptPair, other: PromptPair) -> bool:
    return one.clean != other.clean and not set(one.correct) & set(other.correct)


def _from_partner(
    pairs: Sequence[PromptPair], row: int, rows: Sequence[int], partner: Mapping[int, int], length: int
) -> tuple[PromptPair, str]:
    """A row with its partner's prompt; or, left over, with that of a row that has a partner, whose group it joins."""
    pair = pairs[row]
    if row in partner:
        return replace(pair, corrupted=pairs[partner[row]].clean, combination=_group(pairs, row, partner[row])), ""
    other = next((one for one in rows if _differ(pair, pairs[one])), None)
    if other is None:
        return replace(pair, corrupted=""), f"no other row has {length} tokens and another answer"
    return replace(pair, corrupted=pairs[other].clean, combination=_group(pairs, other, partner[other])), ""


def _group(pairs: Sequence[PromptPair], one: int, other: int) -> tuple[str, ...]:
    """What keeps two rows in one split, where no group was asked for."""
    return pairs[one].combination or tuple(sorted((pairs[one].clean, pairs[other].clean)))


# --- other words ---------------------------------------------------------------------------------------------------------


def _vocabulary(told: str) -> tuple[str, tuple[str, ...]]:
    """The label whose span is replaced, "" for all words, and the words."""
    label, equals, words = told.partition("=") if re.match(r"\w+=", told) else ("", "", told)
    del equals
    if Path(words).suffix and "," not in words:
        lines = read_bytes(Path(words)).decode("utf-8-sig", errors="replace").splitlines()
    else:
        lines = words.split(",")
    return label, tuple(dict.fromkeys(word for line in lines if (word := line.strip())))


def _replaced(pair: PromptPair, label: str, words: Sequence[str], tokenizer: Tokenizer) -> str:
    places = _spans(pair, label) if label else _occurrences(pair.clean, words)
    if not places:
        raise PairsError("no word of the vocabulary is in its clean prompt")
    length, taken = len(tokenizer.encode(pair.clean)), {pair.clean[start:end] for start, end in places}
    order = sorted(words, key=lambda word: (zlib.crc32(f"{pair.clean}\x1f{word}".encode()), word))
    texts: dict[tuple[int, int], str] = {}
    for word in dict.fromkeys(pair.clean[start:end] for start, end in places):
        here = [place for place in places if pair.clean[slice(*place)] == word]
        for new in order:
            if new in taken or _occurrences(pair.clean, (new,)):
                continue
            tried = texts | dict.fromkeys(here, new)
            if _n_tokens(_with_texts(pair.clean, tried), tokenizer) == length:
                texts, taken = tried, taken | {new}
                break
        else:
            raise PairsError(f"no other word of the vocabulary can replace {word!r} and leave its {length} tokens")
    return _with_texts(pair.clean, texts)


def _occurrences(clean: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where words stand in a prompt, the longer ones first where they overlap."""
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return [match.span() for match in re.finditer(rf"(?<!\w)(?:{either})(?!\w)", clean)]


def _n_tokens(text: str, tokenizer: Tokenizer) -> int:
    try:
        return len(tokenizer.encode(text))
    except PairsError:  # a word the vocabulary does not have
        return -1
