"""Files of circuits and scores, ours and other tools'. Each module is one format: how it is recognised, read and written."""

from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.importances import Importances
from circuitfind.formats.opening import load_circuit, open_circuit, open_run, read, read_scores, write, writers

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "Importances",
    "OnDisk",
    "load_circuit",
    "open_circuit",
    "open_run",
    "read",
    "read_scores",
    "write",
    "writers",
]
