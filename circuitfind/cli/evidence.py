"""Commands that ask what a circuit is worth: hypotheses, stability, certify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.options import (
    Ablation,
    AlgorithmOption,
    BatchSize,
    Bos,
    Device,
    Dtype,
    Json,
    KvPorts,
    Memory,
    Metric,
    Model,
    Prompts,
    Seed,
    Signed,
    Split,
    TaskOption,
    about,
    app,
    model_for,
    print_result,
    read_settings,
)

if TYPE_CHECKING:
    from circuitfind.circuit import Circuit
    from circuitfind.scores import EdgeScores

TaskOrRun = Annotated[
    str, typer.Argument(help="A task's name, a file of pairs, or a run folder made with --parts prompt.")
]
Algorithm = Annotated[str, typer.Option("--algorithm", "-a", help="One that keeps scores apart by prompt.")]
Edges = Annotated[
    int | None, typer.Option(help="Size of the circuit [default: the run's; else the smallest faithful one's].")
]


@app.command()
def hypotheses(
    circuit: Annotated[Path, typer.Argument(help="A run folder, circuit.json, or an EAP-IG graph JSON.")],
    task: Annotated[str | None, typer.Option(help="Task or file of pairs [default: the circuit's task].")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="[default: the circuit's model]")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Also FILE.py:NAME [default: the circuit's, or the task's where that is kl].")
    ] = None,
    ablation: Annotated[str | None, typer.Option(help="[default: the circuit's]")] = None,
    split: Split = "held-out",
    prompts: Prompts = 128,
    alpha: Annotated[float, typer.Option(help="Chance of error allowed, after correction.")] = 0.05,
    eps: Annotated[float, typer.Option(help="How far from 1/2 the chance to beat the model may be.")] = 0.1,
    quantile: Annotated[float, typer.Option(help="Share of random edges or circuits to outdo.")] = 0.9,
    random: Annotated[int, typer.Option(help="Random edges, and random circuits of equal size.")] = 100,
    permutations: Annotated[int, typer.Option(help="Of the independence test.")] = 1000,
    edges: Annotated[int | None, typer.Option(help="Test only N edges, drawn at random, for minimality.")] = None,
    correction: Annotated[str, typer.Option(help="holm or benjamini-hochberg.")] = "holm",
    reference: Annotated[
        str, typer.Option(help="Random circuits to remove are drawn from the model, or from the complement.")
    ] = "model",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    task_option: Annotated[
        list[str] | None, typer.Option(help="An option of the task, NAME=VALUE [default: the run's].")
    ] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16 [default: the run's].")] = None,
    memory: Memory = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Test five hypotheses about a circuit: equivalence, independence, minimality, sufficiency, partial necessity."""
    from circuitfind.execution.memory import memory_limit
    from circuitfind.formats import open_run
    from circuitfind.run import calls, robustness

    found, settings = open_run(circuit)
    spec, chosen = about(circuit, found, settings, model, task)
    network = calls.load_model(
        spec,
        device=device,
        dtype=dtype or settings.get("dtype") or "float32",
        bos=settings.get("bos") if bos is None else bos,
        kv_ports="group" if found.graph.n_kv_groups else "head",
    )
    with memory_limit(memory):
        tested = robustness.hypotheses(
            network,
            calls.load_task(chosen, model=network),
            found,
            split=split,
            metric=metric,
            ablation=ablation,
            n=prompts,
            seed=seed,
            task_options=read_settings(task_option, "--task-option") if task_option or task else None,
            alpha=alpha,
            eps=eps,
            quantile=quantile,
            n_random=random,
            n_permutations=permutations,
            edges=edges,
            correction=correction,
            reference=reference,
            batch_size=batch_size,
        )
    print_result(tested.to_json(), as_json, tested.lines())


