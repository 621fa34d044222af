"""Turns names, folders and TransformerLens objects into a checked :class:`~circuitfind.transformer.Transformer`.

This is the only place that imports transformer_lens, and only when a model needs it.
"""

from circuitfind.models.checks import Check, check_model
from circuitfind.models.description import architecture
from circuitfind.models.load import dtype_name, is_folder, load, open_bridge, open_model, read
from circuitfind.models.own import model_from_weights
from circuitfind.models.own_folder import save_model

__all__ = [
    "Check",
    "architecture",
    "check_model",
    "dtype_name",
    "is_folder",
    "load",
    "model_from_weights",
    "open_bridge",
    "open_model",
    "read",
    "save_model",
]
