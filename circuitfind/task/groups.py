"""Rows that are no new evidence beside each other: they belong to one group, and a group to one split."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from circuitfind.task.pairs import PromptPair

Key = tuple[str, ...]
Member = TypeVar("Member")


def combination(pair: PromptPair) -> Key:
    """What makes a pair new: the words it says itself, the group it was given, or else its clean prompt."""
    return pair.combination or (pair.clean,)


def fixed_number(key: Key) -> int:
    """A number that a combination has on every machine."""
    return zlib.crc32("\x1f".join(key).encode())


def rows_that_share(keys: Sequence[Iterable[object]]) -> list[list[int]]:
    """Row numbers in groups: rows that share a key, directly or through others.

    Args:
        keys: the keys of every row.
    """
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[object, int] = {}
    for row, own in enumerate(keys):
        for key in own:
            parent[root(row)] = root(first.setdefault(key, row))
    members: dict[int, list[int]] = {}
    for row in range(len(keys)):
        members.setdefault(root(row), []).append(row)
    return list(members.values())


def groups_of(pairs: Iterable[PromptPair]) -> list[list[PromptPair]]:
    """Pairs in groups: those that share a combination, a clean prompt, or the same two prompts in either order.

    The order of the groups depends on the texts alone.
    """
    rows = list(dict.fromkeys(pairs))
    groups = [[rows[row] for row in group] for group in rows_that_share([_keys(pair) for pair in rows])]
    return sorted(groups, key=lambda group: min(_place(pair) for pair in group))


def split_of_groups(groups: list[list[Member]], split: str) -> tuple[list[list[Member]], str]:
    """The groups of one split, and what to say of it: the first third is held out."""
    if len(groups) < 2:
        return groups, "one group of prompts: used for discovery and evaluation"
    held_out = len(groups) // 3 or 1
    return groups[:held_out] if split == "held-out" else groups[held_out:], f"{split} split"


def about_split(pairs: Sequence[PromptPair]) -> str:
    """How many rows there are, how many of them each split has, and how many are left out because they stand there twice."""
    groups = groups_of(pairs)
    to_find, held_out = (sum(map(len, split_of_groups(groups, split)[0])) for split in ("train", "held-out"))
    twice = len(pairs) - sum(map(len, groups))
    repeats = f", {twice} of them repeats that are left out" if twice else ""
    if len(groups) < 2:
        return f"{len(pairs)} row{'s' * (len(pairs) > 1)}{repeats}, all of one group"
    return f"{len(pairs)} rows{repeats}: {to_find} to find on, {held_out} held out"


def _keys(pair: PromptPair) -> list[object]:
    keys: list[object] = [("combination", combination(pair)), ("clean", pair.clean)]
    return [*keys, ("prompts", frozenset((pair.clean, pair.corrupted)))] if pair.corrupted else keys


def _place(pair: PromptPair) -> tuple[int, Key]:
    key = combination(pair)
    return fixed_number(key), key


def near_copies(pairs: Sequence[PromptPair]) -> int:
    """How many rows are the same prompts as an earlier row, in either order, or the same clean prompt."""
    alone = [PromptPair(pair.clean, pair.corrupted, pair.correct) for pair in pairs]
    seen: set[object] = set()
    n = 0
    for pair in alone:
        keys = _keys(pair)
        n += any(key in seen for key in keys)
        seen |= set(keys)
    return n
