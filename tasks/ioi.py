"""Indirect object identification (Wang et al. 2022, "Interpretability in the Wild", sections 2 and 3).

Behaviour: "When Mary and John went to the store, John gave a drink to" is continued by " Mary", the name that
occurs once (the indirect object, IO), not by " John", the name that occurs twice (the subject, S).

Clean rule: a template with two names in either order (ABBA: IO first, BABA: S first), the subject again, a place, an
object. Corrupted rule: ``corruption="abc"`` (the paper's p_ABC) puts three other, different names into the three name
slots, so no name is repeated; ``corruption="flip"`` repeats the IO where the clean prompt repeats the subject, so that
the two prompts have opposite answers.

Metric: logit difference, IO minus S, at the last token (END, "to"). Positions: IO, S1, S2, END.

The published circuit is from Conmy et al. 2023 (ACDC, appendix F), built from the paper's head classes. Of its 1,041
edges, 78 link a head's q, k and v to the head itself. Our graph does not have these, so 963 edges remain.

Deviations: 44 names, 8 templates, 10 places and 10 objects instead of the paper's 100, 15, 8 and 8, so that they
fit into a small model's vocabulary. No beginning-of-text token is used.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.definition import Canonical
from circuitfind.task.templates import fill
from circuitfind.task.words import FEMALE_NAMES, MALE_NAMES

if TYPE_CHECKING:
    from circuitfind.graph import ComputationGraph

NAMES = (*FEMALE_NAMES, *MALE_NAMES)

TEMPLATES = (
    "When {first} and {second} went to the {place}, {again} gave a {object} to",
    "Then, {first} and {second} went to the {place}. {again} gave a {object} to",
    "After {first} and {second} left the {place}, {again} handed a {object} to",
    "While {first} and {second} were working at the {place}, {again} gave a {object} to",
    "Then, {first} and {second} had a long talk at the {place}, and {again} brought a {object} to",
    "One day {first} and {second} met at the {place}, and {again} offered a {object} to",
    "Yesterday {first} and {second} came to the {place}. There {again} sold a {object} to",
    "The friends {first} and {second} had fun at the {place}. Later {again} handed a {object} to",
)
PLACES = ("store", "garden", "school", "office", "station", "hospital", "house", "park", "market", "castle")
OBJECTS = ("drink", "book", "ring", "letter", "ticket", "flower", "key", "gift", "coin", "box")


def propose(rng: random.Random, corruption: str, order: str) -> PromptPair:
    """One pair; ``corruption`` and ``order`` as in the module's docstring."""
    template = rng.choice(TEMPLATES)
    setting = {"place": rng.choice(PLACES), "object": rng.choice(OBJECTS)}
    if order == "mixed":
        order = rng.choice(("ABBA", "BABA"))
    io, s, *others = rng.sample(NAMES, 5)
    first, second = (io, s) if order == "ABBA" else (s, io)
    if corruption == "abc":
        first_corrupted, second_corrupted, again_corrupted = others
    else:
        first_corrupted, second_corrupted, again_corrupted = first, second, io
    clean, ends = fill(template, first=first, second=second, again=s, **setting)
    corrupted, _ = fill(template, first=first_corrupted, second=second_corrupted, again=again_corrupted, **setting)
    io_end, s1_end = (ends["first"], ends["second"]) if order == "ABBA" else (ends["second"], ends["first"])
    return PromptPair(
        clean,
        corrupted,
        correct=(f" {io}",),
        incorrect=(f" {s}",),
        combination=tuple(sorted((io, s))),
        labels={"IO": io_end, "S1": s1_end, "S2": ends["again"], "END": len(clean)},
    )


# (layer, head) of every class of Wang et al., figure 2.
HEADS = {
    "previous token": ((2, 2), (4, 11)),
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "S-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "name mover": ((9, 9), (10, 0), (9, 6)),
    "backup name mover": ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)),
    "negative name mover": ((10, 7), (11, 10)),
}
MOVERS = ("name mover", "backup name mover", "negative name mover")

# Sending class, receiving class, and the receiver's ports.
LINKS = (
    ("previous token", "induction", "kv"),
    ("induction", "S-inhibition", "kv"),
    ("duplicate token", "S-inhibition", "kv"),
    *(("S-inhibition", mover, "q") for mover in MOVERS),
)
INPUT_LINKS = (
    ("previous token", "qkv"),
    ("duplicate token", "qkv"),
    ("S-inhibition", "q"),
    *((mover, "kv") for mover in MOVERS),
)


def _edges_of_mlps(n_layers: int) -> list[str]:
    """All edges at an MLP, to or from the input, other MLPs, the logits and the circuit's heads."""
    between = [f"m{low}->m{high}" for high in range(n_layers) for low in range(high)]
    ends = [f"input->m{layer}" for layer in range(n_layers)] + [f"m{layer}->logits" for layer in range(n_layers)]
    heads = [place for places in HEADS.values() for place in places]
    written = [f"a{layer}.h{head}->m{above}" for layer, head in heads for above in range(layer, n_layers)]
    read = [f"m{below}->a{layer}.h{head}<{p}>" for layer, head in heads for below in range(layer) for p in "qkv"]
    return between + ends + written + read


def published_edges(graph: ComputationGraph) -> list[str]:
    """The circuit of Conmy et al.: every edge at an MLP, and the links between the classes of heads."""
    edges = ["input->logits", *_edges_of_mlps(graph.n_layers)]
    for target, ports in INPUT_LINKS:
        edges += [f"input->a{layer}.h{head}<{port}>" for layer, head in HEADS[target] for port in ports]
    for source, target, ports in LINKS:
        edges += [
            f"a{low}.h{sender}->a{high}.h{receiver}<{port}>"
            for low, sender in HEADS[source]
            for high, receiver in HEADS[target]
            for port in ports
            if low < high
        ]
    return edges + [f"a{layer}.h{head}->logits" for mover in MOVERS for layer, head in HEADS[mover]]


TASKS.add(
    Task(
        name="ioi",
        description="The name said once receives the object: Mary and John ..., John gave a drink to -> Mary.",
        source="Wang et al. 2022, Interpretability in the Wild (arXiv 2211.00593), sections 2 and 3",
        clean_rule="two names in either order, then the subject S again; the answer is the other name, IO",
        corrupted_rule="abc: three other, different names; flip: the repeated name is IO instead of S",
        metric="logit-diff",
        propose=propose,
        options={"corruption": ("abc", "flip"), "order": ("mixed", "ABBA", "BABA")},
        position_labels={
            "IO": "the indirect object, the name said once",
            "S1": "first mention of the subject",
            "S2": "second mention of the subject",
            "END": "the last token, where the answer is read",
        },
        canonical=(
            Canonical(
                model="gpt2",
                source="Wang et al. 2022; edges by the rule of Conmy et al. 2023 (arXiv 2304.14997), appendix F",
                edges=published_edges,
                roles={f"a{layer}.h{head}": role for role, places in HEADS.items() for layer, head in places},
            ),
        ),
    )
)
