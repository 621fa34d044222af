"""Commands for the stages of the method: discover, evaluate, render; and replay, which checks logged decisions again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import (
    AlgorithmOption,
    Device,
    Dtype,
    Json,
    Signed,
    Split,
    app,
    print_result,
    read_settings,
    sayer,
)
from circuitfind.cli.settings import Setting, setting_of_circuit, setting_options
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.setting.defaults import FAITHFULNESS, N_HELD_OUT, N_RANDOM

Random = Annotated[int, typer.Option(help="Random circuits of equal size, as a control.")]


def _rule(
    faithfulness: float | None, edges: int | None, threshold: float | None, greedy: int | None
) -> tuple[str, float]:
    rules = {"faithfulness": faithfulness, "top": edges, "threshold": threshold, "greedy": greedy}
    given = {name: float(value) for name, value in rules.items() if value is not None}
    if len(given) > 1:
        raise OptionError("give one of --faithfulness, --edges, --threshold and --greedy, not several")
    return next(iter(given.items()), ("default", FAITHFULNESS))


Data = Annotated[
    Path | None, typer.Option("--data", "-d", help="Your own pairs instead: CSV, JSONL, JSON, or a Python file.")
]
AlgorithmName = Annotated[
    str | None,
    typer.Option(
        "--algorithm",
        "-a",
        help="See 'circuitfind algorithms' (default: eap-ig-inputs under corrupted ablation, else eap-ig-activations).",
    ),
]
Faithfulness = Annotated[
    float | None,
    typer.Option(
        help=f"Keep the smallest circuit that reaches this on the train split (default: {FAITHFULNESS}; acdc's is its own)."
    ),
]
Parts = Annotated[
    str,
    typer.Option(
        help="Also keep scores per 'prompt', or find the circuit per 'position' or labelled 'span' of the prompt too, or per "
        "position for each 'length' of prompt."
    ),
]
NodesOf = Annotated[
    str, typer.Option("--nodes", help="heads: heads and whole MLPs; neurons: the strongest neurons of MLPs as well.")
]
Neurons = Annotated[int | None, typer.Option(help="How many neurons are nodes (default with --nodes neurons: 200).")]
Workers = Annotated[
    int, typer.Option(help="Share the prompts out over N Ray workers, one GPU (or CPU core) each; 0: this process.")
]


@app.command()
@setting_options()
def discover(
    setting: Setting,
    task: Annotated[
        str | None, typer.Argument(help="A task's name (see 'circuitfind tasks'), or a file of pairs (default: ioi).")
    ] = None,
    data: Data = None,
    algorithm: AlgorithmName = None,
    option: AlgorithmOption = None,
    faithfulness: Faithfulness = None,
    edges: Annotated[int | None, typer.Option("--edges", "--top", help="Keep the best N edges instead.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Keep edges at least this important instead.")] = None,
    greedy: Annotated[int | None, typer.Option(help="Grow N edges from the logits instead.")] = None,
    signed: Signed = False,
    held_out: Annotated[int, typer.Option("--held-out", "--n-held-out", help="Pairs for evaluation.")] = N_HELD_OUT,
    random: Random = N_RANDOM,
    parts: Parts = "",
    nodes: NodesOf = "heads",
    neurons: Neurons = None,
    workers: Workers = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: results/TASK/MODEL/ALGORITHM).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run folder that exists.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Continue even if the model cannot do the task.")] = False,
    as_json: Json = False,
) -> None:
    """Find, measure and draw the circuit of a behaviour (no argument: IOI on the zoo model tasks-4l)."""
    from circuitfind.run.pipeline import RunConfig, run

    options, rule = read_settings(option, "--option"), _rule(faithfulness, edges, threshold, greedy)
    n_neurons = _n_neurons(nodes, neurons)
    config = RunConfig(algorithm, options, *rule, not signed, random, parts, anyway, workers, n_neurons)
    setting = setting.but(task=_task_or_data(task, data), n_held_out=held_out)
    result = run(setting, config, out, force=force, say=sayer(as_json))
    summary = {"folder": str(result.folder), "verdict": result.sentences, **result.evaluation.to_json()}
    summary.pop("per_example")
    if result.by_part is not None:
        summary["positional"] = result.by_part[1].to_json()
        summary["positional"].pop("per_example")
    print_result(summary, as_json, _discovery_lines(result))


def _n_neurons(nodes: str, neurons: int | None) -> int:
    """How many neurons are to be nodes."""
    from circuitfind.run.neurons import N_NEURONS

    if nodes not in ("heads", "neurons"):
        raise UnknownNameError("nodes", nodes, ("heads", "neurons"))
    if nodes == "heads" and neurons:
        raise OptionError(f"--neurons {neurons} goes with --nodes neurons")
    if neurons is not None and neurons < 1:
        raise OptionError(f"--neurons {neurons}: give at least 1, or --nodes heads")
    return 0 if nodes == "heads" else neurons or N_NEURONS


def _task_or_data(task: str | None, data: Path | None) -> str:
    """The task or the file of pairs that the command was given; ``ioi`` by default."""
    if task is not None and data is not None:
        raise OptionError(f"give a task ({task}) or --data ({data}), not both")
    if data is not None and not data.suffix:  # otherwise it would be read as a task's name
        raise OptionError(f"--data {data}: give a file of pairs (.csv, .tsv, .jsonl, .json) or a Python file")
    return str(data) if data is not None else task or "ioi"


def _discovery_lines(result: Any) -> Iterable[str]:
    yield ""
    about = result.scores.provenance
    yield f"strongest edges ({about.unit}; positive helps):" if about.signed else "strongest edges (sizes, no sign):"
    for row in result.circuit.edges[:12]:
        yield f"  {row['score']:+9.4f}  {row['name']}"
    if result.circuit.n_edges > 12:
        yield f"  ... {result.circuit.n_edges - 12} more in edges.csv"
    yield ""
    yield from result.sentences
    yield ""
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result.seconds.items())
    positional = "positional.svg, positional.json, " if result.by_part else ""
    yield f"{result.folder}/  circuit.svg, circuit.json, evaluation.json, {positional}...  ({seconds})"


Edges = Annotated[int | None, typer.Option(help="Of a file of scores: the circuit of the best N edges.")]
Threshold = Annotated[float | None, typer.Option(help="Of a file of scores: the edges at least this important.")]
Greedy = Annotated[int | None, typer.Option(help="Of a file of scores: N edges grown from the logits.")]
Nodes = Annotated[int | None, typer.Option(help="Of a file of nodes' scores: all edges between the best N.")]
Holder = Annotated[
    Path,
    typer.Argument(
        help="circuit.json, positional.json, a run folder, an EAP-IG graph JSON, or a file of scores (with --edges N)."
    ),
]


def _open(
    path: Path,
    edges: int | None,
    threshold: float | None,
    greedy: int | None,
    nodes: int | None,
    signed: bool,
    ablation: str | None = None,
) -> Any:
    """A file's circuit, or one chosen from its scores."""
    from circuitfind.formats import open_circuit

    rules = {"top": edges, "threshold": threshold, "greedy": greedy, "nodes": nodes}
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) > 1:
        raise OptionError("give one of --edges, --threshold, --greedy and --nodes, not several")
    rule, value = next(iter(given.items()), (None, 0))
    return open_circuit(path, rule, value, absolute=not signed, ablation=ablation)


