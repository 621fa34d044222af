"""Commands about formats and other circuits: export, formats, check-submission, compare, leaderboard."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.options import Json, Signed, app, print_result, warned
from circuitfind.errors import OptionError

if TYPE_CHECKING:
    from circuitfind.formats import Contents


DEFAULT_FORMAT = "eap-ig"
"""What a JSON file is written as where no format is named."""
Level = Annotated[str | None, typer.Option(help="mib: importances of edges or nodes: edge, node (default: edge).")]


@app.command()
def export(
    circuits: Annotated[
        list[Path],
        typer.Argument(help="circuit.json, a run folder, scores, or another tool's file; then the file to write."),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="A writable format of 'circuitfind formats' (default: by the file's name; .json is eap-ig). "
            "mib: a folder with a sub-folder for each run."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write, or the submission's folder.")] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="mib: the pair TASK_MODEL of a run; repeatable, in the runs' order (default: by their names)."
        ),
    ] = None,
    circuit_files: Annotated[
        str | None,
        typer.Option("--circuits", help="mib: nine circuits instead of importances: signed, absolute, or both."),
    ] = None,
    level: Level = None,
    force: Annotated[bool, typer.Option("--force", help="mib: replace a pair's folder that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a circuit, or its scores, in another format; or several as a submission to the MIB circuit track.

    EAP-IG's JSON holds all edges if the source is a run folder with their scores, otherwise the kept ones.
    """
    from circuitfind.formats import writers

    if to is not None and to not in writers():
        raise OptionError(f"--to {to}: use one of {', '.join(writers())}")
    if to == "mib":
        how: dict[str, Any] = {"circuits": circuit_files, "level": level or "edge", "force": force}
        with warned() as said:
            written = _submit(circuits, out, pair or [], **how)
        print_result({"folders": list(map(str, written)), "warnings": said}, as_json, map(str, written))
        return
    if pair or circuit_files or level:
        raise OptionError("--pair, --circuits and --level are for --to mib")
    print_result({"file": (file := _write_one(circuits, out, to))}, as_json, [file])


def _write_one(circuits: list[Path], out: Path | None, to: str | None) -> str:
    """Write one circuit into one file; the file's name."""
    sources, file = (circuits, out) if out is not None else (circuits[:-1], circuits[-1])
    if len(sources) != 1:
        suffix = _suffix(to or DEFAULT_FORMAT)
        raise OptionError(f"export writes one circuit into one file: circuitfind export CIRCUIT FILE{suffix}")
    _convert(sources[0], file, _format_of(file, to))
    return str(file)


def _format_of(file: Path, to: str | None) -> str:
    """The format that a file's name ends in; refuse a format that another format's file would be taken for."""
    from circuitfind.formats import FORMATS, writers

    fits = [name for name in writers() if file.suffix.lower() in FORMATS[name].suffixes]
    if to is None:
        if not fits:
            known = sorted({suffix for name in writers() for suffix in FORMATS[name].suffixes})
            raise OptionError(f"{file.name}: the name must end in {', '.join(known)}, or give --to")
        return next((name for name in (DEFAULT_FORMAT, "scores") if name in fits), fits[0])
    if fits and to not in fits:
        raise OptionError(
            f"{file.name} is the name of a {fits[0]} file, not of {to}; end it in {_suffix(to)}, or leave --to away"
        )
    return to


def _suffix(to: str) -> str:
    from circuitfind.formats import FORMATS

    return next(iter(FORMATS[to].suffixes), "")


def _convert(source: Path, file: Path, to: str) -> None:
    from circuitfind.formats import FORMATS, read, write

    found, needs = read(source), FORMATS[to].needs
    whole_blocks = found.graph is not None and found.graph.whole_attention
    write(found, file, to, **(_facts(source, found, needs) if "d_model" in needs or (needs and whole_blocks) else {}))


def _facts(source: Path, found: Contents, names: Iterable[str]) -> dict[str, int]:
    """What a format needs to know about the model, which is loaded to find out."""
    from circuitfind import models

    if not (spec := found.settings.get("model") or found.provenance.model):
        raise OptionError(f"{source} does not name its model, whose width the format needs; give a run folder")
    config = models.load(spec).config
    return {name: getattr(config, name) for name in names}


