"""A setting as a run folder stores it: what finds the same task and model again from any working folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind import models
from circuitfind.setting.naming import is_name
from circuitfind.task.metrics import as_metric

if TYPE_CHECKING:
    from circuitfind.setting.value import Setting

LOADING = {"device": None, "dtype": "float32", "bos": None, "kv_ports": "head"}
"""How a model is loaded by default."""


def as_stored(setting: Setting) -> dict[str, Any]:
    """JSON-ready values of a setting."""
    metric = (
        setting.metric if setting.metric is None or isinstance(setting.metric, str) else as_metric(setting.metric).name
    )
    return {
        "task": _task_again(setting),
        "model": _model_again(setting),
        "ablation": setting.ablated_by,
        "metric": metric,
        "n_prompts": setting.n,
        "n_held_out": setting.n_held_out,
        "seed": setting.seed,
        "batch_size": setting.batch_size,
        "answers": setting.answers,
        "corrupt": setting.corrupt,
        "group_by": setting.group_by,
        **{name: getattr(setting, name) for name in LOADING},
        **({"length": setting.length} if setting.length else {}),
        **({"neuron_nodes": setting.neuron_nodes} if setting.neuron_nodes else {}),
        "task_options": dict(setting.task_options or {}),
        **(
            {"reference_prompts": str(Path(at).expanduser().resolve())}
            if isinstance(at := setting.reference_prompts, str | Path)
            else {}
        ),
    }


def _task_again(setting: Setting) -> str:
    """What names the task from any working folder: its name, or the whole path of its file."""
    if not isinstance(setting.task, str | Path):
        return setting.behaviour.name
    return str(setting.task) if is_name(setting.task) else str(Path(setting.task).expanduser().resolve())


def _model_again(setting: Setting) -> str:
    """What names the model from any working folder: its name, or the whole path of its folder."""
    spec = setting.model_spec
    if not isinstance(spec, str | Path):
        return setting.transformer.name
    return str(Path(spec).expanduser().resolve()) if models.is_folder(spec) else str(spec)
