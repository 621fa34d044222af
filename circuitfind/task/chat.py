"""Prompts that are chat messages, written as the model's chat template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitfind.errors import PairsError
from circuitfind.task.tokens import Tokenizer


def messages_of(cell: Any) -> list[dict[str, Any]] | None:
    """The messages of a cell, ``[{"role": "user", "content": "..."}, ...]``; None if it holds something else."""
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not cell:
        return None
    chat = all(isinstance(part, Mapping) and {"role", "content"} <= part.keys() for part in cell)
    return [dict(part) for part in cell] if chat else None


def begins_turn(cell: Any) -> bool:
    """Whether the answer begins the assistant's message."""
    messages = messages_of(cell)
    return messages is not None and messages[-1]["role"] != "assistant"


def chat_text(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer | None) -> str:
    """The text of some messages up to where the model answers.

    The template adds the beginning of the assistant's turn. If the last message is the assistant's, its text stays open
    and the answer continues it.

    Raises:
        PairsError: the tokenizer has no chat template, or the template refuses the messages.
    """
    template = getattr(tokenizer, "chat_text", None)
    if template is None:
        raise PairsError(
            "the prompt is a list of chat messages, and this model's tokenizer has no chat template; write the prompt as text"
        )
    text: str = template(messages)
    return text
