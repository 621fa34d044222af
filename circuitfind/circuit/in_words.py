"""What was measured of a circuit, as a sentence: summaries and captions say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def full_to_circuit(evaluation: Mapping[str, Any]) -> str:
    """What the circuit makes of the full model: accuracy, KL, and the task's metric, with faithfulness if another was measured.

    Args:
        evaluation: as in ``evaluation.json``; from older files the metric measured stands for the task's.
    """
    share = "accuracy" if evaluation["accuracy_full"] is not None else "top1"
    words = "accuracy" if share == "accuracy" else "correct answer first"
    own = {**evaluation["metric"], "faithfulness": evaluation["faithfulness"]}
    task = evaluation.get("task_metric", own)
    parts = [f"{words} {evaluation[share + '_full']:.0%} -> {evaluation[share]:.0%}"]
    if evaluation.get("kl") is not None:
        parts.append(f"KL {evaluation['kl']:.3g} nats")
    if task["name"] not in ("kl", share):
        cut = f" (every edge cut: {task['empty']:.3g})" if "empty" in task else ""
        parts.append(f"{task['name']} {task['full']:.3g} -> {task['circuit']:.3g}{cut}")
    if task["faithfulness"] is not None and task["name"] != evaluation["metric"]["name"]:
        parts.append(f"faithfulness in {task['name']} 100% -> {task['faithfulness']:.1%}")
    return f"Full model -> circuit: {', '.join(parts)}."
