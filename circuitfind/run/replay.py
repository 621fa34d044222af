"""Replay the decisions of a search, one plain forward pass each, and compare them with its log.

:mod:`circuitfind.discovery.acdc` is fast because it recomputes only what a cut reaches and tests many cuts in one batch. The
replay uses none of this: the dense engine (:mod:`circuitfind.execution.masks.dense`) runs the whole current circuit in
float64. So this is an independent but slow check of the search: one forward pass over all prompts for every test.

A row of the log agrees if

* it was tested, the replayed ``delta < threshold`` is the log's decision, and loss before, loss after and delta are the
  log's up to the rounding of the run's precision; or
* it was not tested, and its reason holds: nothing reads the node, its port was already cut, or the cut changes nothing.

The replay always continues with the *log's* decision, whatever it finds, so that one wrong row does not hide the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitfind import models
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.search.visiting_order import visiting_order
from circuitfind.errors import CircuitError, NumericalError, OptionError
from circuitfind.execution import run_masked
from circuitfind.execution.batches import default_size
from circuitfind.formats import open_run
from circuitfind.graph import ComputationGraph
from circuitfind.models.load import DTYPES
from circuitfind.progress import track
from circuitfind.scores import Provenance
from circuitfind.scores.decision_table import NUMBERS, LoggedDecision, read_table
from circuitfind.scores.decisions import DECISIONS, PORT_CUT, SAME_VALUE, UNREAD
from circuitfind.setting.naming import load_task, tokenized_pairs
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import metric_again
from circuitfind.task.reference import read_reference_prompts
from circuitfind.transformer import Transformer

LOG = "decisions.csv"
ROUNDING = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 0.1}
"""The rounding error of a loss in each precision, relative to its size (at least 1)."""
PROMPTS_ON_CPU = 16


@dataclass(frozen=True)
class Disagreement:
    """A row that the replay does not confirm.

    Attributes:
        step, edge: the row.
        logged, replayed: delta in the log (None if it was not tested) and in the replay, in the unit of the loss.
        threshold: the threshold that both are compared with.
        reason: what is wrong, in words.
    """

    step: int
    edge: str
    logged: float | None
    replayed: float
    threshold: float
    reason: str

    def __str__(self) -> str:
        logged = "no delta" if self.logged is None else f"delta {self.logged:+.6g}"
        return (
            f"step {self.step}, {self.edge}: {self.reason} (log: {logged}, replay: delta {self.replayed:+.6g}, "
            f"threshold {self.threshold:g})"
        )


@dataclass(frozen=True)
class Replay:
    """The result of replaying the rows of one threshold.

    Attributes:
        threshold: tau.
        rows, tested, agree: number of rows replayed, of those that were tests, and of those that agree.
        too_close: tests whose margin is smaller than the rounding of the replay itself; they count as agreeing.
        largest: largest difference between a delta in the log and in the replay.
        first: the first row that does not agree, or None.
    """

    threshold: float
    rows: int
    tested: int
    agree: int
    too_close: int
    largest: float
    first: Disagreement | None

    @property
    def passed(self) -> bool:
        """Whether every row agrees."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "passed": self.passed}

    def sentences(self) -> list[str]:
        """The result in sentences."""
        lines = [
            f"threshold {self.threshold:g}: {self.agree:,} of {self.rows:,} decisions agree ({self.tested:,} tests made again, "
            f"{self.rows - self.tested:,} reasons checked); largest difference of a delta {self.largest:.1e}"
        ]
        if self.too_close:
            lines.append(
                f"{self.too_close:,} of the tests are too close to the threshold to tell; they count as agreeing"
            )
        return lines + ([] if self.first is None else [f"first disagreement: {self.first}"])


