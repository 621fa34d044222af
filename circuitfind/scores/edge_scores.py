"""Edge scores: what an algorithm returns. One float per edge, with sign, unit and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import CircuitError, NumericalError, OptionError, UnknownNameError
from circuitfind.graph import PORTS, ComputationGraph, Floats, Mask
from circuitfind.scores import order
from circuitfind.scores.decisions import DecisionLog, as_tensors, from_tensors
from circuitfind.task import Spans
from circuitfind.task.spans import KINDS

if TYPE_CHECKING:
    import pandas

SCHEMA = "circuitfind-scores/1"
PARQUET_SCHEMA = "circuitfind-scores-parquet/1"
ROWS_AT_ONCE = 1 << 20
"""Rows of a group in a Parquet file: what is in memory beside the scores while one is written or read."""
SIGN = "score > 0: the edge helps the clean behaviour; it estimates metric(clean) - metric(that edge cut)"
NO_SIGN = "score >= 0: the larger, the more important; whether the edge helps or hurts is not known"


@dataclass(frozen=True)
class Provenance:
    """What a result was obtained from.

    Attributes:
        model, model_source: name of the model, and where its weights came from.
        task, task_options, split, n_prompts, pairs_hash: the prompt pairs (SHA-256 of their text).
        metric, unit: what was measured at the answer position, and its unit.
        metric_source: of a user's own metric, its ``file``, ``name`` and ``sha256``; empty of one that is registered.
        ablation: what a cut edge carries instead.
        algorithm, options, seed: how the scores were found.
        signed: whether a score's sign says that its edge helps or hurts; False where scores are sizes only.
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
        parts: the summands of ``values`` times the number of prompts: float32 (prompts, edges), (positions, edges) or
            (spans, edges), where asked for. A prompt's row is that prompt's own score.
        parts_axis: ``"prompt"``, ``"position"``, ``"span"`` or ``""``.
        decisions: the logs of an algorithm that decides edge by edge, one for each threshold.
        spans: what the rows of ``parts`` are, where they are parts of prompts.
        nodes: float64 (senders,), the score of every sender, from an algorithm that scores nodes; see :func:`between`.
        chosen: boolean (edges,), the circuit that an algorithm found itself, where it does more than rank.

    Raises:
        CircuitError: wrong shape.
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
        """The edges the algorithm itself kept, boolean (edges,); None where it only ranks or swept several thresholds."""
        if self.chosen is not None:
            return self.chosen
        return self.decisions[0].kept if len(self.decisions) == 1 else None

    @property
    def by_part(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """``parts``, where they are parts of prompts: (parts of a prompt, edges).

        Raises:
            OptionError: the scores were not kept apart so.
        """
        if self.parts is None or self.parts_axis not in KINDS:
            raise OptionError(
                "these scores are not kept apart by parts of prompts; discover with parts='span' or 'position'"
            )
        return self.parts

    def ranking(self, absolute: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Edge numbers from most to least important, by score or by its size; ties by edge number."""
        return order.ranking(self.values, absolute)

    def above(self, threshold: float, *, absolute: bool, strictly: bool = False) -> Mask:
        """The edges whose score (or its size) is at least, or strictly above, ``threshold``: boolean (edges,)."""
        return order.above(self.values, threshold, absolute=absolute, strictly=strictly)

    def best(self, n: int, *, absolute: bool) -> Mask:
        """The ``n`` most important edges, ties by edge number, as boolean (edges,): the first of :meth:`ranking`, unsorted."""
        return order.best(self.values, n, absolute=absolute)

    def to_frame(self, n: int = 1000, *, absolute: bool = True) -> pandas.DataFrame:
        """The ``n`` most important edges as a table, best first: ``name, source, target, port, score``."""
        import pandas

        edges = np.flatnonzero(self.best(n, absolute=absolute))
        values = self.values[edges]
        order = np.argsort(-(np.abs(values) if absolute else values), kind="stable")
        return pandas.DataFrame({**self.graph.edge_columns(edges[order]), "score": values[order]})

    # ---------------------------------------------------------------- files

    def save(self, path: Path) -> None:
        """Write a safetensors file: the values, and everything else in its metadata."""
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
        # One entry: safetensors writes several in any order, and the same scores should be the same bytes.
        about = {**self._about(SCHEMA), "parts_axis": self.parts_axis}
        if self.spans is not None:
            about["spans"] = list(self.spans.labels)
        save_file(tensors, str(path), {"circuitfind": json.dumps(about)})

    def _about(self, schema: str) -> dict[str, Any]:
        return {"schema": schema, "graph": self.graph.shape, "provenance": asdict(self.provenance), "sign": self.sign}

    @property
    def sign(self) -> str:
        """What a score's sign means, in a sentence."""
        return SIGN if self.provenance.signed else NO_SIGN

    @classmethod
    def load(cls, path: Path) -> EdgeScores:
        """Read what :meth:`save` wrote.

        Raises:
            CircuitError: not such a file.
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
        )

    def to_parquet(self, path: Path) -> None:
        """Write a Parquet table of all edges in order: ``sender, receiver, port, score``.

        The receiver's name includes its port, as in an edge's name ``sender->receiver``; the port is ``q``, ``k``, ``v`` or
        null. Names are dictionary-encoded, a row group has :data:`ROWS_AT_ONCE` edges, and the file's metadata holds the
        graph and the provenance. ``parts`` and ``decisions`` are not written: :meth:`save` keeps those.
        """
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        metadata = {"circuitfind": json.dumps(self._about(PARQUET_SCHEMA))}
        names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        columns = {"sender": names, "receiver": names, "port": names, "score": pyarrow.float64()}
        schema = pyarrow.schema(list(columns.items()), metadata)
        with ParquetWriter(path, schema, use_dictionary=list(columns)[:3], compression="zstd") as file:
            for start in range(0, self.graph.n_edges, ROWS_AT_ONCE):
                batch = self._batch(slice(start, min(start + ROWS_AT_ONCE, self.graph.n_edges)))
                file.write_batch(pyarrow.record_batch(batch, schema=schema))

    def _batch(self, edges: slice) -> list[Any]:
        """The columns of some edges in a row, as Arrow arrays."""
        import pyarrow

        senders, receivers = self.graph.ends(np.arange(edges.start, edges.stop))
        is_head = np.array([port != "" for port in self.graph.receiver_ports])
        ports = np.array([PORTS.index(port) if port else 0 for port in self.graph.receiver_ports])
        coded = pyarrow.DictionaryArray.from_arrays
        return [
            coded(pyarrow.array(senders, pyarrow.int32()), list(self.graph.sender_names)),
            coded(pyarrow.array(receivers, pyarrow.int32()), list(self.graph.receiver_names)),
            coded(pyarrow.array(ports[receivers], pyarrow.int32(), mask=~is_head[receivers]), list(PORTS)),
            pyarrow.array(self.values[edges]),
        ]

    @classmethod
    def from_parquet(cls, path: Path) -> EdgeScores:
        """Read what :meth:`to_parquet` wrote, its rows in any order.

        Raises:
            CircuitError: not such a file, or its rows are not the edges of its graph, each once.
        """
        import pyarrow
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path) as file:
                about = json.loads((file.schema_arrow.metadata or {}).get(b"circuitfind", b"{}"))
                if about.get("schema") != PARQUET_SCHEMA:
                    raise CircuitError(
                        f"{path} is not a circuitfind Parquet file (schema {about.get('schema')!r}); write one with "
                        "EdgeScores.to_parquet"
                    )
                graph = ComputationGraph(**about["graph"])
                if file.metadata.num_rows != graph.n_edges:
                    raise CircuitError(f"{path} has {file.metadata.num_rows} rows; its graph has {graph.n_edges} edges")
                values = np.full(graph.n_edges, np.nan)
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=["sender", "receiver", "score"]):
                    values[_edges_of(batch, graph, path)] = batch["score"].to_numpy(zero_copy_only=False)
        except (OSError, pyarrow.ArrowException) as error:
            raise CircuitError(f"{path} is not a readable Parquet file: {error}") from None
        if np.isnan(values).any():
            raise CircuitError(f"{path} lacks a score for {graph.edge_name(int(np.isnan(values).argmax()))}")
        return cls(graph, values, Provenance.from_dict(about["provenance"]))


def between(graph: ComputationGraph, nodes: Floats) -> Floats:
    """Scores of edges from scores of senders: that of whichever end matters less, by size; float64 (edges,).

    So the edges of at least a score are all those between the nodes of at least that score, the circuit that a method for nodes
    stands for (Conmy et al. 2023, section 4). ``logits``, which is no sender and always in, does not count as an end; nor does
    ``input``, except that its edge into the logits has the score of ``input``. An edge into a port that several heads share has
    the score of the head that matters most.

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


def _edges_of(batch: Any, graph: ComputationGraph, path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of the edges in the rows of an Arrow record batch."""
    senders = _numbers(batch["sender"], graph.sender_names, f"{path}: column sender")
    receivers = _numbers(batch["receiver"], graph.receiver_names, f"{path}: column receiver")
    edges = graph.first_edge[receivers] + senders
    wrong = np.flatnonzero(edges >= graph.first_edge[receivers + 1])
    if len(wrong):
        sender, receiver = graph.sender_names[senders[wrong[0]]], graph.receiver_names[receivers[wrong[0]]]
        raise CircuitError(f"{path}: {sender} comes after {receiver}, so it cannot feed it")
    return edges


def _numbers(column: Any, names: Sequence[str], place: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places in ``names`` of the entries of an Arrow array of strings, dictionary-encoded or not."""
    coded = column if hasattr(column, "dictionary") else column.dictionary_encode()
    if coded.null_count:
        raise CircuitError(f"{place} has {coded.null_count} empty entries")
    number = {name: place for place, name in enumerate(names)}
    known = coded.dictionary.to_pylist()
    for name in known:
        if name not in number:
            raise UnknownNameError(place, str(name), names)
    return np.array([number[name] for name in known], dtype=np.int64)[coded.indices.to_numpy()]
