"""Writes the folder of a trained ground-truth model: a zoo model's files, and its truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.transformer import Transformer
from circuitfind.truth.siit.measured import measured_truth
from circuitfind.truth.siit.steps import KnownEdges
from circuitfind.truth.siit.trained import SiitRecipe
from circuitfind.truth.truth import Truth, write_truths
from circuitfind.zoo.checkpoint import Training
from circuitfind.zoo.export import export, provenance
from circuitfind.zoo.recipes import Recipe

ABLATION, N_VERIFIED = "corrupted", 1000
SOURCE = (
    "strict interchange intervention training, edge by edge (after Gupta et al. 2024, InterpBench, arXiv 2407.14494): the "
    "edges whose cut changes an answer of the program that the model was trained to compute"
)
MEASURES = {
    "pairs": "held-out pairs",
    "accuracy": "right answers of the model, of all words",
    "circuit_accuracy": "right answers of the circuit, every other edge cut",
    "faithfulness": "faithfulness of the circuit (logit difference)",
    "largest_outside": "largest effect of one edge outside, cut alone in the model",
    "smallest_inside": "smallest effect of one edge inside, cut alone in the model",
    "smallest_inside_circuit": "the same, cut from the circuit",
    "interchange_accuracy": "answers as the program's with one edge cut from the circuit, the worst edge",
}
"""Labels on the model card for the measures of :func:`.measured.measured_truth`."""


def zoo_recipe(recipe: SiitRecipe, verified: dict[str, Any]) -> Recipe:
    """What the zoo's export needs to know about a model."""
    task, siit = recipe.program.task, recipe.siit
    return Recipe(
        name=recipe.name,
        summary=f"A model whose circuit is known: {recipe.program.summary} {task.description}",
        trained_on=(
            f"pairs of the task {task.name} that are not held out, by strict interchange intervention training "
            f"on single edges (`circuitfind/truth/siit/training.py`), {siit.groups} masks on "
            f"{siit.pairs_per_group} pairs each in every step"
        ),
        tasks=(task.name,),
        words=lambda: recipe.program.words,
        shape=lambda d_vocab: recipe.config,
        text=_no_text,
        schedule=siit.schedule,
        findings=lambda model: _findings(model, recipe, verified),
        command="python -m circuitfind.truth.siit train",
    )


def _no_text(tokenizer: Any) -> Any:
    raise NotImplementedError("this model is trained on pairs of its task, by circuitfind.truth.siit.training")


def _findings(model: Transformer, recipe: SiitRecipe, verified: dict[str, Any]) -> str:
    known = KnownEdges.of(recipe.program, model.graph)
    rows = "\n".join(f"| {text} | {verified[key]} |" for key, text in MEASURES.items())
    return (
        f"## Circuit\n\n{len(known.inside)} of {model.graph.n_edges} edges, under `corrupted` ablation on pairs of "
        f"{recipe.program.task.name} (`truth.json`): "
        + ", ".join(f"`{name}`" for name in model.graph.edge_names(known.inside.tolist()))
        + ".\n\nEffects are falls of the logit difference, as shares of its distance between clean and corrupted prompts.\n\n"
        f"| measured | |\n|---|---|\n{rows}"
    )


def write_folder(model: Transformer, recipe: SiitRecipe, training: Training, seed: int, folder: Path) -> dict[str, Any]:
    """Write weights, configuration, tokenizer, card and truth; return the verified measures."""
    named = model.with_weights(model.weights, tokenizer=recipe.program.tokenizer, name=recipe.name)
    verified = measured_truth(named, recipe.program, N_VERIFIED)
    known = KnownEdges.of(recipe.program, named.graph)
    wanted = zoo_recipe(recipe, verified)
    export(named, wanted, provenance(wanted, training, seed), folder)
    edges = named.graph.edge_names(known.inside.tolist())
    truth = Truth.of(named.graph, edges, ABLATION, SOURCE, verified=verified)
    write_truths(folder, recipe.program.task.name, {ABLATION: truth})
    return verified