def replay_decisions(
    run: str | Path,
    *,
    threshold: float | None = None,
    steps: int | None = None,
    dtype: str = "float64",
    device: str | None = None,
) -> list[Replay]:
    """Replay the log of an ACDC run with the model and the prompts of that run.

    Args:
        run: the run folder, or the ``decisions.csv`` in it.
        threshold: one of a sweep; all if None.
        steps: stop after this number of tested rows (for each threshold).
        dtype: precision of the replay; float32 is faster but leaves more tests too close to tell.

    Raises:
        OptionError: not a run folder, a run without decisions, or an option out of range.
        CircuitError: the log is damaged, or the model or the prompts are not the run's.

    Example:
        >>> import circuitfind as cf, tempfile, pathlib
        >>> from circuitfind.run.pipeline import RunConfig, run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     setting = cf.Setting("induction", model="induction-2l", n=4, n_held_out=4)
        ...     _ = run(setting, RunConfig("acdc", {"threshold": 0.3}, n_random=0), pathlib.Path(folder) / "acdc")
        ...     [replay.passed for replay in cf.replay_decisions(pathlib.Path(folder) / "acdc", steps=5)]
        [True]
    """
    path = Path(run) / LOG if Path(run).is_dir() else Path(run)
    p, settings = _open(path)
    if steps is not None and steps < 1:
        raise OptionError(f"--steps {steps}: give at least 1")
    if dtype not in DTYPES:
        raise OptionError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    used, ports = settings.get("dtype", "float32"), settings.get("kv_ports")
    model = models.load(
        settings.get("model") or p.model, device=device, dtype=used, bos=settings.get("bos"), kv_ports=ports
    )
    model = model.with_neurons(settings.get("neuron_nodes") or ())
    options = ALGORITHMS[p.algorithm].resolve(p.options)
    logs = read_table(path, model.graph)
    _check_whole(path, logs, model.graph, options)
    pairs = _pairs_of(p, settings, model)
    wide = model.to(dtype=DTYPES[dtype])
    problem = Problem(
        wide, pairs, metric_again(p.metric, p.metric_source), p.ablation, p.seed, _prompts_at_once(wide, pairs)
    )
    rounding, tolerance = ROUNDING[dtype], max(ROUNDING[dtype], ROUNDING[used])
    with torch.inference_mode():
        circuit = PlainCircuit(problem)
        return [
            _walk(circuit, DecisionRule(tau, options["absolute"], rounding, tolerance), _up_to(rows, steps))
            for tau, rows in _chosen(logs, threshold).items()
        ]


# -------------------------------------------------------------------- the run and its prompts


def _open(path: Path) -> tuple[Provenance, dict[str, Any]]:
    """Provenance and configuration of the run a log belongs to."""
    if not path.parent.exists() or not (path.exists() or path.name == LOG):
        raise OptionError(f"there is no {path}; give a run folder of acdc, or the {LOG} in it")
    if not (path.parent / "config.json").exists():
        raise OptionError(
            f"{path.parent} is not a run folder: it has no config.json. A log alone does not say model, prompts and options; "
            "give the folder that 'circuitfind discover' made"
        )
    circuit, settings = open_run(path.parent / "circuit.json")
    if circuit.provenance.algorithm != "acdc":
        raise OptionError(
            f"{path.parent} is a run of {circuit.provenance.algorithm or 'no algorithm'}, which makes no decisions to replay; "
            "give a run of acdc"
        )
    if not path.exists():
        raise OptionError(f"there is no {path}; make the run again to have its log")
    return circuit.provenance, settings


def _pairs_of(p: Provenance, settings: Mapping[str, Any], model: Transformer) -> TokenPairs:
    """The train pairs the run was made with."""
    given = load_task(settings.get("task") or p.task, model=model)
    task = replace(given, name=p.task)  # the name seeds the order of a file's rows
    how = {"answers": settings.get("answers", "all"), "n_tokens": settings.get("length", 0), **p.task_options}
    pairs = tokenized_pairs(model, task, split="train", n=p.n_prompts, seed=p.seed, **how)
    found = pairs.fingerprint
    if found != p.pairs_hash:
        raise CircuitError(
            f"the prompts of task {p.task!r} are not those of the run any more (fingerprint {found[:12]}, the run's is "
            f"{p.pairs_hash[:12] or 'unknown'}); replay with the version of circuitfind, and the task, that made it"
        )
    if not p.reference_hash:
        return pairs
    reference = read_reference_prompts(settings.get("reference_prompts", []), model.tokenizer)
    if reference.checksum() != p.reference_hash:
        raise CircuitError("the run's reference prompts have changed since; replay with those that it was made with")
    return replace(pairs, reference=reference)


