"""Compilation, and array checks: compiled code does no bounds checking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
NodeIds = NDArray[np.int32]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Pass = TypeVar("Pass", bound=Callable[..., Any])
Number = TypeVar("Number", bound=np.generic)


def compiled(function: Pass) -> Pass:
    """``function`` compiled on first call, and cached on disk if a directory is writable."""
    try:
        return cast(Pass, numba.njit(cache=True)(function))
    except RuntimeError:
        # numba tries $NUMBA_CACHE_DIR, the folder of this file and the user's cache folder, and raises if none can be
        # written (a read-only container). Then each process compiles for itself.
        return cast(Pass, numba.njit(function))


def as_read(array: NDArray[Any], dtype: type[Number]) -> NDArray[Number]:
    """``array`` as a contiguous, aligned, read-only view of ``dtype``; copied only if it must be.

    Writable and read-only arrays are two types to numba. Showing it one of them means one compilation per pass.
    """
    given = np.asarray(array).astype(dtype, casting="same_kind", copy=False)
    view = np.require(given, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def one_per_edge(name: str, array: NDArray[Any], dtype: type[Number], n_edges: int) -> NDArray[Number]:
    """``array`` as a read-only view of shape (edges,), or a ``ValueError`` that names it."""
    view = as_read(array, dtype)
    if view.shape != (n_edges,):
        raise ValueError(f"{name}: one entry per edge is needed, ({n_edges},), but the shape is {view.shape}")
    return view


def checked_edges(source: NodeIds, target: NodeIds, n_nodes: int) -> tuple[NodeIds, NodeIds]:
    """Both ends of every edge as read-only views, or a ``ValueError`` if one is not a node of the graph."""
    if n_nodes < 2:
        raise ValueError(f"n_nodes: at least the input and the logits, 2, but {n_nodes} is given")
    n_edges = np.size(source)
    return _checked_ends("source", source, n_edges, n_nodes), _checked_ends("target", target, n_edges, n_nodes)


def _checked_ends(name: str, nodes: NodeIds, n_edges: int, n_nodes: int) -> NodeIds:
    view = one_per_edge(name, nodes, np.int32, n_edges)
    # Read as unsigned, a negative number is huge, so one comparison finds both kinds of bad number.
    if n_edges and view.view(np.uint32).max() >= n_nodes:
        raise ValueError(f"{name}: node numbers are 0 to {n_nodes - 1}, but {view.min()} to {view.max()} are given")
    return view


def checked_rank(rank: Integers, n_edges: int) -> Integers:
    """``rank`` as a read-only view, or a ``ValueError`` if it is not a permutation of the edges."""
    view = one_per_edge("rank", rank, np.int64, n_edges)
    seen = np.zeros(n_edges, np.bool_)
    if n_edges and view.view(np.uint64).max() < n_edges:
        seen[view] = True
    if not seen.all():
        raise ValueError(f"rank: a permutation of 0 to {n_edges - 1} is needed, each position once (no ties)")
    return view


def inverse(permutation: Integers) -> Integers:
    """The position of each number in ``permutation``."""
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(permutation.size)
    return inverse
