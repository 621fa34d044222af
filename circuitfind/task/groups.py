"""Rows that are no new evidence beside each other: they belong to one group, and a group to one split."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from circuitfind.task.pairs import PromptPair

Key = tuple[str, ...]


def combination(pair: PromptPair) -> Key:
    """What makes a pair new: the words it says itself, the group it was given, or else its clean prompt."""
    return pair.combination or (pair.clean,)


def fixed_number(key: Key) -> int:
    """A number that a combination has on every machine."""
    return zlib.crc32("\x1f".join(key).encode())


def groups_of(pairs: Iterable[PromptPair]) -> list[list[PromptPair]]:
    """Pairs in groups: those that share a combination, a clean prompt, or the same two prompts in either order.

    The order of the groups depends on the texts alone.
    """
    rows = list(dict.fromkeys(pairs))
    parent = list(range(len(rows)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[object, int] = {}
    for row, pair in enumerate(rows):
        for key in _keys(pair):
            parent[root(row)] = root(first.setdefault(key, row))
    members: dict[int, list[PromptPair]] = {}
    for row, pair in enumerate(rows):
        members.setdefault(root(row), []).append(pair)
    return sorted(members.values(), key=lambda group: min(_place(pair) for pair in group))


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
