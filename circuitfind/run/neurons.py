"""Neurons as nodes: which of them, chosen before any edge is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from circuitfind.discovery.contract.neurons import score_neurons as scored
from circuitfind.errors import OptionError
from circuitfind.execution.memory import budget
from circuitfind.progress import Checkpoint
from circuitfind.scores.neurons import NeuronScores
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting

N_NEURONS = 200
BYTES_PER_EDGE = 64
"""What scores, a ranking and a few masks take."""


@in_setting()
def score_neurons(setting: Setting, *, method: str = "relp", checkpoint: Checkpoint | None = None) -> NeuronScores:
    """Estimate the effect of every neuron on the train split; see :mod:`circuitfind.discovery.contract.neurons`.

    Args:
        method: ``"relp"`` or ``"gim"`` (coefficients in the clean run), ``"gradient"`` (in the clean run), or ``"integrated"``
            (five gradients on the way from the corrupted to the clean embedding).

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.score_neurons("tasks-4l", "greater-than", n=8)
        >>> list(scores.to_frame(3).columns)
        ['name', 'layer', 'neuron', 'score']
    """
    problem = setting.problem("train")
    return scored(replace(problem, checkpoint=checkpoint or Checkpoint()), method)


@in_setting()
def with_neurons(
    setting: Setting,
    keep: int = N_NEURONS,
    *,
    threshold: float = 0.0,
    method: str = "relp",
    say: Callable[[str], None] = lambda line: None,
) -> Setting:
    """The same setting with the ``keep`` strongest neurons as nodes of the graph; the rest of each MLP stays one node.

    Args:
        keep: how many neurons, over all layers.
        threshold: leave out neurons whose score is smaller than this by size, in the metric's unit.
        method: how neurons are scored; see :func:`score_neurons`.
        say: called with a line about what was chosen and what was left out.

    Raises:
        OptionError: the model has no neurons that could be nodes, or so many edges do not fit into memory.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.with_neurons(cf.Setting("ioi", n=8), 20)
        >>> setting.transformer.graph.n_senders - 37
        20
        >>> scores = cf.discover(setting, algorithm="relp")
        >>> len(scores.values) == setting.transformer.graph.n_edges
        True
    """
    whole = setting.but(neuron_nodes=())
    found = score_neurons(whole, method=method)
    chosen = found.top(keep, threshold)
    narrowed = whole.but(neuron_nodes=chosen)  # with the prompts and the weights that are loaded now
    graph, limit = narrowed.transformer.graph, budget(setting.transformer.device)
    if graph.n_edges * BYTES_PER_EDGE > limit:
        raise OptionError(
            f"{keep} neurons as nodes make {graph.n_edges:,} edges, which take {graph.n_edges * BYTES_PER_EDGE / 1e9:.1f} GB; "
            f"{limit / 1e9:.1f} GB may be used. Ask for fewer neurons, or allow more memory"
        )
    several, megabytes = sum(map(len, chosen)), graph.n_edges * BYTES_PER_EDGE / 1e6
    say(
        f"{several} of {found.values.size:,} neurons are nodes: they hold {found.share(chosen):.0%} of the sum of all neurons' "
        f"scores by size ({method}); the others stay in their MLPs. {graph.n_edges:,} edges, {megabytes:.0f} MB"
    )
    return narrowed