@app.command()
@setting_options(setting_of_circuit)
def evaluate(
    setting_of: Any,
    circuit: Holder,
    ablation: Annotated[str | None, typer.Option(help="(default: the circuit's)")] = None,
    split: Split = "held-out",
    random: Random = N_RANDOM,
    edges: Edges = None,
    threshold: Threshold = None,
    greedy: Greedy = None,
    nodes: Nodes = None,
    signed: Signed = False,
    as_json: Json = False,
) -> None:
    """Measure a circuit on held-out prompts, next to random circuits of equal size."""
    from circuitfind.evaluation import verdict
    from circuitfind.run import calls

    loaded, run = _open(circuit, edges, threshold, greedy, nodes, signed, ablation)
    setting = setting_of(circuit, loaded, run)
    measured = calls.evaluate(setting, loaded, split=split, n_random=random)
    about = f"model {setting.transformer.name}, task {setting.behaviour.name}, {measured.ablation} ablation"
    print_result(measured.to_json(), as_json, [about, *verdict(loaded, measured)])


Detail = Annotated[
    str, typer.Option(help="ports, heads, layers, or auto: ports up to 60 edges, then the 60 strongest lines.")
]
Strongest = Annotated[
    int | None, typer.Option("--strongest", "--top", help="Draw the N strongest edges, and say how many are left out.")
]
Title = Annotated[str | None, typer.Option(help="The line on top, instead of task and model; an empty text for none.")]
Caption = Annotated[bool, typer.Option("--caption/--no-caption", help="Sentences below the picture.")]
Legend = Annotated[bool, typer.Option("--legend/--no-legend", help="Colours, widths and letters explained below.")]
ByPart = Annotated[
    bool, typer.Option("--parts/--no-parts", help="Of a run with parts of the prompt: draw them, or the plain circuit.")
]
Size = Annotated[str | None, typer.Option(help="column (3.3 in) or page (6.9 in) of a paper, with legible text.")]
FontName = Annotated[
    str | None, typer.Option(help="A font of this machine (default: DejaVu Sans, the same on every machine).")
]


