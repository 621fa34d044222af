"""Commands that change components of a model and measure what follows: activation-patch, ablate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import (
    Ablation,
    BatchSize,
    Bos,
    Device,
    Dtype,
    Json,
    Memory,
    Metric,
    Model,
    Prompts,
    Seed,
    Split,
    TaskName,
    TaskOption,
    app,
    model_for,
    print_result,
    read_settings,
)
from circuitfind.errors import OptionError

Top = Annotated[int, typer.Option(help="Print the N largest effects.")]
Out = Annotated[Path | None, typer.Option(help="A heat map: .svg, .png or .pdf.")]


@app.command("activation-patch")
def activation_patch(
    task: TaskName = "ioi",
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="residual, head, mlp, attention or node; or a component such as a3.h5; repeated: together [default: head]."
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="position, span, or nothing for all positions at once.")] = "",
    direction: Annotated[
        str, typer.Option(help="denoising (clean values into the corrupted run) or noising.")
    ] = "denoising",
    model: Model = None,
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    split: Split = "train",
    prompts: Prompts = 64,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOption = None,
    share: Annotated[bool, typer.Option("--share", help="Draw shares of metric(clean) - metric(corrupted).")] = False,
    top: Top = 12,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Put values of one run into another, component by component, and measure how much of the behaviour comes or goes."""
    from circuitfind.execution.memory import memory_limit
    from circuitfind.patching import activation_patch as patch
    from circuitfind.patching.activation import check_options
    from circuitfind.run import calls

    check_options(by, direction, ablation)
    _check_picture(out)
    chosen = what or ["head"]
    network = calls.load_model(model_for(task, model), device=device, dtype=dtype, bos=bos)
    with memory_limit(memory):
        effects = patch(
            network,
            calls.load_task(task, model=network),
            chosen[0] if len(chosen) == 1 else chosen,
            by=by,
            direction=direction,
            metric=metric,
            ablation=ablation,
            n=prompts,
            seed=seed,
            split=split,
            batch_size=batch_size,
            task_options=read_settings(task_option, "--task-option"),
        )
    picture = effects.render(out, share=share) if out else None
    print_result(effects.to_json() | _drawn(picture), as_json, _patching_lines(effects, top, picture))


@app.command()
def ablate(
    task: TaskName,
    nodes: Annotated[
        list[str],
        typer.Argument(help="Components: a3.h5, m1, a2 (all its heads), m3.n17; or head, mlp, attention, node."),
    ],
    each: Annotated[bool, typer.Option("--each/--together", help="One at a time, or all together.")] = False,
    neurons: Annotated[
        str | None, typer.Option(help="Neurons of the one MLP that is named: 3,17,40 or all (with --each: a ranking).")
    ] = None,
    model: Model = None,
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    split: Split = "held-out",
    prompts: Prompts = 128,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOption = None,
    top: Top = 12,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Knock out heads, MLPs or single neurons of the full model, and measure what is lost."""
    from circuitfind.execution.memory import memory_limit
    from circuitfind.patching import ablate as knock_out
    from circuitfind.patching.activation import check_options
    from circuitfind.run import calls

    check_options("", "noising", ablation)
    _check_picture(out)
    numbers = _numbers(neurons)
    network = calls.load_model(model_for(task, model), device=device, dtype=dtype, bos=bos)
    with memory_limit(memory):
        effects = knock_out(
            network,
            calls.load_task(task, model=network),
            nodes[0] if len(nodes) == 1 else nodes,
            ablation=ablation,
            neurons=numbers,
            each=each,
            metric=metric,
            n=prompts,
            seed=seed,
            split=split,
            batch_size=batch_size,
            task_options=read_settings(task_option, "--task-option"),
        )
    picture = effects.render(out) if out else None
    print_result(effects.to_json() | _drawn(picture), as_json, _ablation_lines(effects, top, picture))


def _check_picture(out: Path | None) -> None:
    """Refuse a picture that cannot be drawn before the model runs."""
    from circuitfind.rendering.image import IMAGE_SUFFIXES, known_suffix

    if out is not None:
        known_suffix(out, IMAGE_SUFFIXES)


def _numbers(neurons: str | None) -> list[int] | str | None:
    """``"3,17"`` to numbers; ``"all"`` and nothing stay."""
    if neurons is None or neurons == "all":
        return neurons
    parts = [part.strip() for part in neurons.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"--neurons {neurons!r}: write numbers separated by commas, such as 3,17,40, or all")
    return [int(part) for part in parts]


def _drawn(picture: Path | None) -> dict[str, str]:
    return {} if picture is None else {"picture": str(picture)}


def _patching_lines(effects: Any, top: int, picture: Path | None) -> Iterable[str]:
    about = effects.provenance
    yield (
        f"{about.model}, {about.task}: {about.n_prompts} {about.split} prompts, {effects.direction}, {about.ablation} "
        f"ablation; {about.unit} {effects.clean.mean():.3f} clean, {effects.corrupted.mean():.3f} corrupted"
    )
    yield f"{effects.meaning}; with its 95 % interval, its share of clean - corrupted, and how many prompts have the part"
    for row in effects.top(top).to_dict("records"):
        at = f" at {row['part']}" if effects.by else ""
        yield f"  {_measured(row)}  {row['component']}{at} ({row['prompts']})"
    if picture:
        yield str(picture)


def _ablation_lines(effects: Any, top: int, picture: Path | None) -> Iterable[str]:
    about = effects.provenance
    yield (
        f"{about.model}, {about.task}: {about.n_prompts} {about.split} prompts, {about.ablation} ablation; {about.unit} "
        f"{effects.before.mean():.3f} before, {effects.everything.mean():.3f} with everything ablated"
    )
    yield "effect > 0: the component helps; with its 95 % interval, its share of what everything costs, and the metric after"
    for row in effects.top(top).to_dict("records"):
        yield f"  {_measured(row)}  {row['after']:9.3f}  {row['component']}"
    if picture:
        yield str(picture)


def _measured(row: dict[str, Any]) -> str:
    return f"{row['effect']:+9.4f}  ({row['low']:+.3f} to {row['high']:+.3f})  {row['share']:+7.1%}"
