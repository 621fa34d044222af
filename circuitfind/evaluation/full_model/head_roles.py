"""What heads do: where they attend on a task's clean prompts, whether they copy, and what the task loses without them.

Every share is a mean of attention probabilities over prompts, so it lies between 0 and 1:

* previous token: from each token to the one before it;
* duplicate token: from a repeated token to its earlier occurrences;
* induction: from a repeated token to the tokens that followed its earlier occurrences (Olsson et al. 2022,
  arXiv:2209.11895);
* ``END -> IO`` and the like: from one of the task's labelled tokens to an earlier one (to any other, if attention is not
  causal).

Attention shows where a head looks, not what it does with what it reads. So two checks stand beside it, see
:mod:`circuitfind.evaluation.full_model.head_checks`: the copying score of its OV circuit, and the effect of cutting it. A head
gets the name of a function (:data:`FUNCTIONS`: those of Wang et al. 2022, arXiv:2211.00593, section 3, and induction) only
where all three agree.

A share is a role if it reaches the threshold and is twice what even attention gives on these prompts (:data:`CLEARLY`): on six
tokens, even attention already spends a quarter on the previous token. A head without a role has no class. It is listed if
cutting it matters (:data:`LARGE`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.evaluation.full_model.head_checks import copying_scores, cut_effects
from circuitfind.execution import Batch, make_batches
from circuitfind.execution.memory import attribution_numbers
from circuitfind.statistics import finite, mean_intervals
from circuitfind.task import TokenPairs, spans_of
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer, attention_patterns

THRESHOLD = 0.3
GENERAL = ("previous token", "duplicate token", "induction")
COPIES = 0.5
"""Copying score above which a head copies what it reads; below its negative, it suppresses it."""
CLEARLY = 2
"""How many times even attention a role's share must be, and how many times the attention from the same labelled token to any
other a function's attention."""
LARGE = 0.1
"""A head without a class is listed if cutting it has at least this share of the largest effect, with 95 % confidence."""
FUNCTIONS = (
    ("name mover", "END -> IO", 1, 1),
    ("negative name mover", "END -> IO", -1, -1),
    ("S-inhibition head", "END -> S2", 0, 1),
    ("duplicate token head", "S2 -> S1", None, 1),
    ("duplicate token head", "duplicate token", None, 1),
    ("induction head", "induction", 1, 1),
    ("previous token head", "previous token", None, 1),
)
"""Names of functions, with what they need: attention; copying (1 copies, -1 suppresses, 0 neither, None any); and whether the
head helps (1) or hurts (-1), with 95 % confidence."""
Shares = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Role:
    """A label and the attention share that it is based on."""

    label: str
    share: float

    def __str__(self) -> str:
        return f"{self.label} {self.share:.2f}"


