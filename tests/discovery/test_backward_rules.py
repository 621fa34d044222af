"""Backward rules (RelP, GIM): against hand calculation and against autograd with detached parts."""

import math
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from attribution import MODEL, PAIRS, scores, targets_of
from backward_rules import GIM, naive_scores
from builders import BLOCKS, BY_GROUP, GROUPED, SHAPES, TIGHT, prompt, random_pairs, small_model

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.relp import RULES
from circuitfind.execution import ABLATIONS, AttributionPass, make_batches, prepare_ablation
from circuitfind.execution.gradients.edge_products import EdgeProducts
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import ACTIVATIONS, EXACT, BackwardRule, Transformer, alibi_slopes, under

METHODS = {
    "relp frozen": ("relp", {"qk": "frozen"}, RULES["frozen"]),
    "relp half": ("relp", {"qk": "half"}, RULES["half"]),
    "relp exact": ("relp", {"qk": "exact"}, RULES["exact"]),
    "gim": ("gim", {}, GIM),
    "gim colder": ("gim", {"temperature": 0.7}, replace(GIM, temperature=0.7)),
}


every_method = pytest.mark.parametrize(("name", "options", "rule"), METHODS.values(), ids=METHODS)


class ByHand:
    """Forward and backward through a model of ``HAND``'s shape on one prompt, with sums written out over single numbers.

    The backward pass has the formulas of the papers: a norm is a division by a constant; a gated MLP's factors get
    ``gate_share`` of their derivative, and its activation the slope ``ratio`` or its derivative; the factors of the two
    products of attention get ``share``; and the softmax passes g on as p_j (g_j - sum_i p_i g_i) with p at a temperature.
    """

    def __init__(self, model: Transformer, tokens: list[int], rule: BackwardRule) -> None:
        self.w = {key: tensor.numpy() for key, tensor in model.weights.items()}
        self.c, self.rule, self.T = model.config, rule, len(tokens)
        self.states: list[dict] = []
        x = [list(self.w["W_E"][token]) for token in tokens]
        self.out = {"input": x}
        for layer in range(2):
            x = self._attention(layer, x)
            x = self._mlp(layer, x)
        self.last, self.inv = self._norm("ln_final", x)
        self.logits = self._times(self.last, "W_U")[-1]

    def _norm(self, where, x):
        rows, inverse = [], []
        for row in x:
            mean = sum(row) / len(row)
            scale = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + self.c.norm_eps)
            rows.append([(v - mean) / scale * w for v, w in zip(row, self.w[where + ".w"], strict=True)])
            inverse.append(1 / scale)
        return rows, inverse

    def _times(self, rows, key):
        W = self.w[key]
        return [[sum(row[i] * W[i, j] for i in range(W.shape[0])) for j in range(W.shape[1])] for row in rows]

    def _times_transposed(self, rows, key):
        W = self.w[key]
        return [[sum(row[j] * W[i, j] for j in range(W.shape[1])) for i in range(W.shape[0])] for row in rows]

    @staticmethod
    def _plus(a, b):
        return [[u + v for u, v in zip(one, other, strict=True)] for one, other in zip(a, b, strict=True)]

    def _soft(self, scores, temperature):
        powers = [math.exp(score / temperature) for score in scores]
        return [power / sum(powers) for power in powers]

    def _attention(self, layer, x):
        key = f"layers.{layer}."
        normed, inverse = self._norm(key + "ln1", x)
        q, k, v = (self._times(normed, key + "W_" + port) for port in "QKV")
        s = [
            [sum(a * b for a, b in zip(q[t], k[j], strict=True)) * self.c.scale(layer) for j in range(t + 1)]
            for t in range(self.T)
        ]
        p = [self._soft(row, 1.0) for row in s]
        z = [[sum(p[t][j] * v[j][i] for j in range(t + 1)) for i in range(self.c.d_head)] for t in range(self.T)]
        self.states.append({"q": q, "k": k, "v": v, "s": s, "p": p, "inv1": inverse})
        self.out[f"a{layer}.h0"] = self._times(z, key + "W_O")
        return self._plus(x, self.out[f"a{layer}.h0"])

    def _mlp(self, layer, x):
        key = f"layers.{layer}."
        normed, inverse = self._norm(key + "ln2", x)
        gate, up = self._times(normed, key + "W_gate"), self._times(normed, key + "W_in")
        sigma = [[1 / (1 + math.exp(-g)) for g in row] for row in gate]
        hidden = [[g * s * u for g, s, u in zip(*three, strict=True)] for three in zip(gate, sigma, up, strict=True)]
        self.states[layer] |= {"gate": gate, "up": up, "sigma": sigma, "inv2": inverse}
        self.out[f"m{layer}"] = self._times(hidden, key + "W_out")
        return self._plus(x, self.out[f"m{layer}"])

    def _through_norm(self, where, inverse, g):
        rows = []
        for scale, row in zip(inverse, g, strict=True):
            weighted = [v * w for v, w in zip(row, self.w[where + ".w"], strict=True)]
            mean = sum(weighted) / len(weighted)
            rows.append([(v - mean) * scale for v in weighted])
        return rows

    def coefficients(self, correct: int, incorrect: int) -> dict[str, list[list[float]]]:
        """At every receiver, (positions, d_model), of the logit difference at the last position."""
        W, d = self.w["W_U"], self.c.d_model
        at_norm = [[0.0] * d for _ in range(self.T - 1)] + [[W[i, correct] - W[i, incorrect] for i in range(d)]]
        arriving = self._through_norm("ln_final", self.inv, at_norm)
        found = {"logits": arriving}
        for layer in (1, 0):
            found[f"m{layer}"] = self._mlp_back(layer, arriving)
            arriving = self._plus(arriving, found[f"m{layer}"])
            ports = self._attention_back(layer, arriving)
            for port, coefficient in ports.items():
                found[f"a{layer}.h0<{port}>"] = coefficient
                arriving = self._plus(arriving, coefficient)
        return found

    def _mlp_back(self, layer, g):
        key, state, share = f"layers.{layer}.", self.states[layer], self.rule.gate_share
        dh = self._times_transposed(g, key + "W_out")
        d_gate, d_up = [], []
        for t in range(self.T):
            rows = zip(dh[t], state["gate"][t], state["sigma"][t], state["up"][t], strict=True)
            gates, ups = [], []
            for h, gate, sigma, up in rows:
                slope = sigma if self.rule.ratio_activations else sigma * (1 + gate * (1 - sigma))
                gates.append(share * h * up * slope)
                ups.append(share * h * gate * sigma)
            d_gate.append(gates)
            d_up.append(ups)
        total = self._plus(self._times_transposed(d_gate, key + "W_gate"), self._times_transposed(d_up, key + "W_in"))
        return self._through_norm(key + "ln2", state["inv2"], total)

    def _attention_back(self, layer, g):
        key, state, share = f"layers.{layer}.", self.states[layer], self.rule.attention_share
        q, k, v, p = (state[name] for name in "qkvp")
        dz, width, T = self._times_transposed(g, key + "W_O"), range(self.c.d_head), self.T
        dq, dk, dv = ([[0.0] * self.c.d_head for _ in range(T)] for _ in "qkv")
        for t in range(T):
            dp = [share * sum(dz[t][i] * v[j][i] for i in width) for j in range(t + 1)]
            soft = self._soft(state["s"][t], self.rule.temperature)
            mean = sum(a * b for a, b in zip(soft, dp, strict=True))
            for j in range(t + 1):
                ds = share * soft[j] * (dp[j] - mean) * self.c.scale(layer)
                for i in width:
                    dv[j][i] += share * p[t][j] * dz[t][i]
                    dq[t][i] += ds * k[j][i] * (not self.rule.constant_pattern)
                    dk[j][i] += ds * q[t][i] * (not self.rule.constant_pattern)
        return {
            port: self._through_norm(key + "ln1", state["inv1"], self._times_transposed(d, f"{key}W_{port.upper()}"))
            for port, d in (("q", dq), ("k", dk), ("v", dv))
        }


