"""What a cut edge may carry, and what follows from it for pruning: rules as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AblationRule:
    """What holds under one ablation.

    Attributes:
        name: as users write it.
        carries: what a cut edge carries instead of its sender's output.
        prunes_from_input: whether nodes that no path from the input reaches may be dropped without changing the function.
            Under ``corrupted`` such a node reads the corrupted stream, so its output *is* the corrupted one. Under the others
            it computes something else from the ablated stream, so only dead ends on the output side may go.
    """

    name: str
    carries: str
    prunes_from_input: bool = False


RULES = {
    rule.name: rule
    for rule in (
        AblationRule("corrupted", "the sender's output in the corrupted run", prunes_from_input=True),
        AblationRule("zero", "zero"),
        AblationRule("mean", "the sender's mean output over corrupted prompts and positions"),
        AblationRule("mean-positional", "the sender's mean output over corrupted prompts, position by position"),
        AblationRule("optimal", "the constant with the least loss"),
    )
}
ABLATIONS = tuple(RULES)


def prunes_from_input(ablation: str) -> bool:
    """See :attr:`AblationRule.prunes_from_input`; False for an ablation that is not known, since that is always right."""
    return ablation in RULES and RULES[ablation].prunes_from_input
