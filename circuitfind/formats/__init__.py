"""Files of circuits and scores, ours and other tools': run folders, EAP-IG's JSON, MIB submissions."""

from circuitfind.formats.importances import Importances, importances_of
from circuitfind.formats.mib import pair_name, write_pair
from circuitfind.formats.mib_check import SubmissionCheck, check_submission
from circuitfind.formats.opening import open_circuit, read_scores, settings_beside

__all__ = [
    "Importances",
    "SubmissionCheck",
    "check_submission",
    "importances_of",
    "open_circuit",
    "pair_name",
    "read_scores",
    "settings_beside",
    "write_pair",
]
