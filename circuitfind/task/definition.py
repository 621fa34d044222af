"""What a task is: a named, seeded source of prompt pairs with a metric."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitfind.errors import OptionError, PairsError, UnknownNameError
from circuitfind.registry import Registry
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.tokens import Tokenizer, TokenPairs, find_problems

if TYPE_CHECKING:
    from circuitfind.graph import ComputationGraph

SPLITS = ("train", "held-out")
HELD_OUT_PERCENT = 20


def is_held_out(combination: tuple[str, ...]) -> bool:
    """Whether a combination of words belongs to the held-out split (about one in five; the same on every machine).

    The zoo models are trained on the other combinations only, so the held-out split tests generalisation of the model
    and of the circuit at once.
    """
    return _fixed_number(combination) % 100 < HELD_OUT_PERCENT


def _fixed_number(combination: tuple[str, ...]) -> int:
    return zlib.crc32("\x1f".join(combination).encode())


def _combination(pair: PromptPair) -> tuple[str, ...]:
    return pair.combination or (pair.clean,)


@dataclass(frozen=True)
class Canonical:
    """A circuit that people published for this task on one model.

    Attributes:
        model: the model it was found in, by its TransformerLens name.
        source: the paper.
        edges: the rule that builds it: the names of its edges in a given graph.
        roles: what each head is called in the paper (``{"a9.h9": "name mover"}``).
    """

    model: str
    source: str
    edges: Callable[[ComputationGraph], list[str]]
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A behaviour: how to make prompt pairs for it, and how to measure it.

    Attributes:
        name: file stem with dashes, the name on the command line.
        description: one sentence.
        source: the paper or data set the task is from.
        clean_rule, corrupted_rule: how each prompt is made, in words.
        metric: name of the metric it is measured with (see :mod:`circuitfind.task.metrics`).
        propose: ``propose(rng, **options)`` returns one random pair; seeded by ``rng`` alone.
        options: allowed values of each option of ``propose``; the first is the default.
        position_labels: the labels that pairs of this task carry, with their meaning.
        canonical: published circuits.
        fixed: pairs that exist already (a file's rows) instead of ``propose``.
        tokens: pairs that are token ids already, instead of both; no tokenizer is needed.
        model: the zoo model that does it, which the command line takes if none is named.
    """

    name: str
    description: str
    source: str
    clean_rule: str
    corrupted_rule: str
    metric: str
    propose: Callable[..., PromptPair] | None = None
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    position_labels: Mapping[str, str] = field(default_factory=dict)
    canonical: tuple[Canonical, ...] = ()
    fixed: PromptPairs | None = None
    model: str = "tasks-4l"
    tokens: TokenPairs | None = None

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.propose, self.fixed, self.tokens)) != 1:
            raise OptionError(f"task {self.name!r} needs one of propose=..., fixed=... and tokens=...")

    @property
    def is_given(self) -> bool:
        """Whether its pairs are there already, so that a split has no others."""
        return self.propose is None

    def pairs(
        self, n: int, *, split: str = "train", seed: int = 0, tokenizer: Tokenizer | None = None, **options: str
    ) -> PromptPairs:
        """``n`` different pairs of one split.

        Args:
            n: how many, at least 1. A task made from a file gives at most the rows it has.
            split: ``"train"`` or ``"held-out"``; they share no combination of words, whatever the seeds.
            seed: which of the many. It never moves a pair to the other split.
            tokenizer: if given, proposals that it does not split evenly (unequal lengths, answers of several tokens)
                are passed over, so that one task serves models with different vocabularies.
            options: see :attr:`options`.

        Raises:
            OptionError: a value or split that is not offered, ``n`` below 1, or the pairs are token ids, which are no text.
            UnknownNameError: an option that the task does not have.
            PairsError: fewer than ``n`` pairs exist or fit the tokenizer; the message gives the usual reason.
        """
        found, refusals = self._found(n, split, seed, tokenizer, options)
        if self.fixed is None and len(found) < n:
            reason = f" {sum(refusals.values())} proposals did not fit, e.g. {next(iter(refusals))}" if refusals else ""
            raise PairsError(
                f"task {self.name!r} found only {len(found)} of {n} {split} pairs.{reason} Ask for fewer pairs"
                + (" or use a model whose tokenizer knows the task's words" if refusals else "")
            )
        return found

    def up_to(self, n: int, *, split: str = "train", seed: int = 0, tokenizer: Tokenizer | None = None) -> PromptPairs:
        """As :meth:`pairs`, with default options; fewer, perhaps none, where there are no more."""
        return self._found(n, split, seed, tokenizer, {})[0]

    def _found(
        self, n: int, split: str, seed: int, tokenizer: Tokenizer | None, options: Mapping[str, str]
    ) -> tuple[PromptPairs, dict[str, int]]:
        """At most ``n`` pairs, and why proposals were passed over, with how often."""
        if split not in SPLITS:
            raise OptionError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
        if n < 1:
            raise OptionError(f"cannot make {n} pairs; ask for at least 1")
        settings = self.resolved(options)
        if self.fixed is not None:
            return self._fixed_split(n, split, seed), {}
        if self.propose is None:
            raise OptionError(f"the pairs of task {self.name!r} are token ids and have no text")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        kept: dict[tuple[str, str, int], PromptPair] = {}
        refusals: dict[str, int] = {}
        in_vain = 0  # proposals since the last pair that was kept
        while len(kept) < n and in_vain < 200 * len(kept) + 2000:
            in_vain += 1
            pair = self.propose(rng, **settings)
            key = pair.clean, pair.corrupted, pair.answer_at
            if key in kept or is_held_out(_combination(pair)) != (split == "held-out"):
                continue
            if tokenizer is not None and (problem := find_problems(PromptPairs((pair,)), tokenizer)):
                refusals[problem[0].message] = refusals.get(problem[0].message, 0) + 1
                continue
            kept[key] = pair
            in_vain = 0
        return PromptPairs(tuple(kept.values()), f"task {self.name}, {split} split, seed {seed}"), refusals

    def resolved(self, options: Mapping[str, str]) -> dict[str, str]:
        """The value of every option.

        Raises:
            UnknownNameError, OptionError: there is no such option or value.
        """
        for name, value in options.items():
            if name not in self.options:
                raise UnknownNameError(f"option of task {self.name!r}", name, self.options)
            if value not in self.options[name]:
                allowed = ", ".join(self.options[name])
                raise OptionError(f"option {name}={value!r} of task {self.name!r}: use one of {allowed}")
        return {name: options.get(name, values[0]) for name, values in self.options.items()}

    def _fixed_split(self, n: int, split: str, seed: int) -> PromptPairs:
        """Rows of a file: two thirds for discovery, the rest held out.

        Which rows are held out depends on the texts of the file alone, so that no seed mixes the splits (other rows may);
        rows with the same clean prompt stay together. The seed decides which ``n`` of the split, and their order.
        """
        assert self.fixed is not None
        groups: dict[tuple[str, ...], list[PromptPair]] = {}
        for pair in dict.fromkeys(self.fixed):
            groups.setdefault(_combination(pair), []).append(pair)
        keys, note = split_by_group(groups, split)
        rows = [pair for key in keys for pair in groups[key]]
        random.Random(f"{self.name}/{seed}").shuffle(rows)
        return PromptPairs(tuple(rows[:n]), f"{self.fixed.source}, {note}, seed {seed}")


def split_by_group(groups: Iterable[tuple[str, ...]], split: str) -> tuple[list[tuple[str, ...]], str]:
    """The groups of one split, a third of all held out by what is in them alone; and what to say of it."""
    keys = sorted(groups, key=lambda key: (_fixed_number(key), key))
    if len(keys) < 2:
        return keys, "one prompt: used for discovery and evaluation"
    held_out = len(keys) // 3 or 1
    return keys[:held_out] if split == "held-out" else keys[held_out:], f"{split} split"


TASKS: Registry[Task] = Registry("task", "circuitfind.tasks")
