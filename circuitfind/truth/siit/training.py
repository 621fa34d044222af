"""Strict interchange intervention training on single edges.

Interchange intervention training (Geiger et al. 2022, "Inducing Causal Structure for Interpretable Neural Networks") makes a
model match a program when values from a source prompt are patched into the run on a base prompt. Its strict form (Gupta et al.
2024, "InterpBench", section 3) also patches nodes that are not part of the program, where this must change nothing. Here both
are done to single edges, with q, k and v separate, so that the model's edges are known, not just its nodes.

A step has groups of pairs, each group with its own mask (:meth:`.steps.KnownEdges.draw_mask`). The loss is the cross-entropy of
the logits at the last token with the program's answer under the same mask, plus, on the source prompts, with its answer when
nothing is cut. A model that may use all edges at first does so, and gives them up reluctantly. Therefore

* the first part of the training keeps only the circuit's edges. The others carry the mean of the source runs (at each
  position, so that positions are known), plus a growing share of the difference from that mean;
* for a time, linear probes read from every program node's write the value that it should compute. The probes are discarded
  afterwards.

Deviations from InterpBench: edges instead of nodes; one loss and one optimiser step instead of three in turn; many edges cut at
once; the two aids above; and smoothed labels. With smoothed labels, every logit has a single right value. So an edge outside
the circuit cannot change the right answer's lead either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.truth.siit.high_level import NONE
from circuitfind.truth.siit.masked import masked_run, softened, source_run
from circuitfind.truth.siit.programs import Program
from circuitfind.truth.siit.steps import KnownEdges, Step, draw_step
from circuitfind.zoo.checkpoint import Tensors, Training
from circuitfind.zoo.train import (
    SECONDS_BETWEEN_CHECKPOINTS,
    TrainedTransformer,
    TrainingPlan,
    new_training,
    optimiser_step,
    training_bar,
)

N_PAIRS = 20_000
PROBE = "probe."
MOST_VALUES = 32
"""How many distinct values a program node may have, if there are fewer words."""


@dataclass(frozen=True)
class Siit:
    """How a model is trained.

    Attributes:
        schedule: steps and rates.
        groups: number of masks per step.
        pairs_per_group: number of pairs per mask.
        smoothing: share of the label that is spread over all words.
        circuit_only: fraction of the steps, at the start, in which only the circuit is kept.
        guided: fraction of the steps over which the weight of the probes falls from 1 to 0.
    """

    schedule: TrainingPlan
    groups: int = 8
    pairs_per_group: int = 16
    smoothing: float = 0.02
    circuit_only: float = 0.3
    guided: float = 0.6

    def difference_at(self, step: int) -> float:
        """Share of the source prompts' differences that outside edges carry: 0 at first, 1 after the first part."""
        return min(1.0, max(0.0, 2 * step / (self.circuit_only * self.schedule.steps) - 1))

    def guidance_at(self, step: int) -> float:
        """The weight of the probes."""
        return max(0.0, 1 - step / (self.guided * self.schedule.steps))


