"""The programs that models are trained to compute, each with its task and its places in the model.

A program is the algorithm in its task's docstring, split into nodes. The edges between its nodes are the circuit that training
gives the model. All programs are causal, all their prompts have the same length, and the answer is read at the last token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from circuitfind.errors import UnknownNameError
from circuitfind.task import TASKS, Task, TokenPairs, is_held_out, tokenize
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.tasks import siit_add, siit_balance, siit_hist, siit_induction, siit_ioi, siit_sum_tree, siit_two_hop
from circuitfind.truth.siit.high_level import (
    NONE,
    HighLevel,
    Ints,
    Node,
    at_end,
    before,
    earlier,
    looked_up,
    matches,
    number_alike,
    value_at,
)
from circuitfind.zoo.tokenizer import PATTERN, WordTokenizer

NUMBERS = tuple(map(str, range(10)))


class WordIds(dict[str, int]):
    """The ids of a program's words."""

    def table(self, values: Mapping[str, int]) -> Ints:
        """An array that maps ids to the values of words; NONE for others."""
        found = np.full(max(self.values()) + 1, NONE)
        for word, value in values.items():
            found[self[word]] = value
        return found

    def row(self, words: Iterable[str]) -> Ints:
        """An array that maps 0, 1, 2, ... to the ids of words; it ends with NONE, so NONE maps to itself."""
        return np.array([*(self.get(word, NONE) for word in words), NONE])


@dataclass(frozen=True)
class Program:
    """A task and the steps in which a model computes it.

    Attributes:
        name: the name of the model and of the task.
        summary: the circuit in one sentence, for the card.
        words: a text that contains every word of the task.
        n_layers: how many layers the places need.
        steps: gives the nodes, for the ids of the words.
    """

    name: str
    summary: str
    words: str
    n_layers: int
    steps: Callable[[WordIds], tuple[Node, ...]]

    @property
    def task(self) -> Task:
        """The task that the model is trained for."""
        return TASKS[self.name]

    @cached_property
    def tokenizer(self) -> WordTokenizer:
        """The tokenizer that knows the words."""
        return WordTokenizer.from_words(re.findall(PATTERN, self.words), self.name)

    @cached_property
    def high_level(self) -> HighLevel:
        """The graph, on token ids."""
        words = self.tokenizer.vocabulary
        return HighLevel(self.steps(WordIds(zip(words, range(1, len(words) + 1), strict=True))))

    def training_pairs(self, n: int, seed: int) -> TokenPairs:
        """``n`` random pairs that are not held out; there may be duplicates."""
        rng, kept = random.Random(f"{self.name}/training/{seed}"), list[PromptPair]()
        propose = self.task.propose
        assert propose is not None
        while len(kept) < n:
            pair = propose(rng)
            if not is_held_out(pair.combination):
                kept.append(pair)
        return tokenize(PromptPairs(tuple(kept)), self.tokenizer)

    def pairs(self, n: int, seed: int = 0) -> TokenPairs:
        """``n`` different held-out pairs of the task."""
        return tokenize(self.task.pairs(n, split="held-out", seed=seed), self.tokenizer)


# ---------------------------------------------------------------- the programs


def _hist(ids: WordIds) -> tuple[Node, ...]:
    kind = ids.table({word: number for number, words in enumerate(siit_hist.KINDS) for word in words})
    return (
        Node("kind", "m0", "token", lambda token: kind[token]),
        Node("alike", "a1.h1", "kind<q> kind<k>", number_alike),
        Node("count", "m1", "alike", lambda alike: alike),
        Node("answer", "logits", "count", lambda count: ids.row(NUMBERS)[count]),
    )


def _xproportion(ids: WordIds) -> tuple[Node, ...]:
    is_x = ids.table({word: int(word == "x") for word in ids})
    return (
        Node("is_x", "m0", "token", lambda token: is_x[token]),
        Node("share", "a1.h2", "is_x<v>", lambda flags: flags.cumsum(1)),
        Node("count", "m1", "share", lambda share: share),
        Node("answer", "logits", "count", lambda count: ids.row(NUMBERS)[count]),
    )


