"""How good a circuit is on prompts it was not found on, how far to trust that, and what the full model does.

one circuit         evaluate_circuit --> verdict              completeness, minimality     hypotheses_of
a ranking           measure_curve --> cpr, cmd                edges_for
against a truth     at_granularity --> roc_auc, pessimistic_roc_auc, pr_auc, mib_auroc
prompts left out    stability_of, certify_edges, from stored scores of every prompt
a benchmark's rows  truth_measures, curve_measures
"""

from circuitfind.evaluation.criteria import Completeness, Knockout, Minimality, Need, completeness, minimality
from circuitfind.evaluation.faithfulness import Evaluation, Measured, evaluate_circuit
from circuitfind.evaluation.full_model.head_roles import HeadRoles, head_roles
from circuitfind.evaluation.full_model.pair_report import CHANCE, PairReport, clean_accuracy, clean_share, report_pairs
from circuitfind.evaluation.hypotheses.five_tests import hypotheses_of
from circuitfind.evaluation.hypotheses.outcomes import HypothesisTest
from circuitfind.evaluation.hypotheses.results import Hypotheses
from circuitfind.evaluation.other_prompts.certificates import Certificate, certify_edges
from circuitfind.evaluation.other_prompts.stability import Stability, stability_of
from circuitfind.evaluation.random_circuits import random_circuits
from circuitfind.evaluation.rankings.areas import (
    MIB_FRACTIONS,
    circuit_points,
    mib_auroc,
    pessimistic_auc_of_points,
    pessimistic_roc_auc,
    pr_auc,
    roc_auc,
    roc_points,
    set_measures,
)
from circuitfind.evaluation.rankings.bench_measures import curve_measures, truth_measures
from circuitfind.evaluation.rankings.curves import (
    Curve,
    curve_of_circuits,
    measure_curve,
    measure_curves,
    measure_node_curves,
)
from circuitfind.evaluation.rankings.granularity import LEVELS, at_granularity
from circuitfind.evaluation.rankings.sizes import TARGETS, edges_for
from circuitfind.evaluation.verdict import FEW_PROMPTS, verdict
from circuitfind.execution.circuit_runner import CircuitRunner

__all__ = [
    "CHANCE",
    "FEW_PROMPTS",
    "LEVELS",
    "MIB_FRACTIONS",
    "TARGETS",
    "Certificate",
    "CircuitRunner",
    "Completeness",
    "Curve",
    "Evaluation",
    "HeadRoles",
    "Hypotheses",
    "HypothesisTest",
    "Knockout",
    "Measured",
    "Minimality",
    "Need",
    "PairReport",
    "Stability",
    "at_granularity",
    "certify_edges",
    "circuit_points",
    "clean_accuracy",
    "clean_share",
    "completeness",
    "curve_measures",
    "curve_of_circuits",
    "edges_for",
    "evaluate_circuit",
    "head_roles",
    "hypotheses_of",
    "measure_curve",
    "measure_curves",
    "measure_node_curves",
    "mib_auroc",
    "minimality",
    "pessimistic_auc_of_points",
    "pessimistic_roc_auc",
    "pr_auc",
    "random_circuits",
    "report_pairs",
    "roc_auc",
    "roc_points",
    "set_measures",
    "stability_of",
    "truth_measures",
    "verdict",
]