@app.command()
def stability(
    task: TaskOrRun = "ioi",
    model: Model = None,
    algorithm: Algorithm = "eap-ig-inputs",
    option: AlgorithmOption = None,
    task_option: TaskOption = None,
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    edges: Edges = None,
    signed: Signed = False,
    prompts: Prompts = 256,
    resamples: Annotated[int, typer.Option(help="How often the prompts are drawn again.")] = 200,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    bos: Bos = None,
    kv_ports: KvPorts = "head",
    as_json: Json = False,
) -> None:
    """Would other draws of the prompts have given the same circuit? (bootstrap; mean Jaccard index)"""
    from circuitfind.run import robustness

    scores, circuit = _scores(
        task,
        {"model": model, "device": device, "dtype": dtype, "bos": bos, "kv_ports": kv_ports},
        {"algorithm": algorithm, "metric": metric, "ablation": ablation, "n": prompts, "seed": seed},
        option,
        task_option,
        edges,
        signed,
        batch_size,
        memory,
    )
    found = robustness.stability(scores, circuit, n_resamples=resamples, seed=seed)
    print_result(found.to_json(), as_json, [found.sentence, f"in all: {', '.join(found.core) or 'none'}"])


@app.command()
def certify(
    task: TaskOrRun = "ioi",
    model: Model = None,
    algorithm: Algorithm = "eap-ig-inputs",
    option: AlgorithmOption = None,
    task_option: TaskOption = None,
    metric: Metric = None,
    ablation: Ablation = "corrupted",
    edges: Edges = None,
    signed: Signed = False,
    prompts: Prompts = 256,
    radius: Annotated[int, typer.Option(help="How many prompts may be changed.")] = 1,
    keep: Annotated[float, typer.Option(help="Chance with which a subsample keeps a prompt.")] = 0.5,
    edits: Annotated[str, typer.Option(help="deletions, or any (insertions and replacements too).")] = "deletions",
    samples: Annotated[int, typer.Option(help="How many subsamples.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance that any certificate is wrong.")] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="Write the circuit of the certified edges to this JSON file.")
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    bos: Bos = None,
    kv_ports: KvPorts = "head",
    as_json: Json = False,
) -> None:
    """Which edges would stay, and which stay out, whatever few prompts were deleted? (randomised deletion)"""
    from circuitfind.run import robustness

    scores, circuit = _scores(
        task,
        {"model": model, "device": device, "dtype": dtype, "bos": bos, "kv_ports": kv_ports},
        {"algorithm": algorithm, "metric": metric, "ablation": ablation, "n": prompts, "seed": seed},
        option,
        task_option,
        edges,
        signed,
        batch_size,
        memory,
    )
    found = robustness.certify(
        scores, circuit, radius=radius, keep=keep, edits=edits, n_samples=samples, alpha=alpha, seed=seed
    )
    if out is not None:
        found.circuit.save(out)
    print_result(found.to_json(), as_json, [*found.lines(), *([str(out)] if out else [])])


def _scores(
    task: str,
    loading: dict[str, Any],
    finding: dict[str, Any],
    option: list[str] | None,
    task_option: list[str] | None,
    edges: int | None,
    signed: bool,
    batch_size: int | None,
    memory: str | None,
) -> tuple[EdgeScores, Circuit]:
    """Scores of every prompt, and the circuit whose stability is asked for: those of a run folder, or found here."""
    from circuitfind.discovery.contract import ALGORITHMS
    from circuitfind.execution.memory import memory_limit
    from circuitfind.formats import open_run
    from circuitfind.run import calls
    from circuitfind.scores import EdgeScores
    from circuitfind.selection.prefixes import smallest_prefix

    if Path(task).is_dir():
        scores, circuit = EdgeScores.load(Path(task) / "scores.safetensors"), open_run(Path(task))[0]
        return scores, circuit if edges is None else smallest_prefix(scores, edges, absolute=not signed)
    options = ALGORITHMS[finding["algorithm"]].resolve(read_settings(option, "--option"))
    ALGORITHMS[finding["algorithm"]].refuse(finding["ablation"], "prompt")
    with memory_limit(memory):
        network = calls.load_model(model_for(task, loading.pop("model")), **loading)
        behaviour = calls.load_task(task, model=network, metric=finding["metric"])
        how: dict[str, Any] = {**finding, **options, "batch_size": batch_size}
        settings = read_settings(task_option, "--task-option")
        scores = calls.discover(network, behaviour, parts="prompt", task_options=settings, **how)
        if edges is not None:
            return scores, smallest_prefix(scores, edges, absolute=not signed)
        return scores, calls.select(scores, network, behaviour, absolute=not signed, batch_size=batch_size)
