"""``python -m circuitfind.truth build NAME``: rebuild a model with a known circuit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitfind.errors import CircuitfindError
from circuitfind.truth.compiled import PROGRAMS
from circuitfind.truth.wired import WIRED

app = typer.Typer(add_completion=False, help="Models whose circuit is known.")


@app.command("list")
def list_models() -> None:
    """Name the models that are built here."""
    for name in (*PROGRAMS, *WIRED):
        typer.echo(name)


@app.command("build")
def build_model(
    name: Annotated[str, typer.Argument(help="a model, see 'list'")],
    out: Annotated[Path | None, typer.Option(help="folder to write; the shipped one if left out")] = None,
    prompts: Annotated[int, typer.Option(help="held-out pairs that its truths are verified on")] = 1000,
) -> None:
    """Compile or wire a model, derive its truths, verify them, and write its folder."""
    from circuitfind.truth.build import build

    try:
        for found in build(name, out, prompts):
            typer.echo(f"{found.model}, {found.ablation}: {found.n_edges} edges, verified on {found.n_prompts} prompts")
    except CircuitfindError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
