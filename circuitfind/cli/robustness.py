"""Commands that test how well a circuit holds up: hypotheses, stability, certify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.options import AlgorithmOption, Json, Signed, Split, app, print_result, read_settings
from circuitfind.cli.settings import Setting, setting_of_circuit, setting_options

if TYPE_CHECKING:
    from circuitfind.circuit import Circuit
    from circuitfind.scores import EdgeScores

TaskOrRun = Annotated[
    str, typer.Argument(help="A task's name, a file of pairs, or a run folder made with --parts prompt.")
]
Algorithm = Annotated[
    str | None,
    typer.Option("--algorithm", "-a", help="One that can score each prompt separately (default: as for discover)."),
]
Edges = Annotated[
    int | None, typer.Option(help="Size of the circuit (default: the run's; else the smallest faithful one's).")
]


@app.command()
@setting_options(setting_of_circuit)
def hypotheses(
    setting_of: Any,
    circuit: Annotated[Path, typer.Argument(help="A run folder, circuit.json, or an EAP-IG graph JSON.")],
    metric: Annotated[str | None, typer.Option(help="(default: the circuit's, or the task's where that is kl)")] = None,
    split: Split = "held-out",
    alpha: Annotated[float, typer.Option(help="Chance of error allowed, after correction.")] = 0.05,
    eps: Annotated[float, typer.Option(help="How far from 1/2 the chance to beat the model may be.")] = 0.1,
    quantile: Annotated[float, typer.Option(help="Share of random edges or circuits to outdo.")] = 0.9,
    random: Annotated[int, typer.Option(help="Random edges, and random circuits of equal size.")] = 100,
    permutations: Annotated[int, typer.Option(help="Permutations of the independence test.")] = 1000,
    edges: Annotated[int | None, typer.Option(help="Test only N edges, drawn at random, for minimality.")] = None,
    correction: Annotated[str, typer.Option(help="holm or benjamini-hochberg.")] = "holm",
    reference: Annotated[
        str, typer.Option(help="Random circuits to remove are drawn from the model, or from the complement.")
    ] = "model",
    as_json: Json = False,
) -> None:
    """Test five hypotheses about a circuit: equivalence, independence, minimality, sufficiency, partial necessity."""
    from circuitfind.formats import open_run
    from circuitfind.run import calls

    found, run = open_run(circuit)
    tested = calls.hypotheses(
        setting_of(circuit, found, run),
        found,
        split=split,
        alpha=alpha,
        eps=eps,
        quantile=quantile,
        n_random=random,
        n_permutations=permutations,
        edges=edges,
        correction=correction,
        reference=reference,
    )
    print_result(tested.to_json(), as_json, tested.lines())


@app.command()
@setting_options()
def stability(
    setting: Setting,
    task: TaskOrRun = "ioi",
    algorithm: Algorithm = None,
    option: AlgorithmOption = None,
    edges: Edges = None,
    signed: Signed = False,
    resamples: Annotated[int, typer.Option(help="How often the prompts are drawn again.")] = 200,
    as_json: Json = False,
) -> None:
    """Would other draws of the prompts have given the same circuit? (bootstrap; mean Jaccard index)"""
    from circuitfind.evaluation import stability_of

    scores, circuit = _by_prompt(setting, task, algorithm, option, edges, signed)
    found = stability_of(scores, circuit, n_resamples=resamples, seed=setting.seed)
    print_result(found.to_json(), as_json, [found.sentence, f"in all: {', '.join(found.core) or 'none'}"])


@app.command()
@setting_options()
def certify(
    setting: Setting,
    task: TaskOrRun = "ioi",
    algorithm: Algorithm = None,
    option: AlgorithmOption = None,
    edges: Edges = None,
    signed: Signed = False,
    radius: Annotated[int, typer.Option(help="How many prompts may be changed.")] = 1,
    keep: Annotated[float, typer.Option(help="Chance with which a subsample keeps a prompt.")] = 0.5,
    edits: Annotated[str, typer.Option(help="deletions, or any (insertions and replacements too).")] = "deletions",
    samples: Annotated[int, typer.Option(help="How many subsamples.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance that any certificate is wrong.")] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="Write the circuit of the certified edges to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which edges stay in the circuit, or out of it, no matter which few prompts are deleted? (randomised deletion)"""
    from circuitfind.evaluation import certify_edges

    scores, circuit = _by_prompt(setting, task, algorithm, option, edges, signed)
    found = certify_edges(
        scores, circuit, radius=radius, keep=keep, edits=edits, n_samples=samples, alpha=alpha, seed=setting.seed
    )
    if out is not None:
        found.circuit.save(out)
    print_result(found.to_json(), as_json, [*found.lines(), *([str(out)] if out else [])])


def _by_prompt(
    setting: Setting, task: str, algorithm: str | None, option: list[str] | None, edges: int | None, signed: bool
) -> tuple[EdgeScores, Circuit]:
    """Per-prompt scores and the circuit to test: those of a run folder, or found here."""
    from circuitfind.discovery.contract import ALGORITHMS
    from circuitfind.errors import OptionError
    from circuitfind.formats import open_run
    from circuitfind.run import calls, selecting
    from circuitfind.run.request import RunConfig
    from circuitfind.scores import EdgeScores
    from circuitfind.selection.prefixes import smallest_prefix

    if Path(task).is_dir():
        scores, circuit = EdgeScores.load(Path(task) / "scores.safetensors"), open_run(Path(task))[0]
        if scores.parts_axis != "prompt":
            offered = ", ".join(one.name for one in ALGORITHMS if "prompt" in one.parts)
            raise OptionError(
                f"{task} has no scores of every prompt, which this needs: run discover again with --parts prompt and one of "
                f"{offered}"
            )
        return scores, circuit if edges is None else smallest_prefix(scores, edges, absolute=not signed)
    config = RunConfig(algorithm, options=read_settings(option, "--option"), parts="prompt")
    config, options = config.resolved(setting)
    scores = calls.discover(setting, algorithm=config.algorithm, parts="prompt", **options)
    if edges is not None:
        return scores, smallest_prefix(scores, edges, absolute=not signed)
    return scores, selecting.select(scores, setting, absolute=not signed)