def _induction(ids: WordIds) -> tuple[Node, ...]:
    def found(query: Ints, key: Ints, value: Ints) -> Ints:
        return value_at(matches(query, key) & before(query), value)

    return (
        Node("previous", "a0.h1", "token<v>", lambda token: earlier(token, 1)),
        Node("found", "a1.h2", "token<q> previous<k> token<v>", found),
        Node("answer", "logits", "found", lambda found: found),
    )


def _balance(ids: WordIds) -> tuple[Node, ...]:
    level = siit_balance.N_WORDS  # no bracket open: numbers of nodes are not negative
    steps = [ids.table(dict.fromkeys(ids, 0) | {t[0]: 1, t[1]: -1}) for t in siit_balance.TYPES]
    verdicts = ids.row(("early", "open", "good"))

    def below(a: Ints, b: Ints) -> Ints:
        return ((a < level) | (b < level)).astype(np.int64)

    def verdict(early: Ints, a: Ints, b: Ints) -> Ints:
        return np.where(early > 0, 0, np.where((a != level) | (b != level), 1, 2))

    return (
        Node("round", "a0.h0", "token<v>", lambda token: level + steps[0][token].cumsum(1)),
        Node("square", "a0.h2", "token<v>", lambda token: level + steps[1][token].cumsum(1)),
        Node("below", "m0", "round square", below),
        Node("early", "a1.h1", "below<v>", lambda below: np.maximum.accumulate(below, 1)),
        Node("verdict", "m1", "early round square", verdict),
        Node("answer", "logits", "verdict", lambda found: verdicts[found]),
    )


def _at_second(token: Ints, n: int) -> Ints:
    """The previous token, at every second one of the first ``n`` tokens."""
    place = np.arange(token.shape[1])
    return np.where((place % 2 == 1) & (place < n), earlier(token, 1), NONE)


def _two_hop(ids: WordIds) -> tuple[Node, ...]:
    n = 2 * len(siit_two_hop.LETTERS)
    return (
        Node("from", "a0.h1", "token<v>", lambda token: _at_second(token, n)),
        Node("one_step", "a1.h2", "token<q> from<k> token<v>", looked_up),
        Node("two_steps", "a2.h0", "one_step<q> from<k> token<v>", looked_up),
        Node("answer", "logits", "two_steps", lambda found: found),
    )


def _add(ids: WordIds) -> tuple[Node, ...]:
    n, number = 2 * len(siit_add.LETTERS), ids.table({word: int(word) for word in siit_add.NUMBERS})

    def total(first: Ints, second: Ints) -> Ints:
        a, b = number[first], number[second]
        return np.where((a == NONE) | (b == NONE), NONE, a + b)

    return (
        Node("key", "a0.h1", "token<v>", lambda token: _at_second(token, n)),
        Node("first_letter", "a0.h2", "token<v>", lambda token: at_end(earlier(token, 2))),
        Node("first", "a1.h0", "first_letter<q> key<k> token<v>", looked_up),
        Node("second", "a1.h3", "token<q> key<k> token<v>", looked_up),
        Node("total", "m1", "first second", total),
        Node("answer", "logits", "total", lambda found: ids.row(NUMBERS)[found]),
    )


def _sum_tree(ids: WordIds) -> tuple[Node, ...]:
    number, modulus = ids.table({word: int(word) for word in NUMBERS[: siit_sum_tree.MODULUS]}), siit_sum_tree.MODULUS

    def apart(sums: Ints, before: Ints) -> Ints:
        return np.where((sums == NONE) | (before == NONE), NONE, abs(sums - before))

    def summed(token: Ints, previous: Ints) -> Ints:
        return np.where(previous == NONE, NONE, (number[token] + number[previous]) % modulus)

    return (
        Node("previous", "a0.h1", "token<v>", lambda token: earlier(token, 1)),
        Node("sum", "m0", "token previous", summed),
        Node("sum_before", "a1.h3", "sum<v>", lambda sums: earlier(sums, 2)),
        Node("apart", "m1", "sum sum_before", apart),
        Node("answer", "logits", "apart", lambda found: ids.row(NUMBERS[:modulus])[found]),
    )


