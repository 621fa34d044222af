"""Parts of prompts: where in the prompt an edge is used.

An edge stays within a position: its receiver reads at a token what its sender writes at the same token. Only attention moves
information between tokens, inside a head. A head's output at a token depends on its query there and on its keys and values at
the tokens it sees (under causal attention, that token and those before it). So a circuit may keep (part of the prompt, edge)
pairs, where parts are positions or labelled spans (:mod:`circuitfind.task.spans`). Everything that holds for circuits then
holds per part. A :class:`Layout` says which part sees which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.errors import CircuitError
from circuitfind.graph import Mask
from circuitfind.scores import EdgeScores
from circuitfind.task import Spans, Tokenizer, TokenPairs, spans_of
from circuitfind.task.spans import REST, length_and_position


@dataclass(frozen=True, eq=False)
class Layout:
    """How the parts of some prompts relate, as far as a circuit's paths depend on it.

    Attributes:
        labels: a name for every part.
        sees: (parts, parts); at [i, j], whether a token of part j sees one of part i. Under causal attention, a token sees
            itself and earlier tokens.
        answers: whether an answer is read in a part, (parts,).
    """

    labels: tuple[str, ...]
    sees: Mask
    answers: Mask

    @classmethod
    def of(cls, spans: Spans, pairs: TokenPairs, causal: bool = True) -> Layout:
        """The layout of the parts of these prompts, under causal or bidirectional attention."""
        read = spans.of[np.arange(len(pairs)), pairs.answer_position]
        return cls(spans.labels, spans.sees(pairs.length, causal), np.isin(np.arange(len(spans)), read))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> str:
        """The kind of parts: ``"span"``, which always includes the rest of the prompt, ``"length"`` or ``"position"``."""
        return "span" if REST in self.labels else "length" if any(map(length_and_position, self.labels)) else "position"

    def places(self, spans: Spans) -> list[int]:
        """The index among these parts of each part of other prompts, matched by label.

        Raises:
            CircuitError: the prompts have a part that is not among these.
        """
        known = {label: number for number, label in enumerate(self.labels)}
        if unknown := [label for label in spans.labels if label not in known]:
            same = {"position": "no longer prompts, or parts by 'span'", "length": "prompts of these lengths"}
            advice = same.get(self.kind, "prompts of its task")
            raise CircuitError(
                f"these prompts have the part {unknown[0]!r}, but the circuit or the scores only know "
                f"{', '.join(self.labels)}; use {advice}"
            )
        return [known[label] for label in spans.labels]

    def joined(self, other: Layout, places: list[int]) -> Layout:
        """The union with ``other``, whose parts are at ``places`` among these: a path in either is a path in the result."""
        sees, answers = self.sees.copy(), self.answers.copy()
        sees[np.ix_(places, places)] |= other.sees
        answers[places] |= other.answers
        return Layout(self.labels, sees, answers)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        answers = self.answers.tolist()
        return {"kind": self.kind, "labels": list(self.labels), "answers": answers, "sees": self.sees.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Layout:
        """The layout from the values of :meth:`to_json`."""
        labels = tuple(map(str, values["labels"]))
        sees = np.array(values["sees"], dtype=bool).reshape(len(labels), len(labels))
        return cls(labels, sees, np.array(values["answers"], dtype=bool).reshape(len(labels)))


def layout_of(
    scores: EdgeScores, sets: Sequence[TokenPairs], tokenizer: Tokenizer | None, causal: bool = True
) -> Layout:
    """The parts of the scores, with the layouts of all sets of prompts joined.

    Args:
        causal: whether the model's attention is causal.

    Raises:
        CircuitError: a set has a part that the scores do not know.
        OptionError: the scores have no parts.
    """
    n_parts = len(scores.by_part)
    assert scores.spans is not None
    layout = Layout(scores.spans.labels, np.eye(n_parts, dtype=bool), np.zeros(n_parts, dtype=bool))
    for pairs in sets:
        spans = spans_of(pairs, scores.parts_axis, tokenizer)
        layout = layout.joined(Layout.of(spans, pairs, causal), layout.places(spans))
    return layout
