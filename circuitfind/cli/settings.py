"""The options of a setting, declared once, and the :class:`~circuitfind.setting.value.Setting` made from them.

A command whose first argument is a setting is decorated with :func:`setting_options`, which gives it these options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.options import (
    Ablation,
    Answers,
    BatchSize,
    Bos,
    Corrupt,
    Device,
    Dtype,
    GroupBy,
    KvPorts,
    Length,
    Memory,
    Metric,
    Model,
    Prompts,
    Reference,
    Seed,
    TaskName,
    TaskOption,
    about,
    read_settings,
)
from circuitfind.setting.defaults import N_HELD_OUT, N_PROMPTS

if TYPE_CHECKING:
    from circuitfind.setting.value import Setting as Setting
else:
    Setting = Any  # the command line starts without the model's libraries

Command = Callable[..., None]
OfRun = Annotated[str | None, typer.Option(help="As in discover (default: the run's).")]
TaskOptionOfRun = Annotated[
    list[str] | None, typer.Option(help="An option of the task, NAME=VALUE (default: the run's).")
]
LengthOfRun = Annotated[
    int | None, typer.Option(help="Only prompts of this many tokens; 0 for any (default: the run's).")
]


def setting_named(
    task: TaskName,
    model: Model = None,
    metric: Metric = None,
    ablation: Ablation = None,
    reference_prompts: Reference = None,
    prompts: Prompts = N_PROMPTS,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOption = None,
    corrupt: Corrupt = "",
    group_by: GroupBy = "",
    length: Length = 0,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    bos: Bos = None,
    kv_ports: KvPorts = "head",
    answers: Answers = "all",
) -> Setting:
    """The setting given by the options; nothing is loaded."""
    from circuitfind.setting.value import Setting

    given: dict[str, Any] = {"metric": metric, "ablation": ablation, "reference_prompts": reference_prompts}
    given |= {"corrupt": corrupt, "group_by": group_by, "length": length, "answers": answers}
    given |= {"device": device, "dtype": dtype, "bos": bos, "kv_ports": kv_ports}
    return Setting(
        task,
        model,
        n=prompts,
        n_held_out=prompts,
        seed=seed,
        task_options=read_settings(task_option, "--task-option"),
        batch_size=batch_size,
        memory=memory,
        **given,
    )


def setting_of_circuit(
    task: Annotated[str | None, typer.Option(help="Task or file of pairs (default: the circuit's task).")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="(default: the circuit's model)")] = None,
    metric: Annotated[str | None, typer.Option(help="(default: the circuit's)")] = None,
    ablation: Annotated[str | None, typer.Option(help="(default: the circuit's)")] = None,
    reference_prompts: Reference = None,
    prompts: Prompts = N_HELD_OUT,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOptionOfRun = None,
    corrupt: OfRun = None,
    group_by: OfRun = None,
    length: LengthOfRun = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16 (default: the run's).")] = None,
    memory: Memory = None,
    bos: Bos = None,
) -> Callable[..., Setting]:
    """A function from an opened circuit (its path, the circuit, its run's settings) to the setting it is measured in."""

    def setting(path: Path, circuit: Any, run: Mapping[str, Any], otherwise: str = "") -> Setting:
        from circuitfind.setting.value import Setting

        spec, chosen = about(path, circuit, run, model, task, otherwise)
        own = reference_prompts or _reference_of(run, ablation or circuit.provenance.ablation)
        given: dict[str, Any] = {"metric": metric, "ablation": ablation, "reference_prompts": own, "n": prompts}
        given |= {"n_held_out": prompts, "seed": seed, "batch_size": batch_size}
        return Setting(
            chosen,
            spec,
            **given,
            task_options=read_settings(task_option, "--task-option") if task_option or task else None,
            **_own_pairs({} if task else run, corrupt=corrupt, group_by=group_by, length=length),
            memory=memory,
            device=device,
            dtype=dtype or run.get("dtype") or "float32",
            bos=run.get("bos") if bos is None else bos,
            kv_ports="group" if circuit.graph.n_kv_groups else "head",
            neuron_nodes=circuit.graph.neurons or None,
        )

    return setting


def _reference_of(run: Mapping[str, Any], ablation: str) -> str | None:
    """The run's reference prompts, where the ablation uses them."""
    from circuitfind.graph import REFERENCE

    return run.get("reference_prompts") if ablation == REFERENCE else None


def _own_pairs(run: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """How pairs are read and chosen: as the options say, or else as in the run, or else as by default."""
    told = {name: run.get(name) if value is None else value for name, value in given.items()}
    return {name: value for name, value in told.items() if value is not None} | {"answers": run.get("answers") or "all"}


def setting_options(
    options: Callable[..., Any] = setting_named, *, without: Iterable[str] = (), **defaults: Any
) -> Callable[[Command], Command]:
    """Give a command the options of a setting in addition to its own; its first argument is the setting they make.

    Args:
        options: a function that declares the options as its parameters and takes their values.
        without: options that mean nothing to this command.
        defaults: this command's own defaults for some of the options.
    """
    common = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in inspect.signature(options, eval_str=True).parameters.values()
        if parameter.name not in without
    ]

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        named = {parameter.name for parameter in own}
        shared = [parameter for parameter in common if parameter.name not in named]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            taken = {one.name: given[one.name] if one.name in named else given.pop(one.name) for one in common}
            command(options(**taken), **given)

        first = "task" if options is setting_named else ""  # an argument, placed before the command's own
        every = sorted([*own, *shared], key=lambda one: (one.name == "as_json", one.name != first))
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in every]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate
