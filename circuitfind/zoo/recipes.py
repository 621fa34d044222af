"""Recipes of the zoo models: words, shape, training text, schedule, and texts for the card."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuitfind.errors import UnknownNameError
from circuitfind.task.words import COMMON_NOUNS
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.zoo import corpus
from circuitfind.zoo.induction_heads import induction_heads_text
from circuitfind.zoo.tokenizer import PATTERN, WordTokenizer
from circuitfind.zoo.train import TrainingPlan
from circuitfind.zoo.training_batches import Documents, Repeats, Text


@dataclass(frozen=True)
class Recipe:
    """How to train one model from scratch.

    Attributes:
        name: name of the model.
        summary: what it is, for its card.
        trained_on: what it was trained on, for its card.
        tasks: the tasks it is measured on.
        words: gives a text that contains every word of its vocabulary.
        shape: its configuration for a number of words.
        text: its training text.
        schedule: how it is trained.
        findings: more Markdown for its card, measured on the finished model.
        command: the command that rebuilds it, without its name.
    """

    name: str
    summary: str
    trained_on: str
    tasks: tuple[str, ...]
    words: Callable[[], str]
    shape: Callable[[int], TransformerConfig]
    text: Callable[[WordTokenizer], Text]
    schedule: TrainingPlan
    findings: Callable[[Transformer], str] = lambda model: ""
    command: str = "python -m circuitfind.zoo train"

    def tokenizer(self) -> WordTokenizer:
        """The tokenizer that knows the recipe's words."""
        return WordTokenizer.from_words(re.findall(PATTERN, self.words()), self.name)


VERBS = (
    "After a subject the three verbs of subject-verb-agreement are all natural, and is/are is the most frequent of "
    "them in the training text. So *right answer first* counts a miss there whenever another verb in the right number "
    "is first; *right above wrong* is the measure of agreement."
)
INDUCTION_2L = Recipe(
    name="induction-2l",
    summary=(
        "The smallest model with an induction circuit: two attention-only layers that continue a list of words when "
        "it comes again."
    ),
    trained_on=(
        "rows of 64 common nouns: lists of 4 to 24 different random ones, each said twice, half of them after some "
        "random words"
    ),
    tasks=("induction",),
    words=lambda: " ".join(COMMON_NOUNS),
    shape=lambda d_vocab: TransformerConfig(2, 8, 128, 16, 0, d_vocab, 64),
    text=Repeats,
    schedule=TrainingPlan(steps=6000, rate=2e-3),
    findings=induction_heads_text,
)
TASKS_4L = Recipe(
    name="tasks-4l",
    summary=(
        "One small model that does all of circuitfind's tasks: four layers of attention and MLP, a word-level "
        "vocabulary and no download."
    ),
    trained_on=(
        "prompts of every task with their answers, corrupted prompts where these have a shape of their own, and "
        "everyday sentences, all made by `circuitfind/zoo/corpus.py`; no document is made from a held-out combination "
        "of words"
    ),
    tasks=(
        "ioi",
        "greater-than",
        "induction",
        "docstring",
        "gendered-pronoun",
        "subject-verb-agreement",
        "capital-cities",
    ),
    words=corpus.all_text,
    shape=lambda d_vocab: TransformerConfig(4, 8, 128, 16, 512, d_vocab, 64),
    text=lambda tokenizer: Documents(tokenizer, documents_per_step=64),
    schedule=TrainingPlan(steps=12_000, weight_decay=0.1, bfloat16=True),
    findings=lambda model: VERBS,
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (INDUCTION_2L, TASKS_4L)}


def recipe_of(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UnknownNameError("zoo model", name, RECIPES)
    return RECIPES[name]
