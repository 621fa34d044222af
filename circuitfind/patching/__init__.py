"""By hand: patch activations, knock components out, change paths, and measure what follows."""

from circuitfind.patching.activation import activation_patch
from circuitfind.patching.component_effects import PatchingEffects
from circuitfind.patching.knock_out import AblationEffects, ablate
from circuitfind.patching.path_effect import PathEffect, path_patch
from circuitfind.patching.path_map import PathHeatMap, path_heat_map

__all__ = [
    "AblationEffects",
    "PatchingEffects",
    "PathEffect",
    "PathHeatMap",
    "ablate",
    "activation_patch",
    "path_heat_map",
    "path_patch",
]