def hand_model() -> Transformer:
    shape = {"n_heads": 1, "d_model": 3, "d_head": 2, "d_mlp": 2, "d_vocab": 6, "gated": True, "activation": "silu"}
    return small_model(seed=3, biases=False, positions="none", **shape)


@every_method
def test_two_layers_are_what_the_formulas_give_by_hand(name, options, rule):
    model = hand_model()
    pairs = random_pairs(model, 2, shortest=3, longest=3)
    pairs = replace(pairs, incorrect=pairs.incorrect[:, :1])
    expected = dict.fromkeys(model.graph.edge_names(), 0.0)
    for row in range(2):
        clean, corrupted = (ByHand(model, prompt(pairs, row, side).tolist(), rule) for side in ("clean", "corrupted"))
        np.testing.assert_allclose(clean.logits, model.logits(prompt(pairs, row)[None])[0, -1], **TIGHT)
        coefficients = clean.coefficients(int(pairs.correct[row, 0]), int(pairs.incorrect[row, 0]))
        for edge in expected:
            sender, receiver = edge.split("->")
            for t in range(3):
                for i in range(3):
                    change = clean.out[sender][t][i] - corrupted.out[sender][t][i]
                    expected[edge] += change * coefficients[receiver][t][i] / 2
    assert max(map(abs, expected.values())) > 0.05
    np.testing.assert_allclose(scores(name, model, pairs, **options), list(expected.values()), **TIGHT)