@dataclass(frozen=True)
class CheckedHead:
    """What a head attends to, and what its checks say.

    Attributes:
        attention: its roles: general ones first, then those of the task's labelled tokens; each kind sorted by share.
        copying: 1 copies what it reads, -1 suppresses it, about 0 is chance; NaN if not measured.
        effect: what the metric loses when the head is cut, and the ends of its 95 % interval over prompts; NaN if not measured.
        name: the name of a function, if attention, copying and effect agree on one; else empty.
    """

    attention: tuple[Role, ...]
    copying: float
    effect: tuple[float, float, float]
    name: str

    def text(self, most: int = 2) -> str:
        """In one line, with the first ``most`` roles."""
        said = [", ".join(map(str, self.attention[:most])) or "no class"]
        said += [f"copying {self.copying:+.2f}"] if np.isfinite(self.copying) else []
        said += [f"effect {self.effect[0]:+.3g}"] if np.isfinite(self.effect[0]) else []
        return (f"{self.name}: " if self.name else "") + "; ".join(said)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        found = {
            "name": self.name,
            "attention": {role.label: role.share for role in self.attention},
            "copying": self.copying,
            "effect": dict(zip(("mean", "low", "high"), self.effect, strict=True)),
        }
        return dict(finite(found))


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """Attention shares of every head, and checks of heads.

    Attributes:
        labels: what was measured, in order; what occurs in no prompt is left out.
        shares: float64 (labels, layers, heads).
        threshold: below this share, a head does not have the role.
        copying: float64 (layers, heads), NaN where not measured.
        effects: what the metric loses without the head, and the ends of its interval, float64 (layers, heads, 3).
        unit: unit of the effects.
        even: the shares that even attention would have, float64 (labels,); None counts as 0.
        n_prompts: on how many prompts this was measured.
    """

    labels: tuple[str, ...]
    shares: Shares
    threshold: float
    copying: Shares
    effects: Shares
    unit: str = ""
    even: Shares | None = None
    n_prompts: int = 0

    @cached_property
    def least(self) -> Shares:
        """The smallest share that is a role, (labels,)."""
        even = np.zeros(len(self.labels)) if self.even is None else self.even
        return np.maximum(self.threshold, CLEARLY * even)

    def of(self, layer: int, head: int) -> list[Role]:
        """A head's roles by attention: general ones first, then those of labelled tokens; each kind sorted by share."""
        mine = self.shares[:, layer, head]
        order = sorted(range(len(mine)), key=lambda n: (self.labels[n] not in GENERAL, -mine[n]))
        return [Role(self.labels[n], float(mine[n])) for n in order if mine[n] >= self.least[n]]

    def checked(self, layer: int, head: int) -> CheckedHead:
        """A head's roles by attention, with its checks."""
        roles, copying = tuple(self.of(layer, head)), float(self.copying[layer, head])
        mean, low, high = self.effects[layer, head].tolist()
        copies = (copying >= COPIES) - (copying <= -COPIES) if np.isfinite(copying) else None
        helps = int(low > 0) - int(high < 0)
        seen = {
            role.label for role in roles if all(role.share >= CLEARLY * other.share for other in _rivals(role, roles))
        }
        fits = [f for f in FUNCTIONS if f[1] in seen and f[2] in (copies, None) and f[3] == helps]
        return CheckedHead(roles, copying, (mean, low, high), fits[0][0] if fits else "")

    def matters(self, layer: int, head: int) -> bool:
        """Whether cutting the head has a large effect, see :data:`LARGE`."""
        mean, low, high = self.effects[layer, head]
        largest = np.nanmax(np.abs(self.effects[..., 0]), initial=0.0)
        return bool((low > 0 or high < 0) and abs(mean) >= LARGE * largest)

    def by_head(self) -> dict[str, CheckedHead]:
        """All heads with a role, and those without one that matter, by name."""
        _, layers, heads = self.shares.shape
        places = ((layer, head) for layer in range(layers) for head in range(heads))
        return {
            f"a{layer}.h{head}": self.checked(layer, head) for layer, head in places if self._is_listed(layer, head)
        }

    def _is_listed(self, layer: int, head: int) -> bool:
        return bool(self.of(layer, head)) or self.matters(layer, head)

    def texts(self, most: int = 2) -> dict[str, str]:
        """Every head of :meth:`by_head` as text: the first ``most`` roles by attention, copying and effect."""
        return {name: head.text(most) for name, head in self.by_head().items()}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        heads = {name: head.to_json() for name, head in self.by_head().items()}
        measured = {"measured": list(self.labels), "least": self.least.tolist(), "prompts": self.n_prompts}
        return {"threshold": self.threshold, **measured, "unit": self.unit, "heads": heads}


def _rivals(role: Role, roles: Sequence[Role]) -> list[Role]:
    """The roles of attention from the same labelled token to others."""
    query = role.label.partition(" -> ")
    return [other for other in roles if query[1] and other != role and other.label.startswith(f"{query[0]} -> ")]


