"""What is claimed of the shipped models trained to a known circuit."""

import numpy as np
import pytest

from circuitfind.errors import UnknownNameError
from circuitfind.transformer import TransformerConfig
from circuitfind.truth import truth_of
from circuitfind.truth.siit.measured import masked_logits, measured_truth
from circuitfind.truth.siit.programs import PROGRAMS
from circuitfind.truth.siit.steps import KnownEdges
from circuitfind.truth.siit.trained import recipe_names, recipe_of
from circuitfind.zoo import card, open_zoo, zoo_config

every_program = pytest.mark.parametrize("name", PROGRAMS)


def test_there_are_sixteen_models_or_more_and_all_of_them_have_a_recipe():
    assert len(recipe_names()) >= 16
    for name in recipe_names():
        config = recipe_of(name).config
        assert all(config.graph().edge_index(edge) >= 0 for edge in recipe_of(name).program.high_level.edges)
    with pytest.raises(UnknownNameError, match="siit-hist-large"):
        recipe_of("siit-hist-larg")


@every_program
def test_a_shipped_models_circuit_is_its_programs(name):
    """On 100 held-out pairs that its card does not speak of."""
    model, program = open_zoo(name), PROGRAMS[name]
    found = measured_truth(model, program, n=100, seed=2)
    assert found["accuracy"] >= 0.99
    assert found["circuit_accuracy"] >= 0.99
    assert found["faithfulness"] == pytest.approx(1, abs=0.03)
    assert found["interchange_accuracy"] >= 0.97
    assert found["smallest_inside"] > 5 * found["largest_outside"]
    assert found["smallest_inside_circuit"] > 5 * found["largest_outside"]
    pairs = program.pairs(100, seed=2)
    kept = KnownEdges.of(program, model.graph)
    mask = np.ones(model.graph.n_edges, dtype=bool)
    full = masked_logits(model, pairs, mask).argmax(-1)
    mask[kept.outside] = False
    assert (masked_logits(model, pairs, mask).argmax(-1) == full).float().mean() >= 0.99


@every_program
def test_a_shipped_truth_is_derived_from_the_program(name):
    model, program = open_zoo(name), PROGRAMS[name]
    truth = truth_of(model, program.task, "corrupted")
    assert truth is not None
    assert (np.flatnonzero(truth.edges) == KnownEdges.of(program, model.graph).inside).all()
    assert truth_of(model, program.task, "zero") is None
    assert truth.verified["pairs"] == 1000
    assert truth.verified["smallest_inside_circuit"] > 5 * truth.verified["largest_outside"]


@every_program
def test_a_shipped_folder_is_finished(name):
    config, recipe = zoo_config(name), recipe_of(name)
    assert TransformerConfig(**config["config"]) == recipe.config
    assert config["trained"]["steps"] == recipe.siit.schedule.steps
    assert config["accuracy"][name]["default"]["first"] >= 0.99
    assert all(f"`{edge}`" in card(name) for edge in truth_of(open_zoo(name), recipe.program.task, "corrupted").names)


def test_circuits_are_of_different_size_and_depth():
    sizes = [len(program.high_level.edges) for program in PROGRAMS.values()]
    assert min(sizes) == 4
    assert sum(size >= 7 for size in sizes) >= 4
    between_heads = {
        name
        for name, program in PROGRAMS.items()
        if any(edge[0] == "a" and "->a" in edge for edge in program.high_level.edges)
    }
    assert {"siit-induction", "siit-two-hop", "siit-add", "siit-ioi"} <= between_heads
