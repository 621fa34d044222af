"""What heads do, by what they attend to on a task's clean prompts.

Every share is a mean of attention probabilities over prompts, so it lies between 0 and 1:

* previous token: from each token to the one before it;
* duplicate token: from a repeated token to its earlier occurrences;
* induction: from a repeated token to the tokens that followed its earlier occurrences (Olsson et al. 2022,
  arXiv:2209.11895);
* ``END -> IO`` and the like: from one of the task's labelled tokens to an earlier one (to any other, if attention is not
  causal). In IOI, ``END -> IO`` is the attention of the name movers of Wang et al. 2022 (arXiv:2211.00593, section 3),
  ``END -> S2`` that of their S-inhibition heads, and ``S2 -> S1`` that of their duplicate token heads.

Attention shows where a head looks, not what it does with what it reads: negative name movers attend to IO as well. A head
whose largest share is below the threshold has no role.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.execution import Batch, make_batches
from circuitfind.execution.memory import attribution_numbers
from circuitfind.task import TokenPairs, spans_of
from circuitfind.transformer import Transformer, attention_patterns

THRESHOLD = 0.3
GENERAL = ("previous token", "duplicate token", "induction")
LIKE = {("END", "IO"): "name mover", ("END", "S2"): "S-inhibition", ("S2", "S1"): "duplicate token"}
"""Classes of heads in the IOI paper, by the labelled tokens they attend from and to."""
Shares = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Role:
    """A label and the attention share that it is based on."""

    label: str
    share: float

    def __str__(self) -> str:
        return f"{self.label} {self.share:.2f}"


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """Attention shares of every head.

    Attributes:
        labels: what was measured, in order; what occurs in no prompt is left out.
        shares: float64 (labels, layers, heads).
        threshold: below this share, a head does not have the role.
    """

    labels: tuple[str, ...]
    shares: Shares
    threshold: float = THRESHOLD

    def of(self, layer: int, head: int) -> list[Role]:
        """A head's roles: general ones first, then those of the task's labelled tokens; each kind sorted by share."""
        mine = self.shares[:, layer, head]
        order = sorted(range(len(mine)), key=lambda n: (self.labels[n] not in GENERAL, -mine[n]))
        return [Role(self.labels[n], float(mine[n])) for n in order if mine[n] >= self.threshold]

    def by_head(self) -> dict[str, list[Role]]:
        """All heads with a role, by name."""
        _, layers, heads = self.shares.shape
        named = {f"a{layer}.h{head}": self.of(layer, head) for layer in range(layers) for head in range(heads)}
        return {name: roles for name, roles in named.items() if roles}

    def texts(self, most: int = 2) -> dict[str, str]:
        """The first ``most`` roles of every head that has any, as text."""
        return {name: ", ".join(map(str, roles[:most])) for name, roles in self.by_head().items()}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        heads = {name: {role.label: role.share for role in roles} for name, roles in self.by_head().items()}
        return {"threshold": self.threshold, "measured": list(self.labels), "heads": heads}


def head_roles(
    model: Transformer, pairs: TokenPairs, *, threshold: float = THRESHOLD, batch_size: int | None = None
) -> HeadRoles:
    """Measure where every head attends on the clean prompts.

    Args:
        pairs: the prompts; if they have labels (``PromptPair.labels``), pairs of labelled tokens are measured too.
        threshold: share of attention, 0 to 1.

    Raises:
        OptionError: the threshold is outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold {threshold}: give a share of attention, 0 to 1")
    names, places = _labelled(model, pairs)
    spots = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    labels = (*GENERAL, *(_label(names[a], names[b]) for a, b in spots))
    shape = len(labels), model.config.n_layers, model.config.n_heads
    sums, counts = np.zeros(shape), np.zeros(len(labels))
    with torch.inference_mode():
        for batch in make_batches(model, pairs, batch_size, attribution_numbers(model)):
            between = _between(batch, places, spots, model.config.causal)
            wanted = [part.to(model.device) for part in (*_places(batch), *between)]
            counts += [int(part.any(-1).sum()) for part in wanted]  # queries that have such a key
            for layer, attention in enumerate(attention_patterns(model, batch.clean)):
                for number, part in enumerate(wanted):
                    sums[number, layer] += attention[:, part].double().sum(-1).cpu().numpy()
    seen = np.flatnonzero(counts)
    shares = sums[seen] / counts[seen, None, None]
    return HeadRoles(tuple(labels[number] for number in seen), shares, threshold)


def _label(query: str, key: str) -> str:
    name = LIKE.get((query, key))
    return f"{query} -> {key}" + (f" (as {name} heads)" if name else "")


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