@app.command()
def render(
    circuit: Holder,
    out: Annotated[
        Path | None, typer.Argument(help="Picture: .svg, .png, .pdf or .dot (default: an .svg beside the circuit).")
    ] = None,
    detail: Detail = "auto",
    top: Strongest = None,
    title: Title = None,
    caption: Caption = True,
    legend: Legend = True,
    parts: ByPart = True,
    size: Size = None,
    font: FontName = None,
    edges: Edges = None,
    threshold: Threshold = None,
    greedy: Greedy = None,
    nodes: Nodes = None,
    signed: Signed = False,
    as_json: Json = False,
) -> None:
    """Draw a circuit as SVG, PNG, PDF or DOT text."""
    from circuitfind import rendering
    from circuitfind.run import calls

    chosen = any(rule is not None for rule in (edges, threshold, greedy, nodes))
    drawn = _drawn(circuit, parts and not chosen)
    loaded, settings = _open(drawn, edges, threshold, greedy, nodes, signed)
    if loaded.parts and not parts:
        raise OptionError(f"{circuit} holds a circuit by parts of the prompt; without --no-parts it is drawn")
    sayer(as_json)(_said(loaded, _drawn(circuit, True) != circuit))
    file = drawn / "circuit.json" if drawn.is_dir() else drawn
    how: dict[str, Any] = {"title": title, "caption": caption, "legend": legend, "strongest": top, "size": size}
    path = calls.render(
        loaded,
        out or file.with_name("positional.svg" if loaded.parts else "circuit.svg"),
        **how,
        font=font or rendering.FONT,
        evaluation=_evaluation_beside(file) if settings and not chosen else None,
        detail=detail,
    )
    print_result({"picture": str(path), "circuit": str(file)}, as_json, [str(path)])


def _drawn(circuit: Path, parts: bool) -> Path:
    """What is drawn of a run or a file: the circuit by parts of the prompt, if it is wanted and there."""
    from circuitfind.formats.circuit_json import BY_PART

    by_part = circuit / BY_PART
    return by_part if parts and by_part.exists() else circuit


def _evaluation_beside(file: Path) -> dict[str, Any] | None:
    """The evaluation that a run folder holds for one of its circuits, if there is one."""
    from circuitfind.circuit.json_file import read_object
    from circuitfind.formats.circuit_json import CIRCUITS

    measured = file.with_name(CIRCUITS.get(file.name, "evaluation.json"))
    return read_object(measured) if measured.exists() else None


def _said(circuit: Any, choice: bool) -> str:
    """Which circuit was drawn, and how to get the other one of a run with parts of the prompt."""
    edges = f"{circuit.n_edges:,} edge{'s' * (circuit.n_edges != 1)}"
    if circuit.layout is not None:
        said = f"the circuit by parts of the prompt, {edges}"
        return f"{said}; --no-parts draws the plain one" if choice else said
    return f"the plain circuit, {edges}; --parts draws it by parts of the prompt" if choice else f"a circuit of {edges}"


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="A run folder of acdc, or the decisions.csv in it.")],
    threshold: Annotated[float | None, typer.Option(help="One threshold of a sweep (default: all).")] = None,
    steps: Annotated[int | None, typer.Option(help="Only the first N tests.")] = None,
    device: Device = None,
    dtype: Dtype = "float64",
    as_json: Json = False,
) -> None:
    """Check every decision of a run again, one plain forward pass each (exit code 1 if any disagrees)."""
    from circuitfind.run.replay import replay_decisions

    replays = replay_decisions(run, threshold=threshold, steps=steps, dtype=dtype, device=device)
    passed = all(replay.passed for replay in replays)
    lines = [sentence for replay in replays for sentence in replay.sentences()]
    print_result({"passed": passed, "thresholds": [replay.to_json() for replay in replays]}, as_json, lines)
    if not passed:
        raise typer.Exit(1)
