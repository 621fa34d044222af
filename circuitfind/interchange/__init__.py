"""Exchange with other tools, and circuits held against each other: EAP-IG's files, MIB submissions, comparisons."""

from circuitfind.interchange.check import SubmissionCheck, check_submission
from circuitfind.interchange.compare import Comparison, compare
from circuitfind.interchange.difference import write_comparison
from circuitfind.interchange.importances import Importances, importances_of
from circuitfind.interchange.mib import pair_name, write_pair
from circuitfind.interchange.sources import open_circuit, read_scores, settings_beside

__all__ = [
    "Comparison",
    "Importances",
    "SubmissionCheck",
    "check_submission",
    "compare",
    "importances_of",
    "open_circuit",
    "pair_name",
    "read_scores",
    "settings_beside",
    "write_comparison",
    "write_pair",
]
