"""A tokenizer small enough to see through: the longest known piece first, spaces belong to the piece they precede."""

from __future__ import annotations

from collections.abc import Sequence

from circuitfind.errors import PairsError


class ToyTokenizer:
    """Token ids are places in ``pieces``."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self._longest_first = sorted(pieces, key=len, reverse=True)

    def encode(self, text: str) -> list[int]:
        ids = []
        rest = text
        while rest:
            piece = next((piece for piece in self._longest_first if rest.startswith(piece)), None)
            if piece is None:
                raise PairsError(f"the vocabulary has nothing for {rest!r}")
            ids.append(self.pieces.index(piece))
            rest = rest[len(piece) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in ids)
