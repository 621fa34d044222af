"""Random masks that are exactly 0 or 1 with a positive probability, and still have gradients.

The hard concrete distribution (Louizos, Welling & Kingma 2018, arXiv:1712.01312, section 2.2) with its usual limits and
temperature, which are also those of Cao et al. 2021 and Bhaskar et al. 2024:

    s = sigmoid((log u - log(1 - u) + log_alpha) / TEMPERATURE),    mask = clamp(LEFT + (RIGHT - LEFT) s, 0, 1)

with u uniform in (0, 1). :class:`Gates` makes masks of edges from such masks: of edges, of senders, or of both, where what an
edge keeps is its own mask times its sender's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitfind.graph import ComputationGraph

LEFT, RIGHT, TEMPERATURE = -0.1, 1.1, 2 / 3
OFFSET = TEMPERATURE * math.log(-LEFT / RIGHT)


def sampled(log_alpha: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of draws ``uniform`` in (0, 1), and their derivatives by log-alpha: two tensors of the draws' shape."""
    s = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE)
    stretched = LEFT + (RIGHT - LEFT) * s
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), inside * s * (1 - s) * ((RIGHT - LEFT) / TEMPERATURE)


def share_open(log_alpha: Tensor) -> Tensor:
    """The probability that a mask is not 0 (equation 12 of Louizos et al.)."""
    return torch.sigmoid(log_alpha - OFFSET)


@dataclass(frozen=True)
class Gates:
    """Which masks there are, in one vector: those of all edges, then those of all senders.

    Attributes:
        graph: the graph.
        edges, nodes: whether edges have masks, and senders.
    """

    graph: ComputationGraph
    edges: bool = True
    nodes: bool = True

    def __len__(self) -> int:
        return self.edges * self.graph.n_edges + self.nodes * self.graph.n_senders

    @cached_property
    def _sender(self) -> Tensor:
        return torch.from_numpy(self.graph.edge_sender).long()

    def of_edges(self, gates: Tensor) -> Tensor:
        """The part of ``gates`` (..., gates) that belongs to edges, (..., edges)."""
        return gates[..., : self.graph.n_edges * self.edges]

    def of_nodes(self, gates: Tensor) -> Tensor:
        """The part that belongs to senders, (..., senders)."""
        return gates[..., self.graph.n_edges * self.edges :]

    def combined(self, gates: Tensor) -> Tensor:
        """What every edge keeps: (..., gates) to (..., edges)."""
        if not self.nodes:
            return gates
        of_sender = self.of_nodes(gates)[..., self._sender]
        return self.of_edges(gates) * of_sender if self.edges else of_sender

    def pulled_back(self, gates: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by ``gates`` (..., gates) of what has ``gradient`` (..., edges) by what edges keep."""
        if not self.nodes:
            return gradient
        own = gradient * self.of_edges(gates) if self.edges else gradient
        by_node = gates.new_zeros(*gates.shape[:-1], self.graph.n_senders)
        for block in self.graph.blocks:
            by_node[..., : block.n_senders] += block.matrix(own).sum(-2)
        if not self.edges:
            return by_node
        return torch.cat((gradient * self.of_nodes(gates)[..., self._sender], by_node), -1)
