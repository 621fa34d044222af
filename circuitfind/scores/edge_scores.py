"""Edge scores: what an algorithm returns. One float per edge, with sign, unit and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import CircuitError, NumericalError, OptionError
from circuitfind.graph import ComputationGraph, Floats, Mask, prunes_from_input
from circuitfind.progress import with_usual_mode
from circuitfind.scores import order
from circuitfind.scores.decisions import DecisionLog, as_tensors, from_tensors
from circuitfind.task import Spans
from circuitfind.task.spans import PARTS_AXES

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SCHEMA = "circuitfind-scores/1"
SIGN = "score > 0: the edge helps the clean behaviour; it estimates metric(clean) - metric(that edge cut)"
NO_SIGN = "score >= 0: the larger, the more important; whether the edge helps or hurts is not known"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        model, model_source: name of the model, and where its weights came from.
        task, task_options, split, n_prompts, pairs_hash: the prompt pairs (SHA-256 of their text).
        metric, unit: what was measured at the answer position, and its unit.
        metric_source: ``file``, ``name`` and ``sha256`` of a user's own metric; empty for a registered one.
        ablation: what a cut edge carries instead.
        algorithm, options, seed: how the scores were found.
        signed: whether a score's sign says that its edge helps or hurts; False if scores are absolute values only.
        reference_hash: SHA-256 of the reference prompts, under ``mean-reference`` ablation.
        bos: whether every clean prompt began with the BOS token; None where the tokenizer has none, or it is not known.
    """

    model: str = ""
    model_source: str = ""
    task: str = ""
    split: str = ""
    n_prompts: int = 0
    pairs_hash: str = ""
    task_options: Mapping[str, str] = field(default_factory=dict)
    metric: str = ""
    unit: str = ""
    ablation: str = ""
    algorithm: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    signed: bool = True
    metric_source: Mapping[str, str] = field(default_factory=dict)
    reference_hash: str = ""
    bos: bool | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """From JSON; unknown keys are ignored."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A score for every edge of a graph.

    Attributes:
        graph: the graph.
        values: float64 (edges,), in the graph's edge order; positive helps the clean behaviour (see :data:`SIGN`).
        provenance: where they came from.
        parts: the summands of ``values`` times the number of prompts, if requested: float32 (prompts, edges),
            (positions, edges) or (spans, edges). A prompt's row is that prompt's own score.
        parts_axis: ``"prompt"``, ``"position"``, ``"span"``, ``"length"`` or ``""``.
        decisions: the logs of an algorithm that decides edge by edge, one for each threshold.
        spans: what the rows of ``parts`` are, if they are parts of prompts.
        nodes: float64 (senders,), the score of every sender, from an algorithm that scores nodes; see :func:`between`.
        chosen: boolean (edges,), the circuit that the algorithm itself found, if it does more than rank.
        remarks: sentences that the algorithm has to say about its result, such as that its budget ended.

    Raises:
        CircuitError: the shape is wrong.
        NumericalError: a score is NaN or infinite.
    """

    graph: ComputationGraph
    values: Floats
    provenance: Provenance = field(default_factory=Provenance)
    parts: np.ndarray[Any, np.dtype[np.float32]] | None = None
    parts_axis: str = ""
    decisions: tuple[DecisionLog, ...] = ()
    spans: Spans | None = None
    nodes: Floats | None = None
    chosen: Mask | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.shape != (self.graph.n_edges,):
            raise CircuitError(f"scores have shape {self.values.shape}; the graph has {self.graph.n_edges} edges")
        finite = np.isfinite(self.values)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            raise NumericalError(
                f"{len(bad)} edge scores are NaN or infinite, first {self.graph.edge_name(int(bad[0]))}; "
                "check the model with 'circuitfind check-model' and the prompts with 'circuitfind check-pairs'"
            )

    @property
    def decided(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """The edges the algorithm itself kept, boolean (edges,); None if it only ranks or swept several thresholds."""
        if self.chosen is not None:
            return self.chosen
        return self.decisions[0].kept if len(self.decisions) == 1 else None

    @property
    def by_part(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """``parts``, if its rows are parts of prompts: (parts of a prompt, edges).

        Raises:
            OptionError: the scores were not kept apart by parts of prompts.
        """
        if self.parts is None or self.parts_axis not in PARTS_AXES:
            raise OptionError(
                "these scores are not kept apart by parts of prompts; discover with parts='span', 'position' or 'length'"
            )
        return self.parts

    def ranking(self, absolute: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Edge numbers from most to least important, by score or absolute score; see :mod:`.order` for ties."""
        return order.ranking(self.values, absolute, self.graph, prunes_from_input(self.provenance.ablation))

    def above(self, threshold: float, *, absolute: bool, strictly: bool = False) -> Mask:
        """The edges whose score (or absolute score) is at least, or strictly above, ``threshold``: boolean (edges,)."""
        return order.above(self.values, threshold, absolute=absolute, strictly=strictly)

    def best(self, n: int, *, absolute: bool) -> Mask:
        """The ``n`` most important edges as boolean (edges,): the first of :meth:`ranking`, unsorted."""
        return order.best(self.values, n, absolute, self.graph, prunes_from_input(self.provenance.ablation))

    def __repr__(self) -> str:
        """Sizes, where they are from, and the strongest edge."""
        p, best = self.provenance, int(np.argmax(np.abs(self.values))) if len(self.values) else 0
        strongest = f"; strongest {self.graph.edge_name(best)} {self.values[best]:+.3g}" if len(self.values) else ""
        parts = f", by {self.parts_axis}" if self.parts is not None else ""
        return f"EdgeScores({len(self.values):,} edges{parts}; {p.algorithm} on {p.task}, {p.model}{strongest})"

    def _repr_html_(self) -> str:
        """The strongest edges as a table that can be sorted, and a plot of all sizes, for a notebook."""
        show = import_module("circuitfind.rendering.notebook")  # drawing is a room of a higher rank
        rows, plot = self.to_frame(show.ROWS).to_dict("records"), show.sizes_html(self.values, self.provenance.unit)
        html: str = show.table_html(rows, repr(self), plot, total=len(self.values))
        return html

    def plot(self) -> Figure:
        """The sizes of all scores, from the largest to the smallest, as a figure of matplotlib."""
        figure: Figure = import_module("circuitfind.rendering.plots").plot_sizes(self.values, self.provenance.unit)
        return figure

    def to_frame(self, n: int = 1000, *, absolute: bool = True) -> pandas.DataFrame:
        """The ``n`` most important edges as a table, best first, equal ones by number.

        Its columns are ``name``, ``source``, ``target``, ``port`` and ``score``.
        """
        import pandas

        edges = np.flatnonzero(order.best_by_number(self.values, n, absolute))
        values = self.values[edges]
        ranked = order.by_number(values, absolute)
        return pandas.DataFrame({**self.graph.edge_columns(edges[ranked]), "score": values[ranked]})

    # ---------------------------------------------------------------- files

    def save(self, path: Path) -> None:
        """Write a safetensors file: arrays as tensors, everything else in its metadata."""
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray[Any, Any]] = {"scores": self.values}
        if self.parts is not None:
            tensors["parts"] = self.parts
        if self.spans is not None:
            tensors["spans"] = self.spans.of
        if self.nodes is not None:
            tensors["nodes"] = self.nodes
        if self.chosen is not None:
            tensors["chosen"] = self.chosen
        tensors |= as_tensors(self.decisions)
        # One entry: safetensors writes several in arbitrary order, but equal scores should give equal bytes.
        about = {**self.about(SCHEMA), "parts_axis": self.parts_axis}
        if self.remarks:
            about["remarks"] = list(self.remarks)
        if self.spans is not None:
            about["spans"] = list(self.spans.labels)
        save_file(tensors, str(path), {"circuitfind": json.dumps(about)})
        with_usual_mode(path)

    def about(self, schema: str) -> dict[str, Any]:
        """What a file says about the scores in it."""
        return {"schema": schema, "graph": self.graph.shape, "provenance": asdict(self.provenance), "sign": self.sign}

    @property
    def sign(self) -> str:
        """What a score's sign means, as a sentence."""
        return SIGN if self.provenance.signed else NO_SIGN

    @classmethod
    def load(cls, path: Path) -> EdgeScores:
        """Read what :meth:`save` wrote.

        Raises:
            CircuitError: the file is not a score file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "np") as file:
                about = json.loads((file.metadata() or {}).get("circuitfind", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise CircuitError(f"{path} is not a readable score file: {error}") from None
        if about.get("schema") != SCHEMA:
            raise CircuitError(f"{path} is not a circuitfind score file (schema {about.get('schema')!r})")
        graph = ComputationGraph(**about["graph"])
        return cls(
            graph,
            tensors["scores"],
            Provenance.from_dict(about["provenance"]),
            tensors.get("parts"),
            about["parts_axis"],
            from_tensors(graph, tensors),
            Spans(tuple(about["spans"]), tensors["spans"]) if "spans" in tensors else None,
            tensors.get("nodes"),
            tensors.get("chosen"),
            tuple(about.get("remarks", ())),
        )


def between(graph: ComputationGraph, nodes: Floats) -> Floats:
    """Edge scores from sender scores: the score of the end with the smaller absolute score; float64 (edges,).

    So the edges above a threshold are exactly those between the nodes above it. This is the circuit that a method for nodes
    stands for (Conmy et al. 2023, section 4). ``logits`` is not a sender and always in the circuit, so it does not count as an
    end. Nor does ``input``, except that its edge into the logits has the score of ``input``. An edge into a port that several
    heads share uses the head with the largest absolute score.

    Args:
        nodes: a score for every sender.
    """
    values = np.empty(graph.n_edges)
    for block in graph.blocks:
        rows = block.matrix(values)
        rows[:] = nodes[: block.n_senders]
        for row, receiver in enumerate(range(block.receivers.start, block.receivers.stop)):
            ends = nodes[graph.receiver_node[receiver] : graph.receiver_stop[receiver]]
            if block.kind != "logits":
                end = ends[np.abs(ends).argmax()]
                rows[row, 1:][np.abs(rows[row, 1:]) > abs(end)] = end
                rows[row, 0] = end
    return values
