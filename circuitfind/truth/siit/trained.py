"""The models that are trained: eight shipped ones, and a larger version of each that is not shipped."""

from __future__ import annotations

from dataclasses import dataclass, replace

from circuitfind.errors import UnknownNameError
from circuitfind.transformer import TransformerConfig
from circuitfind.truth.siit.programs import PROGRAMS, Program
from circuitfind.truth.siit.training import Siit
from circuitfind.zoo.train import TrainingPlan

STEPS = {"siit-ioi": 3000}
"""Training steps of models for which the number is not 4000."""
NARROW = ("siit-hist", "siit-xproportion")


@dataclass(frozen=True)
class SiitRecipe:
    """How to train one model from scratch.

    Attributes:
        name: name of the model.
        program: what it should compute, and where.
        config: its shape.
        siit: its training.
    """

    name: str
    program: Program
    config: TransformerConfig
    siit: Siit

    def with_steps(self, steps: int | None) -> SiitRecipe:
        """The recipe with a different number of steps, if one is given."""
        if steps is None:
            return self
        return replace(self, siit=replace(self.siit, schedule=replace(self.siit.schedule, steps=steps)))


def _shape(program: Program, d_model: int, n_heads: int, more_layers: int) -> TransformerConfig:
    n_positions = program.pairs(1).clean.shape[1]
    layers, words = program.n_layers + more_layers, len(program.tokenizer)
    return TransformerConfig(layers, n_heads, d_model, 16, 4 * d_model, words, n_positions, activation="gelu")


def _shipped(program: Program) -> SiitRecipe:
    schedule = TrainingPlan(steps=STEPS.get(program.name, 4000), rate=2e-3, weight_decay=0.01)
    return SiitRecipe(
        program.name, program, _shape(program, 32 if program.name in NARROW else 64, 4, 0), Siit(schedule)
    )


def _large(program: Program) -> SiitRecipe:
    """The same circuit among more idle heads and layers."""
    schedule = TrainingPlan(steps=2 * STEPS.get(program.name, 4000), rate=1e-3, weight_decay=0.01)
    return SiitRecipe(f"{program.name}-large", program, _shape(program, 128, 8, 1), Siit(schedule))


def recipe_names() -> tuple[str, ...]:
    """The models' names, shipped ones first."""
    return (*PROGRAMS, *(f"{name}-large" for name in PROGRAMS))


def recipe_of(name: str) -> SiitRecipe:
    """The recipe called ``name``.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if name not in recipe_names():
        raise UnknownNameError("trained ground-truth model", name, recipe_names())
    return _shipped(PROGRAMS[name]) if name in PROGRAMS else _large(PROGRAMS[name.removesuffix("-large")])
