"""Turns names, folders and TransformerLens objects into a checked :class:`~circuitfind.transformer.Transformer`.

This is the only place that imports transformer_lens, and only when a model needs it.
"""

from circuitfind.models.checks import Check, check_model
from circuitfind.models.description import architecture
from circuitfind.models.load import load, open_bridge, open_model, read

__all__ = ["Check", "architecture", "check_model", "load", "open_bridge", "open_model", "read"]
