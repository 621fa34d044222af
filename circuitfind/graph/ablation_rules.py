"""What a cut edge may carry, and what follows from that: rules as data."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "mean-reference"
"""The ablation whose means are taken over prompts of the user's own."""


@dataclass(frozen=True)
class AblationRule:
    """What holds under one ablation.

    Attributes:
        name: the name that users write.
        prunes_from_input: whether nodes that no path from the input reaches may be dropped without changing the function.
            Under ``corrupted`` such a node reads the corrupted stream, so its output *is* the corrupted one. Under the others
            it computes something else from the ablated stream, so only dead ends on the output side may be dropped.
        from_prompts: whether a cut edge carries a constant that is computed from all prompts, so that the score of one prompt
            depends on the others.
        mean_of: for a mean: the prompts whose outputs it is the mean of, ``corrupted``, ``clean`` or ``reference``.
        by_position: for a mean: whether every position has its own.
    """

    name: str
    prunes_from_input: bool = False
    from_prompts: bool = False
    mean_of: str = ""
    by_position: bool = False


_RULES = {
    rule.name: rule
    for rule in (
        AblationRule("corrupted", prunes_from_input=True),
        AblationRule("zero"),
        AblationRule("mean", from_prompts=True, mean_of="corrupted"),
        AblationRule("mean-positional", from_prompts=True, mean_of="corrupted", by_position=True),
        AblationRule("mean-clean", from_prompts=True, mean_of="clean"),
        AblationRule(REFERENCE, mean_of="reference"),
        AblationRule("optimal", from_prompts=True),
    )
}
ABLATIONS = tuple(_RULES)


def rule_of(ablation: str) -> AblationRule:
    """The rule of an ablation; an unknown one gets the rule that is always safe: prune from the output side only."""
    return _RULES.get(ablation, AblationRule(ablation))


def prunes_from_input(ablation: str) -> bool:
    """See :attr:`AblationRule.prunes_from_input`."""
    return rule_of(ablation).prunes_from_input
