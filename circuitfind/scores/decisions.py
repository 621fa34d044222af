"""The decisions of a greedy search, edge by edge, in order: what ACDC did, and how close each decision was.

A **candidate** is decided as a unit: an edge, the three edges from a sender to q, k and v of a head, or a whole port (the
original's DIRECT_COMPUTATION edge). The log has a row of numbers per candidate and can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.graph import ARROW, ComputationGraph

if TYPE_CHECKING:
    import pandas

WHOLE_PORT = -1
"""Used instead of a sender: the candidate is the port itself."""
HOW = (
    "tested",
    "tested in float64",
    "nothing reads the node",
    "its port was cut",
    "same value in clean and ablated run",
)
"""How a decision was made; the first two are tests, the others need no test."""
TESTED, TESTED_AGAIN, UNREAD, PORT_CUT, SAME_VALUE = range(len(HOW))
DECISIONS = ("cut", "kept")
COLUMNS = ("before", "after", "kept", "how", "seconds")
BEFORE, AFTER, KEPT, HOW_COLUMN, SECONDS = range(len(COLUMNS))
FRAGILE = 1e-4
"""A decision with a margin below this may change with other prompts."""
Values = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Candidates:
    """What is decided, in order.

    Attributes:
        graph: the whole graph.
        receiver: receiver of every candidate, shape (candidates,); the q port if q, k and v are cut together.
        sender: its sender, or :data:`WHOLE_PORT`.
        together: edges into q, k and v of a head are one candidate.
    """

    graph: ComputationGraph
    receiver: Ints
    sender: Ints
    together: bool = False

    def __post_init__(self) -> None:
        if self.together and self.graph.n_kv_groups:
            raise OptionError(
                "q, k and v of a head cannot be cut together where keys and values have a port for each group of heads; use "
                "split_qkv=true, or a port per head (kv_ports='head')"
            )

    def __len__(self) -> int:
        return len(self.receiver)

    def receivers(self, candidate: int) -> list[int]:
        """The receivers whose edges a candidate holds."""
        first = int(self.receiver[candidate])
        return self.graph.block_of(first).with_all_ports(first) if self.together else [first]

    def visits(self) -> Iterator[tuple[list[int], slice]]:
        """Receivers in order, each with its candidates."""
        whole = self.sender == WHOLE_PORT
        new = np.flatnonzero((np.diff(self.receiver) != 0) | (np.diff(whole) != 0)) + 1
        for start, stop in zip([0, *new], [*new, len(self)], strict=True):
            yield self.receivers(int(start)), slice(int(start), int(stop))

    def edges(self, candidate: int) -> list[int]:
        """Numbers of the edges a candidate holds."""
        found: list[int] = []
        for receiver in self.receivers(candidate):
            first, stop = self.graph.first_edge[receiver : receiver + 2].tolist()
            sender = int(self.sender[candidate])
            found += range(first, stop) if sender == WHOLE_PORT else [first + sender]
        return found

    def name(self, candidate: int) -> str:
        """``sender->receiver``, or ``a1.h2<q>->a1.h2`` for a whole port.

        The receiver is written without its port if q, k and v are cut together.
        """
        graph, number, sender = self.graph, int(self.receiver[candidate]), int(self.sender[candidate])
        receiver, owner = graph.receiver_names[number], graph.receiver_owners[number]
        if sender == WHOLE_PORT:
            return f"{receiver}{ARROW}{owner}"
        target = owner if self.together else receiver
        return f"{graph.sender_names[sender]}{ARROW}{target}"


@dataclass(frozen=True, eq=False)
class DecisionLog:
    """One search at one threshold.

    Attributes:
        candidates: what was decided, in order.
        threshold, absolute: a candidate is cut if its delta (or its absolute delta) is below the threshold.
        values: float64 (candidates, :data:`COLUMNS`): loss before and after the cut (equal if nothing was tested), 1 for kept
            and 0 for cut, an index into :data:`HOW`, and seconds since the search began.
    """

    candidates: Candidates
    threshold: float
    absolute: bool
    values: Values

    @property
    def delta(self) -> Values:
        """Loss after the cut minus loss before: what cutting costs, float64 (candidates,)."""
        return np.asarray(self.values[:, AFTER] - self.values[:, BEFORE])

    @property
    def tested(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which candidates were decided by a test."""
        return np.asarray(self.values[:, HOW_COLUMN] <= TESTED_AGAIN)

    @property
    def margin(self) -> Values:
        """By how much a test missed the threshold; positive where the candidate was kept."""
        return np.asarray((np.abs(self.delta) if self.absolute else self.delta) - self.threshold)

    @property
    def kept_candidates(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which candidates were kept."""
        return self.values[:, KEPT] == 1

    @property
    def kept(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which edges were kept, boolean (edges,)."""
        kept = np.zeros(self.candidates.graph.n_edges, dtype=bool)
        for candidate in np.flatnonzero(self.kept_candidates & (self.candidates.sender != WHOLE_PORT)):
            kept[self.candidates.edges(int(candidate))] = True
        return kept

    @property
    def edge_delta(self) -> Values:
        """Delta of every kept edge, 0 elsewhere; float64 (edges,)."""
        values, delta = np.zeros(self.candidates.graph.n_edges), self.delta
        for candidate in np.flatnonzero(self.kept_candidates & (self.candidates.sender != WHOLE_PORT)):
            values[self.candidates.edges(int(candidate))] = delta[candidate]
        return values

    def to_frame(self) -> pandas.DataFrame:
        """The log as a table: step, threshold, edge, before, after, delta, margin, decision, how, seconds.

        Delta and margin are empty for candidates that were not tested.
        """
        import pandas

        tested = self.tested
        return pandas.DataFrame(
            {
                "step": np.arange(1, len(self.candidates) + 1),
                "threshold": self.threshold,
                "edge": [self.candidates.name(number) for number in range(len(self.candidates))],
                "before": self.values[:, BEFORE],
                "after": self.values[:, AFTER],
                "delta": np.where(tested, self.delta, np.nan),
                "margin": np.where(tested, self.margin, np.nan),
                "decision": np.array(DECISIONS)[self.kept_candidates.astype(int)],
                "how": np.array(HOW)[self.values[:, HOW_COLUMN].astype(int)],
                "seconds": self.values[:, SECONDS].round(3),
            }
        )

    # ---------------------------------------------------------------- how surely

    def summary(self) -> list[str]:
        """Sentences: counts first, then what makes the result uncertain."""
        how = self.values[:, HOW_COLUMN]
        tested, again, same = int(self.tested.sum()), int((how == TESTED_AGAIN).sum()), int((how == SAME_VALUE).sum())
        kept, n = int(self.kept_candidates.sum()), len(self.candidates)
        line = (
            f"threshold {self.threshold:g}: {kept:,} of {n:,} kept after {tested:,} tests; {n - tested - same:,} cut untested, "
            "because what they feed was cut"
        )
        line += f"; {same:,} settled untested, because cutting them changes nothing" if same else ""
        line += f"; {again:,} close calls decided in float64" if again else ""
        lines = [line]
        if fragile := int((np.abs(self.margin[self.tested]) < FRAGILE).sum()):
            lines.append(
                f"{fragile:,} of {tested:,} tests are fragile: they missed the threshold by less than {FRAGILE:g}, so other "
                "prompts may decide them otherwise."
            )
        if contested := self.contested():
            lines.append(
                f"{len(contested):,} edges from heads were cut at more than half the threshold while another head of their "
                f"layer stayed (first: {contested[0]}); which of them stays may depend on the order: compare with the other "
                "heads= order."
            )
        return lines

    def contested(self) -> list[str]:
        """Edges cut at more than half the threshold beside a kept edge from another head of the same layer."""
        c, graph = self.candidates, self.candidates.graph
        places = [graph.place(max(sender, 0)) for sender in c.sender.tolist()]
        layer = np.array([place.layer for place in places])
        is_head = np.array([place.of.block == "attention" for place in places])
        group = c.receiver.astype(np.int64) * (graph.n_layers + 1) + layer
        stays = set(group[is_head & self.kept_candidates].tolist())
        near = is_head & self.tested & ~self.kept_candidates & (self.margin + self.threshold > self.threshold / 2)
        return [c.name(int(number)) for number in np.flatnonzero(near) if int(group[number]) in stays]


def as_tensors(logs: Sequence[DecisionLog]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors that a score file stores for the logs of a sweep."""
    if not logs:
        return {}
    candidates = logs[0].candidates
    return {
        "decisions": np.stack([log.values for log in logs]),
        "decisions.receiver": candidates.receiver,
        "decisions.sender": candidates.sender,
        "decisions.threshold": np.array([log.threshold for log in logs]),
        "decisions.flags": np.array([candidates.together, logs[0].absolute]),
    }


def from_tensors(graph: ComputationGraph, tensors: dict[str, np.ndarray[Any, Any]]) -> tuple[DecisionLog, ...]:
    """The logs of a sweep from a score file's tensors; empty if it has none."""
    if "decisions" not in tensors:
        return ()
    together, absolute = map(bool, tensors["decisions.flags"])
    candidates = Candidates(graph, tensors["decisions.receiver"], tensors["decisions.sender"], together)
    thresholds = tensors["decisions.threshold"]
    return tuple(
        DecisionLog(candidates, float(threshold), absolute, values)
        for threshold, values in zip(thresholds, tensors["decisions"], strict=True)
    )


def write_tables(place: Path, logs: Sequence[DecisionLog]) -> None:
    """Write ``decisions.csv`` with all logs concatenated into a folder, and ``thresholds.csv`` for a sweep."""
    if not logs:
        return
    import pandas

    pandas.concat([log.to_frame() for log in logs]).to_csv(place / "decisions.csv", index=False)
    if len(logs) > 1:
        columns = {"threshold": [log.threshold for log in logs], "kept": [int(log.kept.sum()) for log in logs]}
        columns["tests"] = [int(log.tested.sum()) for log in logs]
        pandas.DataFrame(columns).to_csv(place / "thresholds.csv", index=False)
