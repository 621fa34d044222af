"""``python -m circuitfind.truth.siit train NAME``: retrain a ground-truth model from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.transformer import Transformer
from circuitfind.truth.siit.model_folder import write_folder
from circuitfind.truth.siit.programs import PROGRAMS
from circuitfind.truth.siit.trained import recipe_names, recipe_of
from circuitfind.truth.siit.training import model_weights, train
from circuitfind.zoo import folder_of
from circuitfind.zoo.checkpoint import Training

app = typer.Typer(add_completion=False, help="Models whose circuit is known because they were trained to have it.")
console = Console()


@app.command("list")
def list_models() -> None:
    """Name the models, those that are shipped first."""
    for name in recipe_names():
        console.print(name)


@app.command("train")
def train_model(
    name: Annotated[str, typer.Argument(help="a model of 'list'; none with --all")] = "",
    every_one: Annotated[bool, typer.Option("--all", help="all models of 'list', below --out")] = False,
    seed: Annotated[int, typer.Option(help="decides the initial weights, the pairs and the masks")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="folder to write; the shipped one if left out, where there is one")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="steps; as shipped if left out")] = None,
    threads: Annotated[int, typer.Option(help="processor threads")] = 1,
) -> None:
    """Train a model, verify it and write its folder; an interrupted training resumes when run again."""
    torch.set_num_threads(threads)
    try:
        if every_one == bool(name) or (every_one and out is None):
            raise OptionError("name one model, or give --all and --out FOLDER")
        for each in recipe_names() if every_one else (name,):
            folder = out / each.replace("-", "_") if every_one and out else out
            _train(each, seed, folder or _shipped_folder(each), steps)
    except CircuitfindError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _shipped_folder(name: str) -> Path:
    if name not in PROGRAMS and name in recipe_names():
        raise OptionError(f"{name} is not shipped; say where to write it with --out FOLDER")
    return folder_of(name)


def _train(name: str, seed: int, folder: Path, steps: int | None) -> None:
    recipe = recipe_of(name).with_steps(steps)

    def report(model: Transformer, training: Training, loss: float) -> None:
        console.print(f"{name}: step {training.step}, loss {loss:.4f}, {training.seconds:.0f} s", highlight=False)

    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "unfinished.safetensors"
    training = train(recipe.program, recipe.config, recipe.siit, seed=seed, state=state, report=report)
    model = Transformer(recipe.config, model_weights(training))
    console.print(write_folder(model, recipe, training, seed, folder))
    state.unlink(missing_ok=True)
    console.print(f"{name} is in {folder}")


if __name__ == "__main__":
    app()