def _prompts_at_once(model: Transformer, pairs: TokenPairs) -> int:
    """As many as memory allows; only a few on a CPU, where page faults of large new tensors cost more than they gain."""
    fitting = default_size(model, int(pairs.length.max(initial=1)))
    return min(fitting, PROMPTS_ON_CPU) if model.device.type == "cpu" else fitting


# -------------------------------------------------------------------- the log as a whole


def _check_whole(
    path: Path, logs: Mapping[float, Sequence[LoggedDecision]], graph: ComputationGraph, options: Mapping[str, Any]
) -> None:
    """Refuse a log unless it decides every edge once, in the order of the run's options, at the run's thresholds."""
    if set(logs) != set(options["threshold"]):
        has, wanted = (", ".join(f"{tau:g}" for tau in sorted(taus)) for taus in (logs, set(options["threshold"])))
        raise CircuitError(f"{path} has decisions at the thresholds {has or '(none)'}; the run was made at {wanted}")
    candidates = visiting_order(graph, options["heads"], options["split_qkv"], options["direct_edges"])
    expected = [candidates.name(number) for number in range(len(candidates))]
    for tau, rows in logs.items():
        for row, name in zip(rows, expected, strict=False):
            if row.edge != name:
                raise CircuitError(
                    f"{path}, threshold {tau:g}, step {row.step}: {row.edge}, but the run's next edge is {name}"
                )
        if len(rows) != len(expected):
            raise CircuitError(f"{path}, threshold {tau:g}: {len(rows)} decisions, but the run makes {len(expected)}")


def _chosen(
    logs: Mapping[float, list[LoggedDecision]], threshold: float | None
) -> Mapping[float, list[LoggedDecision]]:
    chosen = {tau: rows for tau, rows in logs.items() if threshold is None or math.isclose(tau, threshold)}
    if not chosen:
        raise OptionError(f"--threshold {threshold:g}: the log has {', '.join(f'{tau:g}' for tau in logs)}")
    return chosen


def _up_to(rows: list[LoggedDecision], steps: int | None) -> list[LoggedDecision]:
    """The rows up to the nth tested one."""
    tested = [row.step for row in rows if row.tested]
    return rows if steps is None or steps >= len(tested) else rows[: tested[steps - 1]]


# -------------------------------------------------------------------- replaying


class PlainCircuit:
    """A circuit that loses edges and is run as a whole every time.

    Args:
        problem: model, prompts, metric and ablation.

    Attributes:
        kept: boolean (edges,); all True at first.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.graph = problem, problem.graph
        self._batches = [problem.complete(batch) for batch in problem.batches()]
        ablation = problem.prepared_ablation(self._batches)
        self._ablated = [ablation.writes(batch) for batch in self._batches]
        self.restore()

    def restore(self) -> None:
        """Back to the full model."""
        self.kept = np.ones(self.graph.n_edges, dtype=bool)

    def loss_without(self, edges: Sequence[int] = ()) -> float:
        """Mean loss over all prompts of the circuit without these edges.

        Raises:
            NumericalError: the loss is NaN or infinite.
        """
        kept, model = self.kept.copy(), self.problem.model
        kept[list(edges)] = False
        mask, total = torch.from_numpy(kept)[None].to(model.device), 0.0
        for batch, ablated in zip(self._batches, self._ablated, strict=True):
            logits = run_masked(model, batch.clean, ablated, mask, batch.answer)
            total -= float(self.problem.objective(batch)(logits).cpu().double().sum())
        if not math.isfinite(total):
            raise NumericalError(f"the replayed loss is {total}; check the model with 'circuitfind check-model'")
        return total / len(self.problem.pairs)

    def is_read(self, row: LoggedDecision) -> bool:
        """Whether a kept edge leaves the node that a row's edges enter; the logits are always read."""
        graph, (_, receiver) = self.graph, self.graph.ends(np.array(row.edges[0]))
        node, stop = graph.receiver_node[receiver], graph.receiver_stop[receiver]
        read = (graph.edge_sender >= node) & (graph.edge_sender < stop)
        return bool(node == graph.n_senders or self.kept[read].any())

    def has(self, row: LoggedDecision) -> bool:
        """Whether any edge of a row is kept."""
        return bool(self.kept[list(row.edges)].any())


