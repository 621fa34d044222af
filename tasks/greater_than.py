"""Greater-than (Hanna et al. 2023, "How does GPT-2 compute greater-than?", section 2).

Behaviour: "The war lasted from the year 1732 to the year 17" is continued by a two-digit number above 32.

Clean rule: a noun that can last, a century CC from 11 to 17 and a year YY from 02 to 98. Corrupted rule: YY becomes
"01", so that every continuation except 00 and 01 is valid.

Metric: probability difference, all years above YY minus all years up to and including YY, at the last token (END, the
second century). The answers are the hundred two-digit strings "00" to "99", without a leading space. Positions: NOUN, CC, YY,
END.

The published circuit is from Conmy et al. 2023 (ACDC). Of its 262 edges, 27 link a head's q, k and v to the head itself.
Our graph does not have these, so 235 edges remain.

Deviations: 48 of the paper's 120 nouns. Years that GPT-2 does not split into century and year are left out for every
model, so that all models see the same prompts.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import TYPE_CHECKING

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.definition import Canonical
from circuitfind.task.templates import fill

if TYPE_CHECKING:
    from circuitfind.graph import ComputationGraph

TEMPLATE = "The {noun} lasted from the year {century}{year} to the year {end}"

NOUNS = tuple(
    "war battle siege conflict crisis dispute campaign journey voyage expedition mission trip tour project program "
    "plan treaty alliance partnership marriage reign rule empire dynasty kingdom regime government revolution "
    "rebellion uprising revolt strike famine drought plague epidemic boom recession depression trade tradition "
    "festival study trial debate feud peace exile".split()
)
CENTURIES = tuple(str(century) for century in range(11, 18))
YEARS = tuple(f"{year:02d}" for year in range(100))

# Years whose text with a leading space is not the two GPT-2 tokens " CC", "YY". Found by encoding " 1102" to " 1798"
# one by one with GPT-2's tokenizer and frozen here; tests/task/test_tasks.py repeats the computation.
UNEVEN_YEARS = frozenset(
    [f"11{year}" for year in YEARS[2:10] + YEARS[11:12] + YEARS[13:19] + YEARS[20:30] + YEARS[51:60] + YEARS[90:99]]
    + [f"{century}{year}" for century in ("13", "15") for year in YEARS[2:10]]
    + ["1280", "1440"]
)
START_YEARS = tuple(
    (century, year) for century in CENTURIES for year in YEARS[2:99] if century + year not in UNEVEN_YEARS
)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    noun = rng.choice(NOUNS)
    century, year = rng.choice(START_YEARS)
    clean, ends = fill(TEMPLATE, noun=noun, century=century, year=year, end=century)
    corrupted, _ = fill(TEMPLATE, noun=noun, century=century, year="01", end=century)
    return PromptPair(
        clean,
        corrupted,
        correct=YEARS[int(year) + 1 :],
        incorrect=YEARS[: int(year) + 1],
        combination=(noun, century + year),
        alone=True,
        labels={"NOUN": ends["noun"], "CC": ends["century"], "YY": ends["year"], "END": len(clean)},
    )


EARLY_HEADS = ("a0.h1", "a0.h3", "a0.h5")
MIDDLE_HEADS = {5: ("a5.h5",), 6: ("a6.h1", "a6.h9"), 7: ("a7.h10",), 8: ("a8.h11",), 9: ("a9.h1",)}
EARLY_MLPS = range(0, 4)
LATE_MLPS = range(8, 12)


def published_edges(graph: ComputationGraph) -> list[str]:
    """The circuit of Conmy et al.: early heads and MLPs feed the middle heads, which feed the late MLPs."""
    edges = [f"input->{head}<{port}>" for head in EARLY_HEADS for port in "qkv"]
    edges += [f"input->m{layer}" for layer in EARLY_MLPS]
    edges += [f"a0.h1->m{layer}" for layer in EARLY_MLPS]
    # All MLPs below 9 are linked: the paper's early group, and, as a concession, the other lower MLPs, which matter too.
    edges += [f"m{low}->m{high}" for low, high in combinations(range(9), 2)]
    edges += [f"m{low}->m{high}" for low, high in combinations(LATE_MLPS, 2)]
    edges += [f"m{layer}->logits" for layer in LATE_MLPS]
    for layer, heads in MIDDLE_HEADS.items():
        for head in heads:
            senders = [*EARLY_HEADS, *(f"m{mlp}" for mlp in EARLY_MLPS)]
            edges += [f"{sender}->{head}<{port}>" for sender in senders for port in "qkv"]
            edges += [f"m{mlp}->{head}<q>" for mlp in range(EARLY_MLPS.stop, layer)]
            edges += [f"{head}->m{mlp}" for mlp in LATE_MLPS if mlp >= layer]
            edges.append(f"{head}->logits")
    return edges


TASKS.add(
    Task(
        name="greater-than",
        description="An end year comes after the start year: from the year 1732 to the year 17 -> 33 to 99.",
        source="Hanna et al. 2023, How does GPT-2 compute greater-than? (arXiv 2305.00586), section 2",
        clean_rule="a noun, a century CC in 11-17, a start year YY in 02-98; right answers are the years above YY",
        corrupted_rule="YY becomes 01",
        metric="prob-diff",
        propose=propose,
        position_labels={
            "NOUN": "what lasted",
            "CC": "the century of the start year",
            "YY": "the last two digits of the start year",
            "END": "the second century, where the answer is read",
        },
        canonical=(
            Canonical(
                model="gpt2",
                source="Hanna et al. 2023; edges by the rule of Conmy et al. 2023 (arXiv 2304.14997)",
                edges=published_edges,
                roles=dict.fromkeys(EARLY_HEADS, "early head")
                | {head: "start-year mover" for heads in MIDDLE_HEADS.values() for head in heads},
            ),
        ),
    )
)
