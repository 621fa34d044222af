"""Run a model under an edge mask, run a circuit, pull gradients back to receivers.

* :mod:`.masks`: the engines that run under a mask. The dense one takes any mask and is the reference for all others. The
  sparse one computes only the nodes of a circuit.
* :mod:`.recompute`: the engines that change something and recompute only what the change reaches. One edge is cut in an
  otherwise clean run; a circuit loses and regains edges; components are patched for all their readers; a change goes along
  paths.
* :mod:`.gradients`: gradients at every receiver of a run on one shared stream, and with respect to every edge's mask value,
  at any mask. Both are tested against autograd through the plain loop.
* :mod:`.writes`: what senders write. The same class holds what cut edges carry; :mod:`.ablation` decides that.
* :mod:`.measuring`: many circuits on many prompts; selection and evaluation call it.
"""

from circuitfind.execution.ablation import Ablation, prepare_ablation
from circuitfind.execution.batches import Batch, make_batches, require_answers, require_corrupted
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
    "require_answers",
    "require_corrupted",
    "run_circuit",
    "run_masked",
    "single_edge_effects",
]
