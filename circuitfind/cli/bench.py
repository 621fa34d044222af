"""The commands that compare algorithms: bench, over many settings; compare-algorithms, on one's own behaviour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Json, Signed, app, print_result, read_settings, sayer
from circuitfind.cli.settings import Setting, setting_options
from circuitfind.errors import OptionError
from circuitfind.setting.defaults import N_HELD_OUT

MOST_SHOWN = 20


Workers = Annotated[
    int | None,
    typer.Option(help="Processes, or Ray actors; 0 works in this process (default: one per core)."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only cells whose MODEL/TASK/ALGORITHM/ABLATION/SEED matches this pattern, such as '*/ioi/*'; repeatable."
    ),
]


@app.command()
def bench(
    grid: Annotated[Path | None, typer.Argument(help="A grid in YAML (default: the one that --show prints).")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cells, the tables and the page.")] = Path("results/bench"),
    workers: Workers = None,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster, or 'local' to start one on this machine.")] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed cells again.")] = False,
    only: Only = None,
    algorithm: Annotated[list[str] | None, typer.Option("--algorithm", "-a", help="Only this one; repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only this one; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Only this one; repeatable.")] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Print the cells and the estimate, and measure nothing.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the default grid, as a start for your own.")] = False,
    as_json: Json = False,
) -> None:
    """Run algorithms x tasks x models x ablations x seeds, and compare them (exit code 1 if a cell failed)."""
    from circuitfind.bench import benchmark
    from circuitfind.bench.grid import DEFAULT, read_grid
    from circuitfind.bench.plan import Filters
    from circuitfind.bench.yaml_file import read_yaml

    if show:
        path = grid or DEFAULT
        print_result(read_yaml(path), as_json, path.read_text(encoding="utf-8").splitlines())
        return
    crew = benchmark.Crew(workers, ray)
    filters = Filters(only or (), algorithm or (), task or (), model or ())

    if listing:
        listed = benchmark.list_grid(read_grid(grid), out, crew, filters=filters, retry_failed=retry_failed)
        print_result(listed.to_json(), as_json, listed.lines())
        return
    done = benchmark.run_grid(
        read_grid(grid), out, crew, filters=filters, retry_failed=retry_failed, say=sayer(as_json)
    )
    print_result(done.to_json(), as_json, _lines(done))
    if done.counts["failed"]:
        raise typer.Exit(1)


def _lines(done: Any) -> list[str]:
    counts, failures = done.counts, done.failures()
    lines = [f"FAILED {name}: {failure.type}: {failure.message}" for name, failure in failures[:MOST_SHOWN]]
    if len(failures) > MOST_SHOWN:
        lines.append(f"... {len(failures) - MOST_SHOWN} more in failures.csv")
    lines.append(
        f"{counts['done']} cells done, {counts['failed']} failed, {counts['missing']} missing, {counts['skipped']} skipped"
    )
    if failures:
        lines.append("the same command with --retry-failed tries the failed cells again")
    return [*lines, f"{done.out}/  table.csv, table.parquet, costs.csv, ...  {done.page or ''}".rstrip()]


Algorithms = Annotated[
    str, typer.Option("--algorithms", "-a", help="Two or more names of 'circuitfind algorithms', such as eap,acdc.")
]
Sizes = Annotated[
    str | None,
    typer.Option(help="Sizes of the circuits, such as 50,100,200 (default: 1, 2, 5, 10 and 20 % of all edges)."),
]


@app.command("compare-algorithms")
@setting_options()
def compare_algorithms(
    setting: Setting,
    algorithms: Algorithms = "eap,eap-ig-inputs,acdc",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="ALGORITHM.NAME=VALUE, such as eap-ig-inputs.steps=20; repeatable."),
    ] = None,
    held_out: Annotated[int, typer.Option(help="Pairs for measuring.")] = N_HELD_OUT,
    edges: Sizes = None,
    agree_at: Annotated[
        int | None, typer.Option(help="The size whose circuits are compared (default: the middle one of --edges).")
    ] = None,
    signed: Signed = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page (default: results/TASK/MODEL/compare-algorithms).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare algorithms on your own behaviour: equal sizes on held-out prompts, cost, agreement, and a page.

    All use the same metric and ablation. The same command goes on where it was interrupted.
    """
    from circuitfind.bench.method_files import lines, write_methods
    from circuitfind.bench.methods import compare_algorithms as compared
    from circuitfind.run.pipeline import default_folder

    names, sizes = _names(algorithms), None if edges is None else _numbers(edges)
    setting = setting.but(n_held_out=held_out)
    setting.without_corrupted().refuse_early()
    place = out or default_folder(setting.behaviour.name, setting.transformer.name, "compare-algorithms")
    found = compared(
        setting,
        names,
        options=_options(option),
        edges=sizes,
        agree_at=agree_at,
        absolute=not signed,
        out=place,
        say=sayer(as_json),
    )
    written = [str(path) for path in write_methods(found, place)]
    print_result({**found.to_json(), "files": written}, as_json, ["", *lines(found), "", *written[:1]])


def _names(listed: str) -> list[str]:
    return [name for name in (part.strip() for part in listed.split(",")) if name]


def _numbers(listed: str) -> list[int]:
    try:
        return [int(part) for part in _names(listed)]
    except ValueError:
        raise OptionError(f"--edges {listed}: give whole numbers with commas, such as 50,100,200") from None


def _options(given: list[str] | None) -> dict[str, dict[str, str]]:
    """Options of each algorithm."""
    out: dict[str, dict[str, str]] = {}
    for name, value in read_settings(given, "--option").items():
        algorithm, dot, own = name.partition(".")
        if not dot:
            raise OptionError(f"--option {name}={value}: name the algorithm too, such as eap-ig-inputs.{name}={value}")
        out.setdefault(algorithm, {})[own] = value
    return out