def _submit(runs: list[Path], out: Path | None, pairs: list[str], **how: Any) -> list[Path]:
    """Write every run's folder of the submission; all names are checked before the first is written."""
    from circuitfind.formats import read, read_scores
    from circuitfind.formats.mib import MODELS, pair_name, write_pair

    if out is None:
        raise OptionError("--to mib writes a folder: name it with --out")
    if pairs and len(pairs) != len(runs):
        raise OptionError(f"{len(pairs)} --pair for {len(runs)} runs: give one for each, in their order, or none")
    found = [read_scores(run) for run in runs]
    known = [scores.scores.provenance for scores in found]
    names = pairs or [pair_name(about.task, about.model) for about in known]
    if twice := {name for name in names if names.count(name) > 1}:
        raise OptionError(f"two runs are of pair {min(twice)}; a submission has one circuit, or ranking, of each")
    written = []
    for run, scores, name in zip(runs, found, names, strict=True):
        if scores.unscored.any():
            raise OptionError(f"{run} leaves edges without a score, but MIB needs one for each edge")
        known_model = (
            name.partition("_")[2] in MODELS
        )  # a model of the benchmark: its width is known without loading it
        facts: dict[str, Any] = {} if known_model else _facts(run, read(run), ("d_model", "n_heads"))
        written += write_pair(out, name, scores.scores, **how, **facts)
    return written


@app.command()
def formats(as_json: Json = False) -> None:
    """List the file formats: which are read wherever a command takes a circuit or scores, and which export writes."""
    from circuitfind.formats import FORMATS

    rows = {
        one.name: {
            "description": one.description,
            "suffixes": list(one.suffixes),
            "read": one.read is not None,
            "written": one.write is not None,
        }
        for one in FORMATS
    }
    lines = (
        f"{name:14} {'read' if row['read'] else '':6} {'written' if row['written'] else '':9} {row['description']}"
        for name, row in rows.items()
    )
    print_result(rows, as_json, lines)


@app.command("check-submission")
def check(
    folder: Annotated[Path, typer.Argument(help="The folder with a sub-folder for each pair.")],
    level: Annotated[str, typer.Option(help="What it will be evaluated as: edge or node.")] = "edge",
    as_json: Json = False,
) -> None:
    """Check a submission to the MIB circuit track before it is handed in (exit code 1 if its loader would refuse it)."""
    from circuitfind.formats.mib_check import check_submission

    found = check_submission(folder, level)
    print_result(found.to_json(), as_json, found.lines())
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more of one model: run folders, circuits, EAP-IG graphs, or files of scores."),
    ],
    edges: Annotated[
        int | None, typer.Option(help="Compare the circuits of the best N edges instead [needs scores of all edges].")
    ] = None,
    signed: Signed = False,
    detail: Annotated[str, typer.Option(help="Detail of the picture: ports, heads, layers or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="A folder for tables and a picture of the difference.")] = None,
    as_json: Json = False,
) -> None:
    """Compare circuits: what they share, what they would share by chance, and how well their scores agree.

    Runs of different models are refused; different tasks, metrics and ablations are named.
    """
    from circuitfind.run import comparison
    from circuitfind.run.comparison_files import lines, write_comparison

    if len(runs) < 2:
        raise OptionError(f"compare takes two or more runs, and was given {runs[0]} alone")
    found = comparison.compare(*runs, top=edges, absolute=not signed)
    written = [] if out is None else write_comparison(found, out, detail=detail)
    paths = [str(path) for path in written]
    print_result({**found.to_json(), "files": paths}, as_json, [*lines(found), *paths])


@app.command()
def leaderboard(
    out: Annotated[Path, typer.Argument(help="The folder of a benchmark, with table.parquet or table.csv.")],
    as_json: Json = False,
) -> None:
    """Write a benchmark's leaderboard: tables, pictures, and a page that needs no network."""
    from circuitfind.bench.leaderboard import leaderboard as made
    from circuitfind.bench.page import write_leaderboard

    page = write_leaderboard(out)
    rows = json.loads(made(out).to_json(orient="records"))
    print_result({"page": str(page), "leaderboard": rows}, as_json, [str(page)])
