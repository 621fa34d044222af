"""Patching by hand: patch activations, knock out components, patch paths, and measure the effect."""

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
