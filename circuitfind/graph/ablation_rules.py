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
        carries: what a cut edge carries: the sender's ``"run"`` on the corrupted prompt, ``"zero"``, the ``"mean"`` of its
            outputs, or the ``"optimal"`` constant. Every engine branches on this and refuses what it does not know.
        by_position: whether there is a mean for every position.
        mean_of: the prompts of a mean: ``"corrupted"`` (the clean ones where there are none), ``"clean"`` or ``"reference"``.
    """

    name: str
    carries: str
    by_position: bool = False
    prunes_from_input: bool = False
    mean_of: str = "corrupted"

    @property
    def from_prompts(self) -> bool:
        """Whether the constant is computed from all prompts, so that the score of one prompt depends on the others."""
        return self.carries == "optimal" or (self.carries == "mean" and self.mean_of != "reference")


_RULES = {
    rule.name: rule
    for rule in (
        AblationRule("corrupted", "run", prunes_from_input=True),
        AblationRule("zero", "zero"),
        AblationRule("mean", "mean"),
        AblationRule("mean-positional", "mean", by_position=True),
        AblationRule("mean-clean", "mean", mean_of="clean"),
        AblationRule(REFERENCE, "mean", mean_of="reference"),
        AblationRule("optimal", "optimal"),
    )
}
ABLATIONS = tuple(_RULES)


def rule_of(ablation: str) -> AblationRule:
    """The rule of an ablation; an unknown one gets the rule that is always safe: prune from the output side only."""
    return _RULES.get(ablation, AblationRule(ablation, "unknown"))


def prunes_from_input(ablation: str) -> bool:
    """See :attr:`AblationRule.prunes_from_input`."""
    return rule_of(ablation).prunes_from_input