def _ioi(ids: WordIds) -> tuple[Node, ...]:
    name = ids.table({word: ids[word] for word in siit_ioi.NAMES})

    def duplicate(query: Ints, key: Ints) -> Ints:
        return np.where((matches(query, key) & before(query)).any(2), 1, 0)

    def inhibited(key: Ints, value: Ints) -> Ints:
        return at_end(value_at((key[:, None] == 1) & before(key), value, last=True))

    def moved(query: Ints, key: Ints, value: Ints) -> Ints:
        """The first name that differs from the query; the very first name if no name is repeated."""
        names = (key[:, None] != NONE) & before(query)
        return at_end(value_at(names & (query[:, :, None] != key[:, None]), value))

    return (
        Node("name", "m0", "token", lambda token: name[token]),
        Node("duplicate", "a1.h1", "name<q> name<k>", duplicate),
        Node("inhibited", "a2.h1", "duplicate<k> name<v>", inhibited),
        Node("moved", "a4.h1", "inhibited<q> name<k> name<v>", moved),
        Node("answer", "logits", "moved", lambda found: found),
    )


PROGRAMS: Mapping[str, Program] = {
    program.name: program
    for program in (
        Program(
            "siit-hist",
            "m0 finds the kind of every word, a1.h1 attends to words of the last one's kind, and m1 reads their number.",
            " ".join(["count", *chain(*siit_hist.KINDS), *NUMBERS]),
            2,
            _hist,
        ),
        Program(
            "siit-xproportion",
            "m0 marks every x, a1.h2 averages the marks, and m1 reads their number.",
            " ".join(["x", "a", "b", "c", *NUMBERS[:9]]),
            2,
            _xproportion,
        ),
        Program(
            "siit-induction",
            "a0.h1 is a previous-token head and a1.h2 an induction head.",
            " ".join(siit_induction.LETTERS),
            2,
            _induction,
        ),
        Program(
            "siit-balance",
            "a0.h0 and a0.h2 count the open brackets of each type, m0 marks where one is closed too early, a1.h1 passes on "
            "whether any is, and m1 gives the verdict.",
            "( ) [ ] early open good",
            2,
            _balance,
        ),
        Program(
            "siit-two-hop",
            "a0.h1 is a previous-token head, a1.h2 takes the first step and a2.h0 the second.",
            " ".join(siit_two_hop.LETTERS),
            3,
            _two_hop,
        ),
        Program(
            "siit-add",
            "a0.h1 is a previous-token head, a0.h2 fetches the first letter, a1.h0 and a1.h3 look the two numbers up, and m1 "
            "adds them.",
            " ".join(["+", *siit_add.LETTERS, *NUMBERS]),
            2,
            _add,
        ),
        Program(
            "siit-sum-tree",
            "a0.h1 is a previous-token head, m0 adds two neighbours, a1.h3 fetches the sum from two places before, and m1 "
            "compares.",
            " ".join(NUMBERS[: siit_sum_tree.MODULUS]),
            2,
            _sum_tree,
        ),
        Program(
            "siit-ioi",
            "m0 finds the names, a1.h1 is a duplicate-token head, a2.h1 an S-inhibition head and a4.h1 a name mover.",
            " ".join([*siit_ioi.NAMES, *siit_ioi.PLACES, *siit_ioi.OBJECTS, *chain(*siit_ioi.TEMPLATES)])
            .replace("{place}", "")
            .replace("{thing}", "")
            .replace("{}", ""),
            6,
            _ioi,
        ),
    )
}


def program_of(name: str) -> Program:
    """The program called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PROGRAMS:
        raise UnknownNameError("program", name, PROGRAMS)
    return PROGRAMS[name]
