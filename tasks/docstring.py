'''Docstring completion.

Source: Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer"; the variant of
Conmy et al. 2023.

Behaviour: after ``def f(self, a, b, c, d, e, f): """... :param c: ... :param d: ... :param`` comes the third
documented argument, `` e``.

Clean rule: six argument names in the definition (two that the docstring skips, three that it documents in order, one
after them), a three-word summary, two documented arguments with two words each, and the third ``:param``. Corrupted
rule (``random_random``): six other names in the definition and two more in the docstring, so that definition and
docstring no longer agree; all other words stay.

Metric: logit difference at the last token (END, "param"), the third documented name against the 13 wrong names: the
other five of the definition and the eight of the corrupted prompt. Positions: A, B and C in the definition (A_def,
B_def, C_def), A and B in the docstring (A_doc, B_doc), END.

The published circuit is from Conmy et al. 2023 (ACDC). Of its 37 edges, 13 link a head's q, k and v to the head itself.
Our graph does not have these, so 24 edges remain.

Deviations: argument names, function names and describing words come from three disjoint lists that are shorter than the
original's; no line break before "def"; the metric takes the mean of the wrong names, ACDC the best of them.
'''

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.definition import Canonical
from circuitfind.task.templates import fill
from circuitfind.task.words import COMMON_NOUNS

if TYPE_CHECKING:
    from circuitfind.graph import ComputationGraph

TEMPLATE = (
    "def {function}(self, {skip1}, {skip2}, {A_def}, {B_def}, {C_def}, {after}):\n"
    '    """{word1} {word2} {word3}\n\n'
    "    :param {A_doc}: {word4} {word5}\n"
    "    :param {B_doc}: {word6} {word7}\n"
    "    :param"
)
FUNCTIONS = ("function", "port", "call", "run", "build", "update", "create", "check")
ARGUMENTS = tuple(
    "load size files last model error state shape option index value path data image user group page cache event code "
    "mode level count limit input output format source target start parent node line field number result".split()
)
ARGUMENT_SLOTS = ("skip1", "skip2", "A_def", "B_def", "C_def", "after")


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    names = rng.sample(ARGUMENTS, 14)
    defined, redefined, redocumented = names[:6], names[6:12], names[12:]
    words = {f"word{place}": word for place, word in enumerate(rng.sample(COMMON_NOUNS, 7), 1)}
    words["function"] = rng.choice(FUNCTIONS)
    a, b, c = defined[2:5]
    clean, ends = fill(TEMPLATE, **words, **dict(zip(ARGUMENT_SLOTS, defined, strict=True)), A_doc=a, B_doc=b)
    corrupted, _ = fill(
        TEMPLATE,
        **words,
        **dict(zip(ARGUMENT_SLOTS, redefined, strict=True)),
        A_doc=redocumented[0],
        B_doc=redocumented[1],
    )
    return PromptPair(
        clean,
        corrupted,
        correct=(f" {c}",),
        incorrect=tuple(f" {name}" for name in names if name != c),
        combination=tuple(sorted((a, b, c))),
        labels={label: ends[label] for label in ("A_def", "B_def", "C_def", "A_doc", "B_doc")} | {"END": len(clean)},
    )


ROLES = {
    "a0.h5": "duplicate token",
    "a1.h2": "duplicate token",
    "a1.h4": "previous token and induction",
    "a2.h0": "previous token",
    "a3.h0": "argument mover",
    "a3.h6": "argument mover",
}


def published_edges(graph: ComputationGraph) -> list[str]:
    """The circuit of Conmy et al.; ``graph`` is unused, because no part of it depends on the model's shape."""
    edges = ["input->a0.h5<v>", "a1.h4->a2.h0<v>"]
    for target in ("a1.h4<v>", "a1.h2<q>", "a1.h2<k>", "a2.h0<q>", "a2.h0<k>"):
        edges += [f"input->{target}", f"a0.h5->{target}"]
    for mover in ("a3.h0", "a3.h6"):
        edges += [f"a1.h4->{mover}<q>", f"a1.h2->{mover}<k>", f"a2.h0->{mover}<k>"]
        edges += [f"input->{mover}<v>", f"a0.h5->{mover}<v>", f"{mover}->logits"]
    return edges


TASKS.add(
    Task(
        name="docstring",
        description="A docstring documents arguments in the order of the definition: the third :param gets its name.",
        source="Heimersheim & Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer",
        clean_rule="a method with six arguments and a docstring that has documented two of the middle three",
        corrupted_rule="random_random: other argument names in the definition and again others in the docstring",
        metric="logit-diff",
        propose=propose,
        position_labels={
            "A_def": "first documented argument, in the definition",
            "B_def": "second documented argument, in the definition",
            "C_def": "third argument, the answer, in the definition",
            "A_doc": "first documented argument, in the docstring",
            "B_doc": "second documented argument, in the docstring",
            "END": "the third :param, where the answer is read",
        },
        canonical=(
            Canonical(
                model="attn-only-4l",
                source="Heimersheim & Janiak 2023; edges by the rule of Conmy et al. 2023 (arXiv 2304.14997)",
                edges=published_edges,
                roles=ROLES,
            ),
        ),
    )
)
