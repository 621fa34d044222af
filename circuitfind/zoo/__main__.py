"""``python -m circuitfind.zoo train NAME``: retrain a zoo model from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from circuitfind.errors import CircuitfindError
from circuitfind.transformer import Transformer
from circuitfind.zoo import folder_of, open_zoo, zoo_config, zoo_names
from circuitfind.zoo.checkpoint import Training
from circuitfind.zoo.export import export, provenance
from circuitfind.zoo.recipes import recipe_of
from circuitfind.zoo.train import train

app = typer.Typer(add_completion=False, help="The models that circuitfind ships.")
console = Console()


@app.command("list")
def list_models() -> None:
    """Name the models."""
    for name in zoo_names():
        console.print(name)


@app.command("train")
def train_model(
    name: Annotated[str, typer.Argument(help="induction-2l or tasks-4l")],
    steps: Annotated[int | None, typer.Option(help="steps; as shipped if left out")] = None,
    seed: Annotated[int, typer.Option(help="decides the initial weights and the text")] = 0,
    threads: Annotated[int, typer.Option(help="processor threads")] = 2,
    out: Annotated[Path | None, typer.Option(help="folder to write; the shipped one if left out")] = None,
    every: Annotated[int, typer.Option(help="steps between two measurements")] = 1000,
) -> None:
    """Train a model from scratch and write its folder; an interrupted training resumes when run again."""
    try:
        _train(name, steps, seed, threads, out or folder_of(name), every)
    except CircuitfindError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _train(name: str, steps: int | None, seed: int, threads: int, folder: Path, every: int) -> None:
    torch.set_num_threads(threads)
    recipe = recipe_of(name)
    if steps is not None:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=steps))
    tokenizer = recipe.tokenizer()

    def report(model: Transformer, training: Training, loss: float) -> None:
        named = Transformer(model.config, model.weights, tokenizer=tokenizer, name=name)
        config = export(named, recipe, provenance(recipe, training, seed), folder)
        console.print(f"step {training.step}, loss {loss:.4f}, {training.seconds:.0f} s")
        _show(config)

    state = folder / "unfinished.safetensors"
    text, shape = recipe.text(tokenizer), recipe.shape(len(tokenizer))
    train(shape, text, recipe.schedule, seed=seed, state=state, every=every, report=report)
    state.unlink(missing_ok=True)
    console.print(f"{name} is in {folder}")


@app.command("measure")
def measure_model(name: Annotated[str, typer.Argument(help="induction-2l or tasks-4l")]) -> None:
    """Measure a shipped model again and rewrite its config.json and CARD.md; the weights stay."""
    try:
        model, trained = open_zoo(name), zoo_config(name)["trained"]
        _show(export(model, recipe_of(name), trained, folder_of(name)))
    except CircuitfindError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _show(config: dict[str, Any]) -> None:
    for task, settings in config["accuracy"].items():
        for setting, measures in settings.items():
            console.print(f"  {task} ({setting}): {measures}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