class SofterGradient(torch.autograd.Function):
    """A softmax over the first axis that pulls back with the Jacobian of another temperature, times that temperature."""

    @staticmethod
    def forward(context, scores, temperature):
        context.save_for_backward((scores / temperature).softmax(0))
        return scores.softmax(0)

    @staticmethod
    def backward(context, gradient):
        (soft,) = context.saved_tensors
        jacobian = torch.diag(soft) - torch.outer(soft, soft)
        return jacobian @ gradient, None


class Ruled(naive.Derivatives):
    def __init__(self, rule: BackwardRule) -> None:
        self.rule = rule

    def _shared(self, product, share):
        return share * product + (1 - share) * product.detach()

    def scale(self, scale):
        return scale.detach() if self.rule.constant_norms else scale

    def activation(self, function, x):
        return x * (function(x) / x).detach() if self.rule.ratio_activations else function(x)

    cap = activation

    def gate(self, activated, up):
        return self._shared(activated * up, self.rule.gate_share)

    def dot(self, query, keys):
        return self._shared((query * keys).sum(-1), self.rule.attention_share)

    def softmax(self, scores):
        pattern = SofterGradient.apply(scores, self.rule.temperature)
        return pattern.detach() if self.rule.constant_pattern else pattern

    def mix(self, pattern, values):
        return self._shared(pattern @ values, 1.0 if self.rule.constant_pattern else self.rule.attention_share)

    def router(self, share):
        return share.detach() if self.rule.constant_router else share


@pytest.mark.parametrize("method", [name for name in METHODS if name != "gim colder"])
def test_every_architecture_is_autograd_with_parts_detached(model, method, monkeypatch):
    name, options, rule = METHODS[method]
    pairs = random_pairs(model, 2, longest=5)
    monkeypatch.setattr(naive, "derivatives", Ruled(rule))
    expected = naive_scores(model, pairs).mean(0)
    np.testing.assert_allclose(scores(name, model, pairs, **options), expected, **TIGHT)


@pytest.mark.parametrize("metric", ["prob-diff", "nll"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("method", ["relp exact", "gim"])
def test_metrics_and_ablations_are_those_of_the_loop(method, ablation, metric, monkeypatch):
    name, options, rule = METHODS[method]
    monkeypatch.setattr(naive, "derivatives", Ruled(rule))
    expected = naive_scores(MODEL, PAIRS, metric, ablation).mean(0)
    np.testing.assert_allclose(scores(name, metric=metric, ablation=ablation, **options), expected, **TIGHT)


def test_a_rule_changes_no_value(model):
    tokens = torch.arange(6)[None] % model.config.d_vocab
    for rule in (GIM, *RULES.values()):
        torch.testing.assert_close(under(rule, model).logits(tokens), model.logits(tokens), **TIGHT)


@pytest.mark.parametrize("rule", [GIM, RULES["exact"]], ids=["gim", "relp"])
def test_computing_ports_again_changes_nothing(rule):
    (batch,) = make_batches(MODEL, PAIRS, len(PAIRS))
    found = []
    for recompute in (False, True):
        run = AttributionPass(MODEL, batch, MODEL.embed(batch.clean), recompute=recompute, rule=rule)
        run.backward(lambda logits: METRICS["logit-diff"](logits, batch.targets))
        found.append(torch.cat([part for state in run.layers.values() for part in state.port_gradients]))
    torch.testing.assert_close(*found, **TIGHT)


def products_at_clean(batch, ablated, rule):
    """All products with the gradient that a rule gives in the clean run."""
    model = ablated.model
    run = AttributionPass(model, batch, model.embed(batch.clean), keep_writes=True, rule=rule)
    run.backward(lambda logits: METRICS["logit-diff"](logits, batch.targets))
    return EdgeProducts(model).multiply(run, run.writes.minus(ablated))


def test_the_exact_rule_is_eap_bit_by_bit(model, pairs):
    (batch,) = make_batches(model, pairs, len(pairs))
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    ruled = products_at_clean(batch, ablated, BackwardRule())
    plain = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], batch_size=len(pairs))).values
    assert (ruled[0] / len(pairs) == plain).all()
    assert under(BackwardRule(), model) is model


