"""Trains a zoo model from scratch.

The training is plain AdamW on next-token cross-entropy. The learning rate rises, stays constant, and falls to zero over the
last part. On processors with fast bfloat16, the matrix products may run in it; parameters, attention, loss and optimiser
stay in float32. The finished model is measured and shipped in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from circuitfind.transformer import Transformer, TransformerConfig, weight_shapes
from circuitfind.transformer.attention import Nodes
from circuitfind.zoo.checkpoint import Tensors, Training
from circuitfind.zoo.training_batches import STEPS_PER_CHUNK, Text, TrainingBatch

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class TrainingPlan:
    """How a model is trained.

    Attributes:
        steps: number of steps.
        rate: the learning rate while it is constant.
        warm_up: number of steps over which it rises.
        decay: fraction of the steps, at the end, over which it falls to zero.
        weight_decay: weight decay of matrices; biases and norm weights have none.
        bfloat16: whether matrix products run in bfloat16.
    """

    steps: int
    rate: float = 1.5e-3
    warm_up: int = 200
    decay: float = 0.35
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    bfloat16: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of step ``step`` (from 0)."""
        rise = (step + 1) / self.warm_up
        fall = (self.steps - step) / (self.decay * self.steps)
        return self.rate * min(1.0, rise, fall)


class TrainedTransformer(Transformer):
    """A transformer whose tensors require gradients; attention stays in float32 under autocast, where it is faster."""

    def __init__(self, config: TransformerConfig, parameters: Tensors) -> None:
        super().__init__(config, parameters)
        self.weights = parameters

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, nodes: Nodes = None, first: int = 0) -> Tensor:
        """The attention core in float32."""
        with torch.autocast("cpu", enabled=False):
            return super().attend(layer, q.float(), k.float(), v.float(), nodes=nodes, first=first)


def initial_parameters(config: TransformerConfig, seed: int) -> Tensors:
    """Leaf tensors: N(0, 1 / inputs), smaller for output and (un)embedding matrices; biases 0, norm weights 1."""
    generator = torch.Generator().manual_seed(seed)
    spread = {"W_E": 0.1, "W_pos": 0.05, "W_U": 0.02}
    parameters = {}
    for name, shape in weight_shapes(config).items():
        leaf = name.rpartition(".")[2]
        values = torch.randn(shape, generator=generator)
        if leaf.startswith("W_"):
            depth = (2 * config.n_layers) ** -0.5 if leaf in ("W_O", "W_out") else 1.0
            values *= spread.get(leaf, depth * shape[0] ** -0.5)
        else:
            values = torch.full(shape, float(leaf == "w"))
        parameters[name] = values.requires_grad_()
    return parameters


def new_training(config: TransformerConfig, schedule: TrainingPlan, seed: int) -> Training:
    """A training at step 0."""
    parameters = initial_parameters(config, seed)
    matrices = [tensor for tensor in parameters.values() if tensor.ndim > 1]
    vectors = [tensor for tensor in parameters.values() if tensor.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return Training(parameters, torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, fused=True))


def step_loss(model: Transformer, batches: list[TrainingBatch], bfloat16: bool) -> float:
    """Weighted mean cross-entropy of one step's batches; its gradient is added to the parameters' ``grad``."""
    total = float(sum(batch.weight.sum() for batch in batches))
    value = 0.0
    for batch in batches:
        tokens, weight = torch.from_numpy(batch.tokens), torch.from_numpy(batch.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = model.logits(tokens[:, :-1])
        each = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        loss = (each * weight[:, 1:].flatten()).sum() / total
        loss.backward()
        value += loss.item()
    return value


def steps_from(text: Text, seed: int, first: int) -> Iterator[list[TrainingBatch]]:
    """The training text from step ``first`` on."""
    number, skipped = divmod(first, STEPS_PER_CHUNK)
    while True:
        for place, batches in enumerate(text.chunk(seed, number)):
            if place >= skipped:
                yield batches
        number, skipped = number + 1, 0


def train(
    config: TransformerConfig,
    text: Text,
    schedule: TrainingPlan,
    *,
    seed: int = 0,
    state: Path | None = None,
    until: int | None = None,
    every: int = 1000,
    report: Callable[[Transformer, Training, float], None] | None = None,
) -> Training:
    """Train a model, or resume an interrupted training.

    Args:
        state: file that holds the training's state; written every minute and at the end, read if it exists.
        until: stop at this step; the whole schedule if None.
        every: steps between calls of ``report``.
        report: called with the model so far (frozen), the training, and the mean loss since the last call.

    Returns:
        The training where it stopped.
    """
    training = new_training(config, schedule, seed)
    identity = f"{replace(schedule, bfloat16=False)} {asdict(config)} seed {seed}"
    if state is not None:
        training.resume(state, identity)
    model = TrainedTransformer(config, training.parameters)
    text_steps = steps_from(text, seed, training.step)
    last, losses, saved = min(until or schedule.steps, schedule.steps), [], time.monotonic()
    with training_bar() as progress:
        bar = progress.add_task("", total=last, completed=training.step, loss="")
        while training.step < last:
            started = time.monotonic()
            batches = next(text_steps)
            losses.append(optimiser_step(training, schedule, partial(step_loss, model, batches, schedule.bfloat16)))
            training.seconds += time.monotonic() - started
            if state is not None and (training.step == last or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS):
                training.save(state, identity)
                saved = time.monotonic()
            progress.update(bar, completed=training.step, loss=f"loss {losses[-1]:.3f}")
            if report is not None and (training.step % every == 0 or training.step == last):
                mean, losses = sum(losses) / len(losses), []
                report(Transformer(config, training.parameters), training, mean)
    return training


def optimiser_step(training: Training, schedule: TrainingPlan, backward: Callable[[], float]) -> float:
    """Take one optimiser step; ``backward`` sets every parameter's gradient and returns the loss, which is returned."""
    for group in training.optimizer.param_groups:
        group["lr"] = schedule.rate_at(training.step)
    training.optimizer.zero_grad()
    loss = backward()
    torch.nn.utils.clip_grad_norm_(list(training.parameters.values()), 1.0)
    training.optimizer.step()
    training.step += 1
    return loss


def training_bar() -> Progress:
    """A progress bar for a training: step, loss, elapsed and remaining time."""
    columns = (TextColumn("step {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
