"""What a circuit's numbers support: the claim, and every reason to doubt it."""

from __future__ import annotations

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.circuit.in_words import full_to_circuit
from circuitfind.evaluation.faithfulness import Evaluation
from circuitfind.evaluation.other_prompts.stability import Stability
from circuitfind.statistics import FEW_PROMPTS as FEW_PROMPTS

FEWER_RIGHT = 0.1
"""A larger fall of the accuracy is a weakness."""
TOO_FAITHFUL = 1.1
"""A circuit of more than this faithfulness does more than the model: edges that work against the behaviour are missing."""


def verdict(
    circuit: Circuit,
    evaluation: Evaluation,
    stability: Stability | None = None,
    *,
    without_parts: int | None = None,
) -> list[str]:
    """Sentences: first what was found, then each weakness of the evidence, if any.

    Args:
        stability: stability under resampling of the prompts that the circuit was found on, if measured.
        without_parts: number of edges of the corresponding circuit without parts; if given, both are compared first.
    """
    lines = _lines(circuit, evaluation, stability)
    if without_parts is None or circuit.layout is None:
        return lines
    n, total, parts = evaluation.n_edges, evaluation.n_edges_total, len(circuit.layout)
    kept = f"{n:,} of {total:,} (edge, part) pairs ({n / total:.1%}) are kept"
    there = (
        f"the circuit without parts keeps {without_parts:,} edges at all {parts} parts, {without_parts * parts:,} pairs"
    )
    return [f"By {circuit.parts}: {line}" for line in (f"{kept}; {there}.", *lines)]


def _lines(circuit: Circuit, evaluation: Evaluation, stability: Stability | None) -> list[str]:
    share = evaluation.n_edges / evaluation.n_edges_total
    parts = "" if circuit.layout is None else f" at {len(circuit.layout)} parts of the prompt"
    kept = f"{evaluation.n_edges} of {evaluation.n_edges_total} edges{parts} ({share:.1%})"
    where = f"{len(evaluation.full)} {evaluation.split} prompts"
    if not np.isfinite(evaluation.faithfulness):
        return [
            f"{kept} are kept; their faithfulness in {evaluation.metric} on {where} is undefined.",
            full_to_circuit(evaluation.to_json()),
            f"Weak: full and empty model have the same mean {evaluation.unit} on these prompts; they show no behaviour.",
            *_unlike(evaluation),
        ]
    low, high = evaluation.interval
    found = f"reach a faithfulness of {evaluation.faithfulness:.1%} in {evaluation.metric} on {where}"
    lines = [f"{kept} {found} (95 % interval {low:.0%} to {high:.0%}){_control(evaluation)}"]
    lines.append(full_to_circuit(evaluation.to_json()))
    if circuit.graph.whole_attention:
        lines.append(
            "Each attention node is the whole attention of a layer: a norm mixes its heads, so none has an edge."
        )
    if stability is not None and stability.stable:
        lines.append(stability.sentence)
    remarks = [f"Weak: {remark[0].lower()}{remark[1:]}" for remark in circuit.selection.get("remarks", ())]
    return lines + remarks + _unlike(evaluation) + _doubts(circuit, evaluation, low, high) + _instability(stability)


def _unlike(evaluation: Evaluation) -> list[str]:
    """What the circuit does otherwise than the full model, whatever it was chosen by."""
    doubts = []
    does, circuit, full = "is right", evaluation.accuracy, evaluation.accuracy_full
    if not np.isfinite(full):
        does, circuit, full = "puts a correct answer first", evaluation.top1, evaluation.top1_full
    if full - circuit > FEWER_RIGHT + 1e-9:
        doubts.append(
            f"Weak: the full model {does} on {full:.0%} of these prompts, the circuit on {circuit:.0%}; it does the task "
            "less well."
        )
    both = {one.metric: one.faithfulness for one in (evaluation.measured, evaluation.in_task)}
    return doubts + [
        f"Weak: a faithfulness of {found:.1%} in {metric} is more than the full model's 100%; edges that work against the "
        "behaviour are missing."
        for metric, found in both.items()
        if found > TOO_FAITHFUL
    ]


def _instability(stability: Stability | None) -> list[str]:
    if stability is None or stability.stable:
        return []
    return [f"Weak: {stability.sentence[0].lower()}{stability.sentence[1:]}"]


def _control(evaluation: Evaluation) -> str:
    if not len(evaluation.random):
        return "; no random control was run."
    n, mean = len(evaluation.random), round(float(evaluation.random.mean()), 2) + 0.0  # no minus before a zero
    spread = f" +- {evaluation.random.std(ddof=1):.0%}" if n > 1 else ""
    return f"; {n} random circuit{'s' * (n > 1)} of equal size reach{'es' * (n == 1)} {mean:.0%}{spread}."


def _doubts(circuit: Circuit, evaluation: Evaluation, low: float, high: float) -> list[str]:
    found, doubts = evaluation.faithfulness, []
    if len(evaluation.random) and np.mean(evaluation.random >= found) > 0.05:
        beaten = int((evaluation.random >= found).sum())
        doubts.append(
            f"Weak: {beaten} of {len(evaluation.random)} random circuits of at least that size are as faithful; this "
            "circuit is no better than chance."
        )
    if len(evaluation.full) < FEW_PROMPTS:
        doubts.append(f"Weak: only {len(evaluation.full)} {evaluation.split} prompts; use {FEW_PROMPTS} or more.")
    target = circuit.selection.get("target")
    if target is not None and float(f"{found:.3f}") < float(f"{target:.3f}"):
        doubts.append(
            f"Weak: the circuit was chosen to reach {target:.1%} on the train split but reaches {found:.1%} here."
        )
    if high - low > 0.3:
        doubts.append(f"Weak: the interval is wide ({low:.0%} to {high:.0%}); more prompts would narrow it.")
    if evaluation.accuracy_full < 0.75:
        doubts.append(
            f"Weak: the full model itself is right on {evaluation.accuracy_full:.0%} of these prompts (guessing is right on "
            "50%); there may be no behaviour to find."
        )
    if evaluation.top1_full < 0.1:
        doubts.append(
            f"Weak: a correct answer is the full model's first choice of all words on {evaluation.top1_full:.0%} of these "
            "prompts; the metric compares answers that the model does not give."
        )
    if circuit.provenance.algorithm == "random-edges":
        doubts.append("Weak: the scores are random; this circuit is a control, not a finding.")
    if evaluation.n_edges > 0.5 * evaluation.n_edges_total:
        doubts.append("Weak: more than half of all edges are kept; this says little about where the behaviour lives.")
    return doubts