def test_rules_that_change_almost_nothing_are_almost_exact(model, pairs):
    """The altered functions are those of the exact rule when a rule asks for no alteration of them."""
    (batch,) = make_batches(model, pairs, len(pairs))
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    one = 1 + 1e-11
    exact = products_at_clean(batch, ablated, EXACT)
    rule = BackwardRule(temperature=one, attention_share=one, gate_share=one)
    np.testing.assert_allclose(products_at_clean(batch, ablated, rule), exact, **TIGHT)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu", "relu2", "solu"}))
def test_the_ratio_of_an_activation_has_its_limit_at_zero(name):
    ruled = under(RULES["exact"], small_model(activation=name))
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ruled.activated(x).sum(), x)
    (derivative,) = torch.autograd.grad(ACTIVATIONS[name](x).sum(), x)
    torch.testing.assert_close(slope, derivative, rtol=1e-6, atol=0)


def from_input_to_nothing(model, pairs, name, **options):
    """Scores of the edges out of the input under zero ablation, summed: what is ascribed to the input's values."""
    found = scores(name, model, pairs, ablation="zero", **options)
    return found[model.graph.edge_sender == 0].sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_of_relp_times_the_input_are_the_metric(shape):
    model = small_model(**(SHAPES[shape] | {"biases": False}))
    pairs = random_pairs(model, 3)
    targets = [targets_of(pairs, row) for row in range(3)]
    logits = [model.logits(prompt(pairs, row)[None])[:, -1] for row in range(3)]
    metric = np.mean([float(METRICS["logit-diff"](*both)) for both in zip(logits, targets, strict=True)])
    assert abs(metric) > 1e-2
    assert from_input_to_nothing(model, pairs, "relp", qk="frozen") == pytest.approx(metric, rel=1e-9)
    assert from_input_to_nothing(model, pairs, "eap") != pytest.approx(metric, rel=1e-2)


def test_a_frozen_pattern_leaves_queries_and_keys_nothing():
    names = MODEL.graph.edge_names()
    attending = np.array([name.endswith(("<q>", "<k>")) for name in names])
    found = scores("relp", qk="frozen")
    assert (found[attending] == 0).all()
    assert np.abs(found[~attending]).min() > 1e-6
    for qk in ("half", "exact"):
        assert np.abs(scores("relp", qk=qk)[attending]).min() > 1e-6


LINEAR_OUT = {"norm": "none", "d_mlp": 0}
"""Attention of the last layer goes to the logits linearly."""


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        GROUPED,
        GROUPED | BY_GROUP,
        BLOCKS,
        {"positions": "alibi", "alibi": alibi_slopes(3), "attention_cap": 2.0},
        {"windows": (2, 3), "biases": False},
        {"n_layers": 1},
    ],
    ids=["heads", "grouped", "by-group", "blocks", "alibi-cap", "windows", "one-layer"],
)
def test_where_attention_goes_to_the_logits_linearly_every_edge_into_it_is_exact(changes, ablation):
    model = small_model(**(LINEAR_OUT | changes))
    pairs = random_pairs(model, 3)
    last = model.graph.blocks[-2].first_edge  # the last attention, and the logits
    truth, star, eap = (scores(name, model, pairs, ablation=ablation)[last:] for name in ("exact", "atp-star", "eap"))
    np.testing.assert_allclose(star, truth, **TIGHT)
    assert np.abs(eap - truth).max() > 1e-3