@dataclass(frozen=True)
class DecisionRule:
    """What a row is checked against.

    Attributes:
        threshold, absolute: cut if delta (or its absolute value) is below the threshold.
        rounding: rounding error of a replayed loss; closer to the threshold than this, the replay cannot tell.
        tolerance: how far a logged loss may be from the replayed one.
    """

    threshold: float
    absolute: bool
    rounding: float
    tolerance: float

    def margin(self, delta: float) -> float:
        """How far delta is above the threshold; the edge is kept if this is 0 or more."""
        return (abs(delta) if self.absolute else delta) - self.threshold

    def too_close(self, row: LoggedDecision, before: float, after: float) -> bool:
        """Whether a test is so close to the threshold that the replay cannot tell which decision is right."""
        return row.tested and abs(self.margin(after - before)) <= self.rounding * _size(before, after)

    def objection(self, row: LoggedDecision, before: float, after: float) -> str:
        """What is wrong with a row whose reason holds; "" if nothing."""
        delta, allowed = after - before, self.tolerance * _size(before, after)
        if row.how == SAME_VALUE and not abs(delta) <= allowed:
            return "the cut changes the loss, so the clean and the ablated value are not the same"
        keeps = self.margin(delta if row.tested else 0.0) >= 0 and row.how not in (UNREAD, PORT_CUT)
        if row.kept != keeps and not self.too_close(row, before, after):
            return f"the log has {DECISIONS[row.kept]}, the replay {DECISIONS[keeps]}"
        for name, value in zip(NUMBERS, (before, after, delta), strict=True):
            logged = getattr(row, name)
            untested = name == "delta" and not row.tested
            if not untested and not abs(logged - value) <= allowed:
                return f"the log has {name} {logged:.6g}, the replay {value:.6g}"
        return ""


def _size(before: float, after: float) -> float:
    return max(1.0, abs(before), abs(after))


def _walk(circuit: PlainCircuit, rule: DecisionRule, rows: Sequence[LoggedDecision]) -> Replay:
    """Replay the decisions of one threshold, in order."""
    circuit.restore()
    loss, agree, too_close, largest, first = circuit.loss_without(), 0, 0, 0.0, None
    for row in track(rows, f"replaying at {rule.threshold:g}"):
        broken = _broken_reason(circuit, row)
        measured = broken or row.how not in (UNREAD, PORT_CUT)
        after = circuit.loss_without(row.edges) if measured else loss
        objection = broken or rule.objection(row, loss, after)
        if row.tested:
            largest = max(largest, abs(row.delta - (after - loss)))
            too_close += rule.too_close(row, loss, after)
        agree += not objection
        if objection and first is None:
            logged = None if math.isnan(row.delta) else row.delta
            first = Disagreement(row.step, row.edge, logged, after - loss, rule.threshold, objection)
        if not row.kept:
            circuit.kept[list(row.edges)] = False
            loss = after
    tested = sum(row.tested for row in rows)
    return Replay(rule.threshold, len(rows), tested, agree, too_close, largest, first)


def _broken_reason(circuit: PlainCircuit, row: LoggedDecision) -> str:
    """Why the logged reason for cutting without a test does not hold; "" if it holds."""
    if row.how == UNREAD and circuit.is_read(row):
        return "the log says that nothing reads the node, but a kept edge leaves it"
    if row.how == PORT_CUT and circuit.has(row):
        return "the log says that the port was cut, but it was not"
    return ""
