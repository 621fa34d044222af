"""How good a circuit is on prompts it was not found on, and what that is worth."""

from circuitfind.evaluation.certified import Certificate, certify_edges
from circuitfind.evaluation.faithfulness import Evaluation, evaluate_circuit
from circuitfind.evaluation.hypotheses import hypotheses_of
from circuitfind.evaluation.hypothesis_results import Hypotheses
from circuitfind.evaluation.hypothesis_tests import HypothesisTest
from circuitfind.evaluation.pair_report import CHANCE, PairReport, clean_accuracy, report_pairs
from circuitfind.evaluation.random_circuits import random_circuits
from circuitfind.evaluation.roles import HeadRoles, head_roles
from circuitfind.evaluation.stability import Stability, stability_of
from circuitfind.evaluation.verdict import FEW_PROMPTS, positional_verdict, verdict

__all__ = [
    "CHANCE",
    "FEW_PROMPTS",
    "Certificate",
    "Evaluation",
    "HeadRoles",
    "Hypotheses",
    "HypothesisTest",
    "PairReport",
    "Stability",
    "certify_edges",
    "clean_accuracy",
    "evaluate_circuit",
    "head_roles",
    "hypotheses_of",
    "positional_verdict",
    "random_circuits",
    "report_pairs",
    "stability_of",
    "verdict",
]
