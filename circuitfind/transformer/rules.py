"""Backward rules: how a gradient is pulled through norms, attention, activations and products.

A rule changes derivatives, never values. :func:`under` gives a model with the same weights whose functions return the same
values, but are differentiated as the rule says. It is used for the cores that a backward pass goes through. If a rule holds
something constant or linear, what arrives at a port is a *coefficient*, not a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from circuitfind.transformer import norms
from circuitfind.transformer.attention import Nodes
from circuitfind.transformer.model import Transformer
from circuitfind.transformer.norms import NormState


@dataclass(frozen=True)
class BackwardRule:
    """How gradients are pulled back; the default is exact.

    Attributes:
        constant_norms: the scale of every norm is a constant, but its centring and weight are not (the LN-rule of Ali et al.
            2022, arXiv:2202.07304, section 4). This covers every norm: before and after blocks, on queries and keys, inside an
            MLP, and before the logits.
        ratio_activations: an activation acts as multiplication by the constant ``act(x) / x`` (the identity rule); so do the
            caps of attention scores and logits.
        constant_pattern: attention probabilities are constants (the AH-rule of Ali et al. 2022, section 4), so nothing
            arrives at q and k.
        temperature: the softmax of attention scores x has the gradient of ``softmax(x / temperature)``, without the factor
            1 / temperature (Edin et al. 2025, arXiv:2505.17630).
        attention_share: the share of its derivative that each factor of the two products of attention, q . k and
            pattern . v, receives; q and k take part in both.
        gate_share: the share of its derivative that each factor of a gated MLP's product, ``act(gate) * up``, receives.
        constant_router: the experts' weights are constants.
    """

    constant_norms: bool = False
    ratio_activations: bool = False
    constant_pattern: bool = False
    temperature: float = 1.0
    attention_share: float = 1.0
    gate_share: float = 1.0
    constant_router: bool = False


EXACT = BackwardRule()
RELP = BackwardRule(constant_norms=True, ratio_activations=True, gate_share=0.5, constant_router=True)
"""The rules of layer-wise relevance propagation as in RelP (Rezaei Jafari et al. 2025, arXiv:2508.21258), attention exact."""


def gim_rule(temperature: float = 2.0) -> BackwardRule:
    """The rules of GIM (Edin et al. 2025, arXiv:2505.17630)."""
    return BackwardRule(
        constant_norms=True, temperature=temperature, attention_share=0.5, gate_share=0.5, constant_router=True
    )


def under(rule: BackwardRule, model: Transformer) -> Transformer:
    """A model with the same weights and values, differentiated under a rule; the model itself if the rule is exact."""
    return model if rule == EXACT else _Ruled(model, rule)


class _Ruled(Transformer):
    """Functions with the values of a model and the derivatives of a rule."""

    def __init__(self, model: Transformer, rule: BackwardRule) -> None:
        super().__init__(model.config, model.weights, tokenizer=model.tokenizer, name=model.name, source=model.source)
        self.graph = model.graph
        self.rule = rule

    # ---------------------------------------------------------------- norms

    def unit(self, kind: str, x: Tensor) -> Tensor:
        if not self.rule.constant_norms:
            return super().unit(kind, x)
        scale = norms.norm_state(kind, x.detach(), self.config.norm_eps).inverse_scale
        return (x - x.mean(-1, keepdim=True) if kind == "layer" else x) * scale

    def normalized(self, kind: str, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if kind == "none" or not self.rule.constant_norms:
            return super().normalized(kind, x, weight, bias)
        return norms.affine(self.unit(kind, x), weight, bias)

    def pull_through_norm(self, where: str, state: NormState | None, gradient: Tensor) -> Tensor:
        if state is None or not self.rule.constant_norms:
            return super().pull_through_norm(where, state, gradient)
        pulled = gradient * state.inverse_scale
        self.fold_into_gradient_(where, pulled)
        return pulled

    # ---------------------------------------------------------------- attention

    @property
    def needs_pattern(self) -> bool:
        return super().needs_pattern or (self.rule.temperature != 1 and not self.rule.constant_pattern)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, nodes: Nodes = None, first: int = 0) -> Tensor:
        if self.rule.constant_pattern:
            return super().attend(layer, q.detach(), k.detach(), v, nodes=nodes, first=first)
        share = self.rule.attention_share
        q, k, v = _scaled(q, share**2), _scaled(k, share**2), _scaled(v, share)
        return super().attend(layer, q, k, v, nodes=nodes, first=first)

    def capped(self, x: Tensor, cap: float) -> Tensor:
        return _linear(partial(super().capped, cap=cap), x) if self.rule.ratio_activations else super().capped(x, cap)

    def _softmax(self, scores: Tensor) -> Tensor:
        exact, temperature = super()._softmax(scores), self.rule.temperature
        if temperature == 1:
            return exact
        soft = temperature * super()._softmax(scores / temperature)
        return exact.detach() + (soft - soft.detach())

    # ---------------------------------------------------------------- MLPs

    def activated(self, x: Tensor) -> Tensor:
        return _linear(super().activated, x) if self.rule.ratio_activations else super().activated(x)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return _scaled(super().gated(gate, up), self.rule.gate_share)

    def routed(self, share: Tensor) -> Tensor:
        return share.detach() if self.rule.constant_router else share


def _scaled(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient multiplied by a factor."""
    return x if factor == 1 else torch.lerp(x.detach(), x, factor)


def _linear(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), differentiated as if it multiplied x by the constant function(x) / x, or by that ratio's limit near 0."""
    fixed = x.detach()
    nearest = torch.finfo(x.dtype).eps
    away = fixed.where(fixed.abs() >= nearest, nearest)
    return function(fixed) + (x - fixed) * (function(away) / away)
