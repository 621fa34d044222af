"""What a task is: a named, seeded source of prompt pairs with a metric."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING

from circuitfind.errors import OptionError, PairsError, UnknownNameError
from circuitfind.registry import Registry
from circuitfind.task.groups import combination, fixed_number, groups_of, split_of_groups
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.spans import rows_of_length
from circuitfind.task.tokenization import PairProblem, read_pairs
from circuitfind.task.tokens import Tokenizer, TokenPairs

if TYPE_CHECKING:
    from circuitfind.graph import ComputationGraph

SPLITS = ("train", "held-out")
HELD_OUT_PERCENT = 20


def is_held_out(combination: tuple[str, ...]) -> bool:
    """Whether a combination of words belongs to the held-out split (about 1 in 5; the same on every machine).

    The zoo models are trained only on the other combinations, so the held-out split tests generalisation of the model
    and of the circuit at the same time.
    """
    return fixed_number(combination) % 100 < HELD_OUT_PERCENT


SIDES = ("clean", "corrupted", "correct", "incorrect")


def _plainly(value: object) -> str:
    """A prompt, or answers with ``|`` between them."""
    return value if isinstance(value, str) else " | ".join(map(str, value))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Canonical:
    """A published circuit for this task in one model.

    Attributes:
        model: the model it was found in, by its TransformerLens name.
        source: the paper.
        edges: the rule that builds it: gives the names of its edges in a graph.
        roles: the paper's name for each head (``{"a9.h9": "name mover"}``).
    """

    model: str
    source: str
    edges: Callable[[ComputationGraph], list[str]]
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A behaviour: how to make prompt pairs for it, and how to measure it.

    Attributes:
        name: the file stem with dashes; also the name on the command line.
        description: one sentence.
        source: the paper or data set that the task comes from.
        clean_rule, corrupted_rule: how each prompt is made, in words.
        metric: name of its metric (see :mod:`circuitfind.task.metrics`).
        propose: ``propose(rng, **options)`` returns one random pair; ``rng`` is its only source of randomness.
        options: allowed values of each option of ``propose``; the first is the default.
        position_labels: the labels that pairs of this task carry, with their meaning.
        canonical: published circuits.
        fixed: existing pairs (a file's rows) instead of ``propose``.
        tokens: existing pairs that are token ids, instead of both; no tokenizer is needed.
        model: the zoo model that performs the task, which the command line uses by default.
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
            raise OptionError(f"task {self.name!r} needs either propose=... or fixed=... (or tokens=...), and not both")

    def __repr__(self) -> str:
        """Its name, how it is measured, and how many pairs it was given."""
        given = self.tokens if self.fixed is None else self.fixed
        pairs = "makes its pairs" if given is None else f"{len(given):,} pairs"
        return f"Task({self.name!r}, {pairs}, measured by {self.metric})"

    def _repr_html_(self) -> str:
        """What it is, and ten pairs, for a notebook. A task of ids shows its first ten rows."""
        table = import_module("circuitfind.rendering.notebook").table_html  # drawing is a room of a higher rank
        about = f"{self.name}: {self.description} Measured by {self.metric}."
        if self.tokens is not None:
            rows = [
                {name: getattr(self.tokens, name)[row].tolist() for name in SIDES}
                for row in range(min(10, len(self.tokens)))
            ]
        else:
            rows = [{name: _plainly(getattr(pair, name)) for name in SIDES} for pair in self.up_to(10)]
        html: str = table(rows, about)
        return html

    @property
    def is_given(self) -> bool:
        """Whether its pairs are there already, so that a split has no others."""
        return self.propose is None

    @property
    def lacks_corrupted(self) -> bool:
        """Whether its pairs have no corrupted prompts."""
        if self.tokens is not None:
            return not self.tokens.has_corrupted
        return self.fixed is not None and not any(pair.corrupted for pair in self.fixed)

    def pairs(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
        n_tokens: int = 0,
        **options: str,
    ) -> PromptPairs:
        """``n`` different pairs of one split.

        Args:
            n: how many, at least 1. A task made from a file gives at most as many as it has rows.
            split: ``"train"`` or ``"held-out"``; they share no combination of words, for any seeds.
            seed: selects among the possible pairs. It never moves a pair to the other split.
            tokenizer: if given, proposals that do not fit it (unequal lengths, answers of several tokens) are skipped, so that
                one task serves models with different vocabularies.
            n_tokens: take only pairs whose prompts have so many tokens of ``tokenizer``; 0 takes any.
            options: see :attr:`options`.

        Raises:
            OptionError: an invalid value or split, ``n`` below 1, or the pairs are token ids, which are no text.
            UnknownNameError: the task has no such option.
            PairsError: fewer than ``n`` pairs exist or fit the tokenizer; the message gives the usual reason.
        """
        found, refusals = self._found(n, split, seed, tokenizer, options, n_tokens)
        if tokenizer is not None and n_tokens and not len(found):
            _of_length(self._found(n, split, seed, tokenizer, options)[0], tokenizer, n_tokens)
        if self.fixed is None and len(found) < n:
            reason = f" {sum(refusals.values())} proposals did not fit, e.g. {next(iter(refusals))}" if refusals else ""
            raise PairsError(
                f"task {self.name!r} found only {len(found)} of {n} {split} pairs.{reason} Ask for fewer pairs"
                + (" or use a model whose tokenizer knows the task's words" if refusals else "")
            )
        return found

    def up_to(self, n: int, *, split: str = "train", seed: int = 0, tokenizer: Tokenizer | None = None) -> PromptPairs:
        """As :meth:`pairs`, with default options; returns fewer pairs, perhaps none, if there are no more."""
        return self._found(n, split, seed, tokenizer, {})[0]

    def _found(
        self,
        n: int,
        split: str,
        seed: int,
        tokenizer: Tokenizer | None,
        options: Mapping[str, str],
        n_tokens: int = 0,
    ) -> tuple[PromptPairs, dict[str, int]]:
        """At most ``n`` pairs, and a count for each reason why proposals were skipped."""
        if split not in SPLITS:
            raise OptionError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
        if n < 1:
            raise OptionError(f"cannot make {n} pairs; ask for at least 1")
        settings = self.resolved(options)
        if self.fixed is not None:
            return self._fixed_split(n, split, seed, tokenizer, n_tokens), {}
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
            if key in kept or is_held_out(combination(pair)) != (split == "held-out"):
                continue
            if tokenizer is not None and (misfit := _misfit(pair, tokenizer, n_tokens)):
                refusals[misfit] = refusals.get(misfit, 0) + 1
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

    def _fixed_split(self, n: int, split: str, seed: int, tokenizer: Tokenizer | None, n_tokens: int) -> PromptPairs:
        """Rows of a file: two thirds for discovery, the rest held out.

        Which rows are held out depends on the texts of the file alone, so that no seed mixes the splits (other rows may);
        rows that are no new evidence beside each other stay together (:func:`circuitfind.task.groups.groups_of`). The seed
        decides which ``n`` of the split, and their order.
        """
        assert self.fixed is not None
        named = [replace(pair, place=pair.called(row)) for row, pair in enumerate(self.fixed)]
        groups, note = split_of_groups(groups_of(named), split)
        rows = [pair for group in groups for pair in group]
        random.Random(f"{self.name}/{seed}").shuffle(rows)
        whole = PromptPairs(tuple(rows), f"{self.fixed.source}, {note}, seed {seed}")
        return (_of_length(whole, tokenizer, n_tokens) if tokenizer is not None and n_tokens else whole)[:n]


def _misfit(pair: PromptPair, tokenizer: Tokenizer, n_tokens: int) -> str:
    """Why a proposal does not fit, or nothing; ``n_tokens`` is the wanted length, or 0."""
    (found,) = read_pairs((pair,), tokenizer)
    if isinstance(found, PairProblem):
        return found.message
    length = len(found.clean)
    return f"the prompt has {length} tokens, not {n_tokens}" if n_tokens and length != n_tokens else ""


def _of_length(pairs: PromptPairs, tokenizer: Tokenizer, n_tokens: int) -> PromptPairs:
    """The pairs whose prompts have so many tokens, and those that cannot be read, which are refused by name later.

    Raises:
        PairsError: there are none; the message says which lengths there are.
    """
    read = read_pairs(pairs, tokenizer)
    lengths = [n_tokens if isinstance(one, PairProblem) else len(one.clean) for one in read]
    return replace(pairs, pairs=tuple(pairs[row] for row in rows_of_length(lengths, n_tokens, pairs.source)))


TASKS: Registry[Task] = Registry("task", "circuitfind.tasks")
