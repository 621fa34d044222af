"""circuitfind: automated circuit discovery for transformers.

    import circuitfind as cf

    setting = cf.Setting("ioi", model="tasks-4l")
    scores = cf.discover(setting, algorithm="eap-ig-inputs")
    circuit = cf.select(scores, setting, faithfulness=0.85)
    print(cf.evaluate(setting, circuit).faithfulness)
    cf.render(circuit, "ioi.svg")

Every call takes a setting, or its pieces: ``cf.discover(model, "ioi", n=64)``. Everything is imported on first use, so
``import circuitfind`` is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Setting": "setting.value",
    "load_model": "models.load:load",
    "model_from_weights": "models",
    "save_model": "models",
    "load_task": "setting.naming",
    "load_pairs": "task",
    "load_circuit": "formats",
    "check_pairs": "run.calls",
    "score_neurons": "run.neurons",
    "with_neurons": "run.neurons",
    "discover": "run.calls",
    "select": "run.selecting",
    "curve": "run.selecting",
    "evaluate": "run.calls",
    "render": "run.calls",
    "hypotheses": "run.calls",
    "stability": "evaluation:stability_of",
    "certify": "evaluation:certify_edges",
    "sensitivity": "run.sensitivity",
    "activation_patch": "patching",
    "ablate": "patching",
    "path_patch": "patching",
    "path_heat_map": "patching",
    "tree_text": "circuit.tree",
    "head_roles": "run.calls",
    "compare": "run.comparison",
    "compare_algorithms": "bench.methods",
    "replay_decisions": "run.replay",
    "open_bridge": "models",
    "check_model": "models",
    "memory_limit": "execution.memory",
    "Circuit": "circuit",
    "ComputationGraph": "graph",
    "EdgeScores": "scores",
    "SizeCurve": "selection",
    "combine_scores": "scores.combination",
    "PromptPair": "task",
    "PromptPairs": "task",
    "TokenPairs": "task",
    "Task": "task",
    "Transformer": "transformer",
    "TransformerConfig": "transformer",
    "TASKS": "task",
    "ALGORITHMS": "discovery.contract",
    "METRICS": "task.metrics",
    "Metric": "task.metrics",
    "FORMATS": "formats",
    "CircuitfindError": "errors",
}
"""Public names, each with its module, and its name there if that differs."""

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("circuitfind")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'circuitfind' has no attribute {name!r}")
    module, _, called = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), called or name)


def __dir__() -> list[str]:
    return __all__
