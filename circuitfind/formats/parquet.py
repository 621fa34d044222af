"""A Parquet table of scores: a row for every edge, ``sender, receiver, port, score``, for pandas, DuckDB and others.

The receiver's name includes its port, as in an edge's name ``sender->receiver``; the port is ``q``, ``k``, ``v`` or null. Names
are dictionary-encoded, a row group has :data:`ROWS_AT_ONCE` edges, and the file's metadata holds the graph and the provenance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.graph import PORTS, ComputationGraph, Longs
from circuitfind.scores import EdgeScores, Provenance

SCHEMA = "circuitfind-scores-parquet/1"
ROWS_AT_ONCE = 1 << 20
"""Rows in a group; this many are in memory, in addition to the scores, while a file is written or read."""


def write_parquet(scores: EdgeScores, path: Path) -> None:
    """Write all edges in order. Parts and decisions are left out: :meth:`EdgeScores.save` keeps those."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    columns = {"sender": names, "receiver": names, "port": names, "score": pyarrow.float64()}
    schema = pyarrow.schema(list(columns.items()), {"circuitfind": json.dumps(scores.about(SCHEMA))})
    n_edges = scores.graph.n_edges
    with ParquetWriter(path, schema, use_dictionary=list(columns)[:3], compression="zstd") as file:
        for start in range(0, n_edges, ROWS_AT_ONCE):
            batch = _batch(scores, slice(start, min(start + ROWS_AT_ONCE, n_edges)))
            file.write_batch(pyarrow.record_batch(batch, schema=schema))


def _batch(scores: EdgeScores, edges: slice) -> list[Any]:
    """The columns of consecutive edges, as Arrow arrays."""
    import pyarrow

    graph = scores.graph
    senders, receivers = graph.ends(np.arange(edges.start, edges.stop))
    is_head = np.array([port != "" for port in graph.receiver_ports])
    ports = np.array([PORTS.index(port) if port else 0 for port in graph.receiver_ports])
    coded = pyarrow.DictionaryArray.from_arrays
    return [
        coded(pyarrow.array(senders, pyarrow.int32()), list(graph.sender_names)),
        coded(pyarrow.array(receivers, pyarrow.int32()), list(graph.receiver_names)),
        coded(pyarrow.array(ports[receivers], pyarrow.int32(), mask=~is_head[receivers]), list(PORTS)),
        pyarrow.array(scores.values[edges]),
    ]


def read_parquet(path: Path) -> EdgeScores:
    """Read a file written by :func:`write_parquet`; its rows may be in any order.

    Raises:
        CircuitError: not such a file, or its rows are not exactly the edges of its graph.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            about = json.loads((file.schema_arrow.metadata or {}).get(b"circuitfind", b"{}"))
            if about.get("schema") != SCHEMA:
                raise CircuitError(
                    f"{path} is not a circuitfind Parquet file (schema {about.get('schema')!r}); write one with "
                    "circuitfind export --to parquet"
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
    return EdgeScores(graph, values, Provenance.from_dict(about["provenance"]))


def _edges_of(batch: Any, graph: ComputationGraph, path: Path) -> Longs:
    """Numbers of the edges in the rows of an Arrow record batch."""
    senders = _numbers(batch["sender"], graph.sender_names, f"{path}: column sender")
    receivers = _numbers(batch["receiver"], graph.receiver_names, f"{path}: column receiver")
    edges = graph.first_edge[receivers] + senders
    wrong = np.flatnonzero(edges >= graph.first_edge[receivers + 1])
    if len(wrong):
        sender, receiver = graph.sender_names[senders[wrong[0]]], graph.receiver_names[receivers[wrong[0]]]
        raise CircuitError(f"{path}: {sender} comes after {receiver}, so it cannot feed it")
    return edges


def _numbers(column: Any, names: Sequence[str], place: str) -> Longs:
    """Indices in ``names`` of the entries of an Arrow array of strings, dictionary-encoded or not."""
    coded = column if hasattr(column, "dictionary") else column.dictionary_encode()
    if coded.null_count:
        raise CircuitError(f"{place} has {coded.null_count} empty entries")
    number = {name: place for place, name in enumerate(names)}
    known = coded.dictionary.to_pylist()
    for name in known:
        if name not in number:
            raise UnknownNameError(place, str(name), names)
    return np.array([number[name] for name in known], dtype=np.int64)[coded.indices.to_numpy()]


def sniff(place: OnDisk) -> bool:
    """Whether a file begins like a Parquet file."""
    return place.head[:4] == b"PAR1"


def read(place: OnDisk) -> Contents:
    """The scores."""
    return Contents.of(read_parquet(place.path))


def write(contents: Contents, path: Path) -> None:
    """Write the scores; a circuit is left out."""
    write_parquet(contents.scores_for("format parquet"), path)


FORMATS.add(
    Format(
        "parquet",
        (".parquet",),
        "a table of all edges with their scores, for pandas and others",
        sniff,
        read,
        write,
        ours=True,
    )
)
