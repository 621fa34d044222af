"""The sentences below a picture: what was found, how, and the evidence for and against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitfind.circuit.in_words import full_to_circuit


def compose_caption(
    model: str,
    task: str,
    metric: str,
    ablation: str,
    algorithm: str,
    n_edges: int,
    n_edges_total: int,
    evaluation: Mapping[str, Any] | None = None,
    selection: str | None = None,
    n_parts: int | None = None,
) -> tuple[str, ...]:
    """Caption lines for a circuit, one sentence each; arguments that are None or empty are not mentioned.

    Args:
        model: name or path of the model.
        task: name of the task.
        metric: what the scores and the faithfulness measure.
        ablation: what cut edges carry, such as `"corrupted"`.
        algorithm: the algorithm that scored the edges.
        n_edges: edges kept.
        n_edges_total: edges of the whole graph.
        evaluation: the circuit's evaluation, as in ``evaluation.json``.
        selection: how edges were chosen from the scores.
        n_parts: parts of the prompt, if edges are kept per part and counted once for each.
    """
    where = f" at {n_parts} parts of the prompt" if n_parts is not None else ""
    kept = f"{n_edges:,} of {n_edges_total:,} edges{where} ({_percent(n_edges, n_edges_total)})"
    known = ", ".join(f"{word} {name}" for word, name in (("model", model), ("task", task)) if name)
    lines = [f"{known[:1].upper()}{known[1:]}: {kept}." if known else f"{kept}."]
    found = f"found by {algorithm}" + (f" ({selection})" if selection else "") if algorithm else selection
    how = "; ".join(filter(None, (found, metric and f"metric: {metric}", ablation and f"ablation: {ablation}")))
    lines += [f"{how[:1].upper()}{how[1:]}."] if how else []
    if evaluation is not None and evaluation["faithfulness"] is not None:
        lines += [_evidence(evaluation), full_to_circuit(evaluation)]
    return tuple(lines)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f}%" if share >= 0.1 or part == 0 else f"{share:.2g}%"


def _evidence(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["faithfulness_95_interval"]
    interval = f", 95 % interval {_plain(low)} to {_plain(high)}" if low is not None and low < high else ""
    where = f"on {evaluation['n_prompts']} {evaluation['split']} prompts{interval}"
    sentence = f"Faithfulness in {evaluation['metric']['name']} {_plain(evaluation['faithfulness'])} ({where})"
    random = evaluation["random"]
    if random["mean"] is None:
        return f"{sentence}; no random baseline was measured."
    spread = f"\u00a0±\u00a0{_plain(random['std'])}" if random["std"] is not None else ""
    return f"{sentence}; {random['n']} random circuits of at least this size: {_plain(random['mean'])}{spread}."


def _plain(value: float) -> str:
    """A number with two decimals; zero has no minus sign."""
    return f"{round(value, 2) + 0.0:.2f}"
