"""Every head's effect through one receiver: the heat maps of Wang et al. 2022 (arXiv:2211.00593, section 3).

For each sender, the path ``sender (direct, or through MLPs) -> receiver -> * -> logits`` is patched. All senders enter at the
same place, so they run in one batch. Above the receiver's node, this is a forward pass of the remaining layers on the shared
residual stream. In the last of these layers, queries, the MLP and the output are computed only at the answer position.

The procedure of Wang et al. (appendix B) is ``through="mlps"``: freeze all heads but the sender, recompute MLPs, store the
receiver's value, and put it into a run in which everything is recomputed. Deviation: ``direct`` is the default here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.execution.recompute.agenda import Agenda
from circuitfind.execution.recompute.paths import (
    ANY,
    DIRECT,
    DIRECTIONS,
    MLPS,
    PathBatch,
    Route,
    Stop,
    agenda_of,
    receiver_stop,
)
from circuitfind.execution.recompute.paths.routes import block_number
from circuitfind.graph import ComputationGraph
from circuitfind.patching.path_effect import for_batches, refuse_direction
from circuitfind.scores import Provenance
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.statistics import Values

if TYPE_CHECKING:
    import pandas

THROUGH = {"direct": DIRECT, "mlps": MLPS}


@dataclass(frozen=True, eq=False)
class PathHeatMap:
    """Mean effects of all senders through one receiver.

    Attributes:
        graph: the model's graph.
        receiver, through, direction: what was patched.
        effects: float64 (senders,), NaN where the sender comes after the receiver; > 0 means that the path helps the clean
            behaviour.
        total: mean difference between the clean and the fully ablated run, with the same sign convention.
        provenance: model, prompts, metric and ablation.
        per_example: effects on every prompt, float64 (senders, prompts); None if not requested.
    """

    graph: ComputationGraph
    receiver: str
    through: str
    direction: str
    effects: Values
    total: float
    provenance: Provenance
    per_example: Values | None = None

    @property
    def values(self) -> Values:
        """Effects of heads, (layers, heads); (layers, 1) if the attention of a layer is one node."""
        return self._layers[:, : self.graph.n_heads]

    @property
    def mlps(self) -> Values:
        """Effects of MLPs, (layers,); (0,) if there are none."""
        return self._layers[:, -1] if self.graph.has_mlp else np.empty(0)

    @property
    def input(self) -> float:
        """Effect of the embedding."""
        return float(self.effects[0])

    @property
    def _layers(self) -> Values:
        return self.effects[1:].reshape(self.graph.n_layers, -1)

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """The ``n`` senders with the largest absolute effects, best first; ties in order of the senders."""
        order = np.argsort(-np.abs(self.effects), kind="stable")[: np.count_nonzero(~np.isnan(self.effects))]
        return [(self.graph.sender_names[sender], float(self.effects[sender])) for sender in order[:n].tolist()]

    def to_frame(self) -> pandas.DataFrame:
        """Senders that come before the receiver, in order: ``sender, effect, share`` (of :attr:`total`)."""
        import pandas

        known = np.flatnonzero(~np.isnan(self.effects))
        names, effects = [self.graph.sender_names[sender] for sender in known], self.effects[known]
        share = effects / self.total if self.total else np.full(len(known), np.nan)
        return pandas.DataFrame({"sender": names, "effect": effects, "share": share})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; senders after the receiver are left out."""
        known = np.flatnonzero(~np.isnan(self.effects)).tolist()
        out = {
            "receiver": self.receiver,
            "through": self.through,
            "direction": self.direction,
            "total": self.total,
            "effects": {self.graph.sender_names[sender]: float(self.effects[sender]) for sender in known},
            "provenance": asdict(self.provenance),
        }
        if self.per_example is not None:
            out["per_example"] = {
                self.graph.sender_names[sender]: self.per_example[sender].tolist() for sender in known
            }
        return out

    def render(self, path: str | Path) -> Path:
        """Draw the heat map: a row for each layer, a column for each head and one for the MLPs.

        Raises:
            RenderError: a suffix other than .svg, .png and .pdf.
        """
        from circuitfind.rendering import heat_map

        heads = [str(head) for head in range(self.graph.n_heads)] if not self.graph.whole_attention else ["attention"]
        columns = [*heads, *(["MLP"] if self.graph.has_mlp else [])]
        rows = [str(layer) for layer in range(self.graph.n_layers)]
        p = self.provenance
        between = " or through MLPs between" if self.through == "mlps" else ""
        return heat_map(
            self._layers,
            rows,
            columns,
            path,
            title=f"Effect of each component on the answer through {self.receiver}",
            unit=f"effect: {p.unit}",
            caption=(
                f"Model {p.model}, task {p.task}: {p.n_prompts} {p.split} prompts. Each component reaches {self.receiver} "
                f"directly{between}. The input itself: {self.input:+.3g}."
            ),
            missing=f"comes after {self.receiver}, so it cannot reach it",
        )

    def _repr_html_(self) -> str:
        """The heat map as SVG, for a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            svg = self.render(Path(folder) / "map.svg").read_text(encoding="utf-8")
        return svg[svg.index("<svg") :]

    def __str__(self) -> str:
        return self.text()

    def text(self, n: int = 15) -> str:
        """The path, the settings and the ``n`` largest effects, as text."""
        p = self.provenance
        onward = "" if self.receiver == "logits" else " -> * -> logits"
        lines = [
            f"sender {'-> ' if self.through == 'direct' else '-> mlps -> '}{self.receiver}{onward}",
            f"{self.direction}, {p.ablation} ablation, {p.n_prompts} prompts; effects in {p.unit}, of {self.total:+.4g} in all",
        ]
        return "\n".join([*lines, *(f"  {effect:+9.4f}  {name}" for name, effect in self.top(n))])


@in_setting()
def path_heat_map(
    setting: Setting,
    receiver: str,
    *,
    through: str = "direct",
    direction: str = DIRECTIONS[0],
    per_example: bool = False,
    split: str = "train",
) -> PathHeatMap:
    """The effect of every sender through one receiver: ``sender -> receiver -> * -> logits`` for all senders at once.

    Args:
        receiver: a port (``a8.h6<q>``), a whole head (``a8.h6``), an MLP (``m3``), a group's port, or ``logits``.
        through: ``direct``, or ``mlps``: any chain of MLPs may lie between sender and receiver.
        direction: as in :func:`circuitfind.path_patch`.
        per_example: keep the effects on every prompt.

    Raises:
        OptionError: another ``through`` or direction. UnknownNameError: no such receiver.

    Example:
        >>> import circuitfind as cf
        >>> found = cf.path_heat_map("induction-2l", "induction", "a1.h6<k>", n=8)
        >>> found.top(1)[0][0]
        'a0.h5'
    """
    refuse_direction(direction)
    if through not in THROUGH:
        raise OptionError(f"through={through!r}: use {' or '.join(THROUGH)}")
    setting.require_corrupted()
    graph = setting.transformer.graph
    stop = receiver_stop(graph, receiver)
    options = {"receiver": receiver, "through": through, "direction": direction}
    problem = setting.problem(split, algorithm="path-heat-map", options=options)
    groups = list(_groups(graph, stop, THROUGH[through]))
    effects, totals = np.full((graph.n_senders, len(problem.pairs)), np.nan), np.empty(len(problem.pairs))
    sign = problem.metric.sign

    def measure(part: PathBatch) -> None:
        clean, ablated = part.ends()
        totals[part.batch.rows] = (sign * (clean - ablated)).cpu().double().numpy()
        unpatched, turned = (clean, sign) if direction == DIRECTIONS[0] else (ablated, -sign)
        for agenda, senders in groups:
            values = turned * (unpatched - part.entering(agenda, senders))
            effects[np.asarray(senders)[:, None], part.batch.rows] = values.cpu().double().numpy()

    for_batches(problem, direction, len(groups[0][0].stages), measure)
    effects, totals = (problem.metric.of_pairs(values, problem.pairs.steps) for values in (effects, totals))
    kept = effects if per_example else None
    mean, total = effects.mean(1), float(totals.mean())
    return PathHeatMap(graph, receiver, through, direction, mean, total, problem.provenance, kept)


def _groups(graph: ComputationGraph, stop: Stop, gap: str) -> Iterator[tuple[Agenda, Sequence[int]]]:
    """Groups of senders that reach a receiver in the same way, each with the agenda of that way."""
    top = block_number(graph, stop.nodes[0])
    between = [number for number in range(top) if gap == MLPS and graph.blocks[number].kind == "mlp"]
    logits = Stop("logits", (graph.n_senders,), ("",))
    stops, gaps = (Stop("sender", ()), stop), (gap,)
    route = Route(stops, gaps) if stop.name == "logits" else Route((*stops, logits), (*gaps, ANY))
    first = 0
    for entry_block in (*between, top):
        last = graph.blocks[entry_block].n_senders
        if last > first:
            yield agenda_of(graph, [route], entry_block), range(first, last)
        first = max(first, last)