def head_roles(
    model: Transformer,
    pairs: TokenPairs,
    metric: Metric | None = None,
    *,
    ablation: str = "corrupted",
    threshold: float = THRESHOLD,
    batch_size: int | None = None,
    heads: Collection[str] | None = None,
) -> HeadRoles:
    """Measure where every head attends on the clean prompts, whether it copies, and what is lost without it.

    Args:
        pairs: the prompts; if they have labels (``PromptPair.labels``), pairs of labelled tokens are measured too.
        metric: what a head's effect is measured in; None measures no effects, and no head gets the name of a function.
        ablation: what the head's cut edges carry.
        threshold: share of attention, 0 to 1.
        heads: the heads that are checked, such as ``a9.h6``; None checks all.

    Raises:
        OptionError: the threshold is outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold {threshold}: give a share of attention, 0 to 1")
    labels, shares, even = _shares(model, pairs, batch_size)
    shape = shares.shape[1:]
    copying, effects = np.full(shape, np.nan), np.full((*shape, 3), np.nan)
    every = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    chosen = [(layer, head) for layer, head in every if heads is None or f"a{layer}.h{head}" in heads]
    if chosen:
        where = tuple(np.array(chosen).T)
        copying[where] = copying_scores(model, pairs, chosen)
        if metric is not None:
            lost = cut_effects(model, pairs, metric, ablation, chosen, batch_size)
            effects[where] = np.column_stack([lost.mean(-1), mean_intervals(lost)])
    unit = "" if metric is None else metric.unit
    return HeadRoles(labels, shares, threshold, copying, effects, unit, even, pairs.n_pairs)


def _shares(model: Transformer, pairs: TokenPairs, batch_size: int | None) -> tuple[tuple[str, ...], Shares, Shares]:
    """What was measured, the shares of attention (labels, layers, heads), and those of even attention (labels,)."""
    names, places = _labelled(model, pairs)
    spots = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    labels = (*GENERAL, *(f"{names[a]} -> {names[b]}" for a, b in spots))
    shape = len(labels), model.config.n_layers, model.config.n_heads
    sums, counts, even = np.zeros(shape), np.zeros(len(labels)), np.zeros(len(labels))
    with torch.inference_mode():
        for batch in make_batches(model, pairs, batch_size, attribution_numbers(model)):
            between = _between(batch, places, spots, model.config.causal)
            wanted = [part.to(model.device) for part in (*_places(batch), *between)]
            counts += [int(part.any(-1).sum()) for part in wanted]  # queries that have such a key
            even += [float((part.sum(-1) / _visible(batch, model).to(part.device)).sum()) for part in wanted]
            for layer, attention in enumerate(attention_patterns(model, batch.clean)):
                for number, part in enumerate(wanted):
                    sums[number, layer] += attention[:, part].double().sum(-1).cpu().numpy()
    seen = np.flatnonzero(counts)
    return tuple(labels[number] for number in seen), sums[seen] / counts[seen, None, None], even[seen] / counts[seen]


def _visible(batch: Batch, model: Transformer) -> Tensor:
    """How many tokens each token may attend to, (prompts, positions)."""
    n = batch.clean.shape[1]
    return (
        torch.arange(1, n + 1).expand(len(batch.clean), n)
        if model.config.causal
        else batch.real.sum(1, keepdim=True).expand(-1, n)
    )


def _labelled(model: Transformer, pairs: TokenPairs) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
    """Names of labelled tokens, and the label of every token (-1 for none), (prompts, positions)."""
    if pairs.text is None or model.tokenizer is None or not any(pair.labels for pair in pairs.text):
        return (), np.full(pairs.clean.shape, -1)
    spans = spans_of(pairs, "span", model.tokenizer)
    return spans.labels[1:], spans.of - 1


def _places(batch: Batch) -> Sequence[Tensor]:
    """Which (query, key) pairs count as previous token, duplicate token and induction: boolean (prompts, queries, keys)."""
    tokens, real = batch.clean.cpu(), batch.real.cpu()
    n = tokens.shape[1]
    query, key = torch.arange(n)[:, None], torch.arange(n)
    asked = real[:, :, None]
    previous = (key == query - 1).expand(len(tokens), n, n) & asked
    said = (tokens[:, :, None] == tokens[:, None]) & (key < query) & asked
    after = torch.zeros_like(said)
    after[:, :, 1:] = said[:, :, :-1]
    return previous, said, after & (key < query)


def _between(
    batch: Batch, places: np.ndarray[Any, Any], spots: Sequence[tuple[int, int]], causal: bool
) -> Iterator[Tensor]:
    """:func:`_places` for pairs of labelled tokens."""
    label = torch.from_numpy(places[batch.rows, : batch.clean.shape[1]])
    n = label.shape[1]
    seen = torch.ones((n, n), dtype=torch.bool).tril(-1 if causal else n)
    for a, b in spots:
        yield (label == a)[:, :, None] & (label == b)[:, None] & seen
