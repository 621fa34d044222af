"""Commands of path patching: path-patch, path-map; and what a circuit's nodes are: tree, roles."""

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
    KvPorts,
    Metric,
    Model,
    Prompts,
    Seed,
    Split,
    TaskName,
    TaskOption,
    about,
    app,
    model_for,
    print_result,
    read_settings,
)

Direction = Annotated[
    str,
    typer.Option(help="noising (ablated values in the clean run) or denoising (clean values in the ablated run)."),
]
Threshold = Annotated[float, typer.Option(help="Share of attention below which a head has no role.")]


@app.command("path-patch")
def path_patch(
    task: TaskName,
    path: Annotated[
        list[str],
        typer.Argument(
            help="One path or several patched together, each in quotes: 'a0.h1 -> a5.h5<k> -> * -> logits'. * is every way "
            "through any nodes, mlps any chain of MLPs."
        ),
    ],
    model: Model = None,
    direction: Direction = "noising",
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    split: Split = "train",
    prompts: Prompts = 256,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOption = None,
    device: Device = None,
    dtype: Dtype = "float32",
    bos: Bos = None,
    kv_ports: KvPorts = "head",
    as_json: Json = False,
) -> None:
    """Measure what a path, or a set of paths, does."""
    from circuitfind.patching import path_patch as patched
    from circuitfind.run import calls

    network = calls.load_model(model_for(task, model), device=device, dtype=dtype, bos=bos, kv_ports=kv_ports)
    effect = patched(
        network,
        calls.load_task(task, model=network),
        path,
        direction=direction,
        metric=metric,
        ablation=ablation,
        split=split,
        n=prompts,
        seed=seed,
        batch_size=batch_size,
        task_options=read_settings(task_option, "--task-option"),
    )
    print_result(effect.to_json(), as_json, [str(effect)])


@app.command("path-map")
def path_map(
    task: TaskName,
    receiver: Annotated[str, typer.Argument(help="A port 'a8.h6<q>', a head a8.h6, an MLP m3, or logits.")],
    model: Model = None,
    through: Annotated[
        str, typer.Option(help="What lies between a sender and the receiver: direct (nothing) or mlps.")
    ] = "direct",
    direction: Direction = "noising",
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    split: Split = "train",
    prompts: Prompts = 256,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: TaskOption = None,
    out: Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.")] = None,
    top: Annotated[int, typer.Option(help="How many senders to print.")] = 15,
    device: Device = None,
    dtype: Dtype = "float32",
    bos: Bos = None,
    kv_ports: KvPorts = "head",
    as_json: Json = False,
) -> None:
    """Measure every sender through one receiver: sender -> RECEIVER -> * -> logits."""
    from circuitfind.patching import path_heat_map
    from circuitfind.run import calls

    network = calls.load_model(model_for(task, model), device=device, dtype=dtype, bos=bos, kv_ports=kv_ports)
    found = path_heat_map(
        network,
        calls.load_task(task, model=network),
        receiver,
        through=through,
        direction=direction,
        metric=metric,
        ablation=ablation,
        split=split,
        n=prompts,
        seed=seed,
        batch_size=batch_size,
        task_options=read_settings(task_option, "--task-option"),
    )
    picture = None if out is None else str(found.render(out))
    lines = [found.text(top), *([picture] if picture else [])]
    print_result({**found.to_json(), "picture": picture}, as_json, lines)


@app.command()
def tree(
    circuit: Annotated[Path, typer.Argument(help="circuit.json, a run folder, or an EAP-IG graph JSON.")],
    task: Annotated[str | None, typer.Option(help="Task or file of pairs [default: the circuit's task].")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="[default: the circuit's model]")] = None,
    roles: Annotated[bool, typer.Option("--roles/--no-roles", help="Write what heads attend to beside them.")] = True,
    threshold: Threshold = 0.3,
    prompts: Prompts = 64,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print a circuit as a tree from the logits down, with effects and heads' roles."""
    from circuitfind.circuit.tree import tree_text
    from circuitfind.formats import open_run
    from circuitfind.run import calls

    loaded, settings = open_run(circuit)
    labels: dict[str, str] = {}
    if roles:
        spec, chosen = about(circuit, loaded, settings, model, task, " (or --no-roles)")
        given = settings.get("task_options") if task is None else None
        network = calls.load_model(spec, device=device, bos=settings.get("bos"))
        found = calls.head_roles(network, chosen, n=prompts, threshold=threshold, task_options=given)
        labels = found.texts()
    text = tree_text(loaded, labels)
    print_result({"tree": text, "roles": labels}, as_json, [text.rstrip("\n")])


@app.command("roles")
def head_roles(
    task: TaskName,
    model: Model = None,
    threshold: Threshold = 0.3,
    prompts: Prompts = 64,
    seed: Seed = 0,
    task_option: TaskOption = None,
    device: Device = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Label heads by what they attend to on a task's prompts."""
    from circuitfind.run import calls

    settings = read_settings(task_option, "--task-option")
    network = calls.load_model(model_for(task, model), device=device, bos=bos)
    found = calls.head_roles(network, task, n=prompts, seed=seed, threshold=threshold, task_options=settings)
    print_result(found.to_json(), as_json, _role_lines(found))


def _role_lines(found: Any) -> Iterable[str]:
    rows = found.by_head()
    for name, roles in rows.items():
        yield f"{name:10} {', '.join(map(str, roles))}"
    yield f"{len(rows)} heads with a share of attention of {found.threshold:g} or more on one of: {', '.join(found.labels)}"
