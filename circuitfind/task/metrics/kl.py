"""The KL divergence from the full model on the clean prompts: 0 is the same distribution; less is better.

Answers of several tokens: the mean over the positions of all tokens of all answers.
"""

import torch
from torch import Tensor

from circuitfind.task.metrics.answers import mean_of_steps
from circuitfind.task.metrics.contract import METRICS, Metric, OverTokens, Targets


def kl_divergence(logits: Tensor, targets: Targets) -> Tensor:
    """KL(full model on clean || these logits) over the whole vocabulary, in nats (Conmy et al. 2023, section 3)."""
    log_probs, probs = targets.clean_log_probs
    assert targets.clean_logits is not None
    change = logits - targets.clean_logits  # small near the full model, which avoids cancellation
    return (log_probs + change).logsumexp(-1) - torch.linalg.vecdot(probs, change)


METRICS.add(
    Metric(
        "kl",
        "KL to the full model in nats",
        kl_divergence,
        larger_is_better=False,
        flat_at_clean=True,
        over_tokens=OverTokens(kl_divergence, mean_of_steps),
    )
)
