"""The effect of a path, or of a set of paths patched together.

Sources: Wang et al. 2022 (arXiv:2211.00593, section 3.1 and appendix B); Goldowsky-Dill et al. 2023 (arXiv:2304.05969: the
treeified graph).

The first node's output is replaced only along the paths. A node on the way is recomputed with new values only for the inputs
that lie on the paths. Everything else keeps its values. The result is exact: a node has one value for each distinct way to
continue from it (:mod:`circuitfind.execution.recompute.paths.automaton`), and values that the definition distinguishes are
never shared.

Deviations: Wang et al. recompute all MLPs between a head and its receiver, which is written ``mlps`` here and is not the
default. Goldowsky-Dill et al. change the model's input at the start of every path; here any node may be the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import Problem
from circuitfind.errors import OptionError
from circuitfind.execution import Batch
from circuitfind.execution.batches import in_pieces
from circuitfind.execution.measuring import find_non_finite
from circuitfind.execution.recompute.paths import DIRECTIONS, PathBatch, agenda_of, path_numbers, read_route
from circuitfind.progress import track
from circuitfind.scores import Provenance
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.statistics import Values, faithfulness, mean_intervals


@dataclass(frozen=True, eq=False)
class PathEffect:
    """The measured effect of a set of paths.

    Attributes:
        paths: the parsed paths, as text.
        direction: ``noising``: the first nodes write their ablated output along the paths, in the clean run. ``denoising``:
            they write their clean output along the paths, in the run where every sender writes its ablated output (the
            corrupted run).
        clean, ablated, patched: the metric on every prompt, float64 (prompts,): in the clean run, with every sender ablated,
            and with the paths patched.
        larger_is_better: whether more of the metric is better.
        provenance: model, prompts, metric and ablation.
    """

    paths: tuple[str, ...]
    direction: str
    clean: Values
    ablated: Values
    patched: Values
    larger_is_better: bool
    provenance: Provenance

    @property
    def unpatched(self) -> Values:
        """The metric on every prompt without the patch, (prompts,)."""
        return self.clean if self.direction == DIRECTIONS[0] else self.ablated

    @property
    def effect(self) -> Values:
        """The effect on every prompt, in the metric's unit, (prompts,).

        It is signed so that > 0 means that the paths help the clean behaviour: what noising them takes away from it, or what
        denoising them adds to it.
        """
        turned = self.patched - self.unpatched if self.larger_is_better else self.unpatched - self.patched
        return -turned if self.direction == DIRECTIONS[0] else turned

    @property
    def mean(self) -> float:
        """Mean effect."""
        return float(self.effect.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean effect over prompts (percentile method)."""
        low, high = mean_intervals(self.effect, self.provenance.seed).tolist()
        return low, high

    @property
    def share(self) -> float:
        """Mean effect as a share of the mean difference between clean and fully ablated run; NaN if that is 0."""
        turned = (self.clean - self.ablated) * (1 if self.larger_is_better else -1)
        return float(faithfulness(self.effect, np.zeros_like(turned), turned))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; an undefined share is null."""
        rows = {name: getattr(self, name).tolist() for name in ("clean", "ablated", "patched", "effect")}
        return {
            "paths": list(self.paths),
            "direction": self.direction,
            "n_prompts": len(self.patched),
            "metric": {"name": self.provenance.metric, "unit": self.provenance.unit}
            | {name: float(getattr(self, name).mean()) for name in ("clean", "ablated", "unpatched", "patched")},
            "effect": self.mean,
            "effect_95_interval": list(self.interval),
            "share": None if np.isnan(self.share) else self.share,
            "provenance": asdict(self.provenance),
            "per_example": rows,
        }

    def __str__(self) -> str:
        p, (low, high) = self.provenance, self.interval
        changed = f"{self.unpatched.mean():.4g} -> {self.patched.mean():.4g}"
        share = "" if np.isnan(self.share) else f", {self.share:.1%} of the difference between clean and ablated"
        lines = [
            *self.paths,
            f"{self.direction}, {p.ablation} ablation: {p.unit} {changed} on {len(self.patched)} {p.split or 'given'} prompts",
            f"effect {self.mean:+.4g} (95 % interval {low:+.4g} to {high:+.4g}){share}; positive helps the clean behaviour",
        ]
        return "\n".join(lines)


@in_setting()
def path_patch(
    setting: Setting, path: str | Sequence[str], *, direction: str = DIRECTIONS[0], split: str = "train"
) -> PathEffect:
    """The effect of patching a path, or several paths together.

    Args:
        path: such as ``a0.h1 -> a5.h5<k> -> a8.h6<q> -> logits``, or a list of paths; see
            :mod:`circuitfind.execution.recompute.paths.routes` for ports and the wildcards ``*`` and ``mlps``.
        direction: ``noising`` or ``denoising``; see :class:`PathEffect`. The setting's ablation gives the values that replace
            the first node's output (or, when denoising, the values that everything else writes).

    Raises:
        OptionError: no path, a path that does not end in ``logits``, or an unknown direction.
        UnknownNameError: a node or port that does not exist.
        CircuitError: an arrow that leads backwards.

    Example:
        >>> import circuitfind as cf
        >>> found = cf.path_patch("induction-2l", "induction", "a0.h5 -> a1.h6<k> -> logits", n=8)
        >>> bool((found.effect > 0).all())
        True
    """
    texts = [path] if isinstance(path, str) else list(path)
    refuse_direction(direction)
    if not texts:
        raise OptionError("give at least one path, such as 'a0.h1 -> a5.h5<k> -> logits'")
    setting.require_corrupted()
    graph = setting.transformer.graph
    routes = [read_route(graph, text) for text in texts]
    agenda, paths = agenda_of(graph, routes), tuple(map(str, routes))
    options = {"paths": list(paths), "direction": direction}
    problem = setting.problem(split, given="", algorithm="path-patch", options=options)
    values = np.empty((3, len(problem.pairs)))

    def measure(part: PathBatch) -> None:
        rows = torch.stack([*part.ends(), part.along(agenda)])
        values[:, part.batch.rows] = rows.cpu().double().numpy()

    for_batches(problem, direction, len(agenda.stages), measure)
    clean, ablated, patched = problem.metric.of_pairs(values, problem.pairs.steps)
    larger = problem.metric.larger_is_better
    return PathEffect(paths, direction, clean, ablated, patched, larger, problem.provenance)


def refuse_direction(direction: str) -> None:
    """Refuse an unknown direction."""
    if direction not in DIRECTIONS:
        raise OptionError(f"direction={direction!r}: use {' or '.join(DIRECTIONS)}")


def for_batches(problem: Problem, direction: str, n_stages: int, measure: Any) -> None:
    """Call ``measure`` with the two runs of every micro-batch, or of its halves if memory is short.

    Raises:
        NumericalError: NaN or infinity in the model; the message names the layer.
    """
    model = problem.model

    def of(batch: Batch) -> None:
        run = PathBatch(model, problem.complete(batch), ablation, problem.metric, direction)
        if not all(bool(torch.isfinite(end).all()) for end in run.ends()):
            find_non_finite(model, batch)
        measure(run)

    with torch.inference_mode():
        batches = problem.batches(path_numbers(model) + n_stages * model.config.d_model)
        ablation = problem.prepared_ablation(batches)
        for batch in track(batches, "patching paths"):
            in_pieces(batch, of)
