"""A behaviour as data: prompt pairs, their files, metrics, and every check made before a model sees a prompt."""

from circuitfind.task.definition import TASKS, Task, is_held_out
from circuitfind.task.files import load_pairs, task_from_file
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.spans import Spans, spans_of
from circuitfind.task.tokenization import PairProblem, find_problems, tokenize
from circuitfind.task.tokens import Tokenizer, TokenPairs

__all__ = [
    "TASKS",
    "PairProblem",
    "PromptPair",
    "PromptPairs",
    "Spans",
    "Task",
    "TokenPairs",
    "Tokenizer",
    "find_problems",
    "is_held_out",
    "load_pairs",
    "spans_of",
    "task_from_file",
    "tokenize",
]
