"""Run a model under an edge mask, run a circuit, pull gradients back to receivers.

What cut edges carry is one value in all engines, :class:`.writes.Writes`. The engines, from general to fast, each tested
against the first: :mod:`.masks.dense` (any mask), :mod:`.masks.sparse` (only the nodes of a circuit), and those that compute
again what a change reaches: :mod:`.recompute.single_edge` (one edge cut in an otherwise clean run), :mod:`.recompute.cuts` (a
circuit that loses edges, or regains them), :mod:`.recompute.paths` (a change along paths), :mod:`.recompute.patches` (other
values of whole components, whoever reads them). Gradients, each tested against autograd through the plain loop:
:mod:`.gradients.by_receivers` (in a run on one shared stream), :mod:`.gradients.by_masks` (at any mask).
"""

from circuitfind.execution.ablation import Ablation, prepare_ablation
from circuitfind.execution.batches import Batch, make_batches, require_incorrect
from circuitfind.execution.gradients.by_masks import MaskedRun
from circuitfind.execution.gradients.by_receivers import AttributionPass
from circuitfind.execution.masks.dense import run_masked
from circuitfind.execution.masks.sparse import run_circuit
from circuitfind.execution.measuring import measure_circuits
from circuitfind.execution.recompute.single_edge import single_edge_effects
from circuitfind.execution.writes import Writes
from circuitfind.graph import ABLATIONS

__all__ = [
    "ABLATIONS",
    "Ablation",
    "AttributionPass",
    "Batch",
    "MaskedRun",
    "Writes",
    "make_batches",
    "measure_circuits",
    "prepare_ablation",
    "require_incorrect",
    "run_circuit",
    "run_masked",
    "single_edge_effects",
]
