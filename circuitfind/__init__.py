"""circuitfind: automated circuit discovery for transformers.

    import circuitfind as cf

    model = cf.load_model("tasks-4l")
    task = cf.load_task("ioi")
    scores = cf.discover(model, task, algorithm="eap-ig-inputs")
    circuit = cf.select(scores, model, task, faithfulness=0.85)
    print(cf.evaluate(model, task, circuit).faithfulness)
    cf.render(circuit, "ioi.svg")

Everything is imported on first use, so ``import circuitfind`` is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "load_model": "circuitfind.run.calls",
    "load_task": "circuitfind.run.calls",
    "load_circuit": "circuitfind.formats",
    "check_pairs": "circuitfind.run.calls",
    "discover": "circuitfind.run.calls",
    "select": "circuitfind.run.calls",
    "evaluate": "circuitfind.run.calls",
    "render": "circuitfind.run.calls",
    "hypotheses": "circuitfind.run.robustness",
    "stability": "circuitfind.run.robustness",
    "certify": "circuitfind.run.robustness",
    "sensitivity": "circuitfind.run.robustness",
    "activation_patch": "circuitfind.patching",
    "ablate": "circuitfind.patching",
    "path_patch": "circuitfind.patching",
    "path_heat_map": "circuitfind.patching",
    "tree_text": "circuitfind.circuit.tree",
    "head_roles": "circuitfind.run.calls",
    "compare": "circuitfind.run.comparison",
    "replay_decisions": "circuitfind.run.replay",
    "open_bridge": "circuitfind.models",
    "check_model": "circuitfind.models",
    "memory_limit": "circuitfind.execution.memory",
    "Circuit": "circuitfind.circuit",
    "PositionalCircuit": "circuitfind.circuit.positional",
    "ComputationGraph": "circuitfind.graph",
    "EdgeScores": "circuitfind.scores",
    "combine_scores": "circuitfind.scores.combination",
    "PromptPair": "circuitfind.task",
    "PromptPairs": "circuitfind.task",
    "Task": "circuitfind.task",
    "Transformer": "circuitfind.transformer",
    "TASKS": "circuitfind.task",
    "ALGORITHMS": "circuitfind.discovery.contract",
    "METRICS": "circuitfind.task.metrics",
    "Metric": "circuitfind.task.metrics",
    "FORMATS": "circuitfind.formats",
    "CircuitfindError": "circuitfind.errors",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("circuitfind")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'circuitfind' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
