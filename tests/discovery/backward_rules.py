"""Attribution under a backward rule, by autograd with parts detached."""

import naive
import numpy as np
from attribution import targets_of
from builders import prompt
from naive_runs import naive_ablated

from circuitfind.task.metrics import METRICS
from circuitfind.transformer import BackwardRule

GIM = BackwardRule(constant_norms=True, temperature=2.0, attention_share=0.5, gate_share=0.5, constant_router=True)


def naive_scores(model, pairs, metric="logit-diff", ablation="corrupted", **options):
    """(prompts, edges)"""
    ablated = naive_ablated(model, pairs, ablation)
    rows = [
        naive.edge_attribution(
            model, prompt(pairs, row), ablated[row], METRICS[metric], targets_of(pairs, row), **options
        )
        for row in range(len(pairs))
    ]
    return np.array([[found[name] for name in model.graph.edge_names()] for found in rows])
