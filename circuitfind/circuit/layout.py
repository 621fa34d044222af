"""Parts of prompts: where in the prompt an edge is used.

An edge stays within a position: what its sender writes at a token is read by its receiver at the same token. Only attention
moves information, inside a head: a head's output at a token is made of its query there and of its keys and values at the
tokens it sees, which are that token and those before it, where attention is causal. So a circuit may keep (part of the prompt,
edge), parts being positions or labelled spans (:mod:`circuitfind.task.spans`), and everything that holds for circuits holds
part by part. How the parts lie to each other is their :class:`Layout`.
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
from circuitfind.task.spans import REST


@dataclass(frozen=True, eq=False)
class Layout:
    """How the parts of some prompts lie, as far as a circuit's paths depend on it.

    Attributes:
        labels: a name for every part.
        sees: whether a token of part j sees one of part i (has it before it or at it, if attention is causal), at [i, j];
            (parts, parts).
        answers: whether an answer is read in a part, (parts,).
    """

    labels: tuple[str, ...]
    sees: Mask
    answers: Mask

    @classmethod
    def of(cls, spans: Spans, pairs: TokenPairs, causal: bool = True) -> Layout:
        """Of these prompts, under causal attention or another."""
        read = spans.of[np.arange(len(pairs)), pairs.answer_position]
        return cls(spans.labels, spans.sees(pairs.length, causal), np.isin(np.arange(len(spans)), read))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> str:
        """What the parts are: ``"span"``, among which there always is the rest, or ``"position"``."""
        return "span" if REST in self.labels else "position"

    def places(self, spans: Spans) -> list[int]:
        """Which of these parts the parts of other prompts are, found by label.

        Raises:
            CircuitError: the prompts have a part that is not among these.
        """
        known = {label: number for number, label in enumerate(self.labels)}
        if unknown := [label for label in spans.labels if label not in known]:
            advice = "no longer prompts, or parts by 'span'" if self.kind == "position" else "prompts of its task"
            raise CircuitError(
                f"these prompts have the part {unknown[0]!r}, and what was found on others knows only "
                f"{', '.join(self.labels)}; use {advice}"
            )
        return [known[label] for label in spans.labels]

    def joined(self, other: Layout, places: list[int]) -> Layout:
        """With what ``other`` adds, whose parts are at ``places`` among these: a path of either is a path."""
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
        """What :meth:`to_json` gave."""
        labels = tuple(map(str, values["labels"]))
        sees = np.array(values["sees"], dtype=bool).reshape(len(labels), len(labels))
        return cls(labels, sees, np.array(values["answers"], dtype=bool).reshape(len(labels)))


def layout_of(
    scores: EdgeScores, sets: Sequence[TokenPairs], tokenizer: Tokenizer | None, causal: bool = True
) -> Layout:
    """The parts that the scores were kept apart by, as they lie in any of some sets of prompts.

    Args:
        causal: whether the model's attention is.

    Raises:
        CircuitError: a set has a part that the scores know nothing of.
        OptionError: the scores have no parts.
    """
    n_parts = len(scores.by_part)
    assert scores.spans is not None
    layout = Layout(scores.spans.labels, np.eye(n_parts, dtype=bool), np.zeros(n_parts, dtype=bool))
    for pairs in sets:
        spans = spans_of(pairs, scores.parts_axis, tokenizer)
        layout = layout.joined(Layout.of(spans, pairs, causal), layout.places(spans))
    return layout