def new_siit(program: Program, config: TransformerConfig, schedule: TrainingPlan, seed: int) -> Training:
    """A training at step 0: the model's parameters, and a probe (d_model, values) per program node.

    Word and position embeddings start larger than in the zoo's other models, because they are all that a node knows at first.
    """
    training, generator = new_training(config, schedule, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        training.parameters["W_E"].mul_(5)
        training.parameters["W_pos"].mul_(10)
    shape = (config.d_model, max(config.d_vocab, MOST_VALUES))
    probes = {
        PROBE + node.place: (torch.randn(shape, generator=generator) * config.d_model**-0.5).requires_grad_()
        for node in program.high_level.nodes[:-1]
    }
    training.optimizer.add_param_group({"params": list(probes.values()), "weight_decay": 0.0})
    training.parameters |= probes
    return training


def model_weights(training: Training) -> Tensors:
    """The parameters without the probes."""
    return {name: tensor for name, tensor in training.parameters.items() if not name.startswith(PROBE)}


def answers_loss(logits: Tensor, answers: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits (prompts, d_vocab) with the program's answers, where there is one."""
    return F.cross_entropy(logits, answers, ignore_index=NONE, label_smoothing=smoothing)


def probes_loss(model: Transformer, training: Training, written: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of what the probes read.

    Args:
        written: what every sender wrote, (senders, prompts, positions, d_model).
        values: the values of the program's nodes, by place, (prompts, positions) each.
    """
    losses = []
    for place, wanted in values.items():
        node = written[model.graph.sender_names.index(place)]
        read = F.layer_norm(node, node.shape[-1:]) @ training.parameters[PROBE + place]
        losses.append(F.cross_entropy(read.flatten(0, 1), wanted.flatten(), ignore_index=NONE))
    return torch.stack(losses).mean()


def step_loss(model: Transformer, training: Training, step: Step, recipe: Siit) -> Tensor:
    """The loss of one step; ``training`` has the step number and the probes."""
    difference, guidance = recipe.difference_at(training.step), recipe.guidance_at(training.step)
    source = source_run(model, step.source)
    logits, written = masked_run(model, step.base, softened(source, difference), step.masks)
    loss = answers_loss(logits, step.answers, recipe.smoothing)
    if difference == 1:
        plain = model.unembed(source.streams[-1][:, -1])
        loss = loss + answers_loss(plain, step.source_answers, recipe.smoothing)
    if guidance > 0:
        loss = loss + guidance * probes_loss(model, training, written, step.values)
    return loss


def one_step(model: Transformer, training: Training, step: Step, recipe: Siit) -> float:
    """Take one optimiser step; return the loss before it."""

    def backward() -> float:
        loss = step_loss(model, training, step, recipe)
        loss.backward()
        return loss.item()

    return optimiser_step(training, recipe.schedule, backward)


def train(
    program: Program,
    config: TransformerConfig,
    recipe: Siit,
    *,
    seed: int = 0,
    state: Path | None = None,
    until: int | None = None,
    every: int = 500,
    report: Callable[[Transformer, Training, float], None] | None = None,
) -> Training:
    """Train a model, or resume an interrupted training.

    Args:
        state: file that holds the training's state; written every minute and at the end, read if it exists.
        until: stop at this step; the whole schedule if None.
        every: steps between calls of ``report``.
        report: called with the model so far (frozen), the training, and the mean loss since the last call.

    Returns:
        The training where it stopped; its seconds are processor time.

    Raises:
        ModelError: the state belongs to a different training.
    """
    training = new_siit(program, config, recipe.schedule, seed)
    identity = f"{program.name} {asdict(recipe)} {asdict(config)} seed {seed}"
    if state is not None:
        training.resume(state, identity)
    known, pairs = KnownEdges.of(program, config.graph()), program.training_pairs(N_PAIRS, seed)
    model = TrainedTransformer(config, model_weights(training))
    last, losses, saved = min(until or recipe.schedule.steps, recipe.schedule.steps), list[float](), time.monotonic()
    with training_bar() as progress:
        bar = progress.add_task("", total=last, completed=training.step, loss="")
        while training.step < last:
            started, rng = time.process_time(), np.random.default_rng((seed, training.step))
            early = recipe.difference_at(training.step) < 1
            step = draw_step(known, pairs, recipe.groups, recipe.pairs_per_group, rng, early)
            losses.append(one_step(model, training, step, recipe))
            training.seconds += time.process_time() - started
            if state is not None and (training.step == last or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS):
                training.save(state, identity)
                saved = time.monotonic()
            progress.update(bar, completed=training.step, loss=f"loss {losses[-1]:.3f}")
            if report is not None and (training.step % every == 0 or training.step == last):
                report(Transformer(config, model_weights(training)), training, sum(losses) / len(losses))
                losses = []
    return training
