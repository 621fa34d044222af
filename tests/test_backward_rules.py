"""Backward rules, and the methods made of them (RelP, GIM, AtP*): against hand calculation, autograd with detached parts, and
really cut edges."""

import math
from dataclasses import replace
from types import SimpleNamespace

import naive
import numpy as np
import pytest
import torch
from conftest import BLOCKS, BY_GROUP, GROUPED, SHAPES, random_pairs, small_model
from test_discovery import MODEL, PAIRS, scores, targets_of
from test_execution import naive_ablated, prompt

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.relp import RULES
from circuitfind.errors import OptionError
from circuitfind.execution import ABLATIONS, AttributionPass, make_batches, prepare_ablation
from circuitfind.execution.gradients import cut_attention
from circuitfind.execution.gradients.edge_products import EdgeProducts
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import ACTIVATIONS, EXACT, BackwardRule, Transformer, alibi_slopes, under

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
GIM = BackwardRule(constant_norms=True, temperature=2.0, attention_share=0.5, gate_share=0.5, constant_router=True)
METHODS = {
    "relp frozen": ("relp", {"qk": "frozen"}, RULES["frozen"]),
    "relp half": ("relp", {"qk": "half"}, RULES["half"]),
    "relp exact": ("relp", {"qk": "exact"}, RULES["exact"]),
    "gim": ("gim", {}, GIM),
    "gim colder": ("gim", {"temperature": 0.7}, replace(GIM, temperature=0.7)),
}
every_method = pytest.mark.parametrize(("name", "options", "rule"), METHODS.values(), ids=METHODS)


# --- by hand: two layers, one head, scalar by scalar ------------------------------------------------------------------


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


# --- against autograd over the whole model with parts detached --------------------------------------------------------


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

    def dot(self, query, key):
        return self._shared((query * key).sum(), self.rule.attention_share)

    def softmax(self, scores):
        pattern = SofterGradient.apply(scores, self.rule.temperature)
        return pattern.detach() if self.rule.constant_pattern else pattern

    def mix(self, pattern, values):
        return self._shared(pattern @ values, 1.0 if self.rule.constant_pattern else self.rule.attention_share)

    def router(self, share):
        return share.detach() if self.rule.constant_router else share


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


# --- the exact rule ---------------------------------------------------------------------------------------------------


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


# --- conservation -----------------------------------------------------------------------------------------------------


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


# --- AtP*: the QK fix -------------------------------------------------------------------------------------------------

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


def naive_fixed(model, pairs, dropped=None):
    """EAP with the QK fix, edge by edge: (prompts, edges). The node's mixed values enter through its output projection."""
    found, names = naive_scores(model, pairs, dropped=dropped), model.graph.edge_names()
    ablated, place = naive_ablated(model, pairs, "corrupted"), {name: number for number, name in enumerate(names)}
    for row in range(len(pairs)):
        live, gradients = _written_and_gradients(model, pairs, row, dropped)
        biases, streams = torch.zeros_like(live["input"]), {}
        for layer in range(model.config.n_layers):
            below = [s for s in live if s == "input" or int(s[1:].split(".")[0]) < layer]
            streams[layer] = biases + sum(live[s] for s in below)
            for port in "qk":
                for owner in naive.owners(model.config, layer, port):
                    for sender in below:
                        delta = live[sender] - ablated[row][sender]
                        parts = [
                            _linear_from_z(model, layer, streams[layer], port, delta, member, gradients)
                            for member in naive.members(model.config, owner)
                        ]
                        found[row, place[f"{sender}->{owner}<{port}>"]] = sum(parts)
            if not model.config.post_norm:
                biases = naive._plus(model, biases, f"layers.{layer}.b_O")
    return found


def _written_and_gradients(model, pairs, row, dropped):
    """What every sender of one prompt writes, and the gradient of the logit difference at it."""
    seen = {}

    def read(receiver, out, biases):
        for name, part in out.items():
            if name not in seen:
                part.retain_grad()
                seen[name] = part
        layer = [name[1:].split(".")[0] for name in out]
        return biases + sum(
            part.detach() if at == str(dropped) else part for at, part in zip(layer, out.values(), strict=True)
        )

    _, final = naive._walk(model, naive.embedding(model, prompt(pairs, row)).requires_grad_(), read)
    METRICS["logit-diff"](naive.logits(model, final)[-1:], targets_of(pairs, row)).sum().backward()
    live = {name: part.detach() for name, part in seen.items()}
    zero = torch.zeros_like(live["input"])
    return live, {name: zero if part.grad is None else part.grad for name, part in seen.items()}


def _linear_from_z(model, layer, stream, port, delta, node, gradients):
    """The effect of a cut on one node, linear from its output projection on; a norm after that is linear, too."""
    head = int(node.partition(".h")[2] or 0)
    bare = SimpleNamespace(config=replace(model.config, post_norm=False), weights=model.weights)
    inputs = [stream - delta if name == port else stream for name in "qkv"]
    clean, cut = (naive.attention_node(bare, layer, head, *three) for three in ([stream] * 3, inputs))
    at_write = gradients[node]
    if model.config.post_norm:
        after = lambda x: naive._norm(model, f"layers.{layer}.ln1_post", naive._plus(model, x, f"layers.{layer}.b_O"))  # noqa: E731
        at_write = torch.autograd.functional.vjp(after, clean, at_write)[1]
    return float(((clean - cut) * at_write).sum())


def with_drops(model, estimates):
    """GradDrop of (1 + layers, prompts, edges): nothing dropped, then each layer."""
    plain, dropped = estimates[0], np.abs(estimates[1:]).sum(0)
    of_logits = np.array([name.endswith("->logits") for name in model.graph.edge_names()])
    size = dropped / (model.config.n_layers - ~of_logits)
    return np.where(plain < 0, -size, size)


def test_atp_star_is_its_loop_on_every_architecture(model):
    pairs, layers = random_pairs(model, 2, longest=5), range(model.config.n_layers)
    fixed = np.stack([naive_fixed(model, pairs, dropped) for dropped in (None, *layers)])
    plain = np.stack([naive_scores(model, pairs, dropped=dropped) for dropped in (None, *layers)])
    for qk_fix, estimates in ((True, fixed), (False, plain)):
        alone, both = (
            ALGORITHMS["atp-star"](
                Problem(model, pairs, METRICS["logit-diff"], parts="prompt"), qk_fix=qk_fix, grad_drop=grad_drop
            )
            for grad_drop in (False, True)
        )
        np.testing.assert_allclose(alone.values, estimates[0].mean(0), **TIGHT)
        np.testing.assert_allclose(both.values, with_drops(model, estimates).mean(0), **TIGHT)
        np.testing.assert_allclose(both.parts, with_drops(model, estimates), rtol=1e-5, atol=1e-6)
    assert np.abs(fixed - plain).max() > 1e-3


@pytest.mark.parametrize("shape", ["layernorm-mlp", "llama-groups", "gemma2"])
def test_cuts_made_a_few_at_a_time_are_the_same(shape, monkeypatch):
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model, 5)
    whole = scores("atp-star", model, pairs)
    per_token = cut_attention.cut_numbers(model, 7) * 7 * 8
    for at_once in (1, 2, 13):
        monkeypatch.setattr(cut_attention, "TILE_BYTES", at_once * per_token)
        monkeypatch.setattr(cut_attention, "budget", lambda device: 0)
        np.testing.assert_allclose(scores("atp-star", model, pairs), whole, **TIGHT)


# --- AtP*: GradDrop ---------------------------------------------------------------------------------------------------


def scalar_model(*factors: float) -> Transformer:
    """A stream of one number; layer l adds ``factors[l]`` times it, and attention nothing."""
    model = small_model(
        n_layers=len(factors), n_heads=1, d_model=1, d_head=1, d_mlp=1, norm="none", positions="none", biases=False,
        activation="linear",
    )  # fmt: skip
    for layer, factor in enumerate(factors):
        model.weights[f"layers.{layer}.W_O"].zero_()
        model.weights[f"layers.{layer}.W_in"].fill_(1)
        model.weights[f"layers.{layer}.W_out"].fill_(factor)
    return model


def test_graddrop_of_three_layers_by_hand():
    a, b, c = 0.5, -0.9, 0.7
    model = scalar_model(a, b, c)
    pairs = random_pairs(model, 1, shortest=3, longest=3)
    W_E, W_U = model.weights["W_E"][:, 0], model.weights["W_U"][0]
    change = float(W_E[pairs.clean[0, 2]] - W_E[pairs.corrupted[0, 2]])
    change *= float(W_U[pairs.correct[0, 0]] - W_U[pairs.incorrect[0]].mean())
    found = dict(zip(model.graph.edge_names(), scores("atp-star", model, pairs), strict=True))
    by_hand = {
        "input->m0": a * (abs(1 + c) + abs(1 + b)) / 2,  # without layer 1, without layer 2, and 0 without layer 0
        "input->m1": b * (abs(1 + c) + 1) / 2,  # without layer 0 as without any
        "input->m2": c,
        "input->logits": 1.0,
        "m0->m1": a * b * (abs(1 + c) + 1) / 2,
        "m0->logits": a,
    }
    for edge, expected in by_hand.items():
        assert found[edge] == pytest.approx(change * expected, rel=1e-9), edge


def test_graddrop_finds_what_direct_and_indirect_effects_cancel():
    model = scalar_model(0.5, -0.999)
    pairs = random_pairs(model, 1)
    edge = model.graph.edge_index("input->m0")
    eap, star = (abs(scores(name, model, pairs)[edge]) for name in ("eap", "atp-star"))
    assert star == pytest.approx(1000 * eap, rel=1e-6)
    assert eap > 1e-5


# --- on a trained model -----------------------------------------------------------------------------------------------


def ranks(values):
    return np.argsort(np.argsort(values))


def test_atp_star_ranks_edges_nearer_to_their_exact_effects_than_eap():
    model = cf.load_model("tasks-4l")
    truth, eap, plain, star = (
        ranks(cf.discover(model, "greater-than", algorithm=name, n=6, **options).values)
        for name, options in (("exact", {}), ("eap", {}), ("atp-star", {"grad_drop": False}), ("atp-star", {}))
    )
    agreement = [np.corrcoef(truth, found)[0, 1] for found in (eap, plain, star)]
    assert agreement[0] < min(agreement[1:])


# --- half precision, refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["relp", "gim", "atp-star"])
def test_half_precision_is_near_full_precision(name, dtype):
    model = small_model(scale=1.0, **SHAPES["llama"])
    pairs = random_pairs(model, 3)
    full, half = scores(name, model, pairs), scores(name, model.to(dtype=dtype), pairs)
    assert np.corrcoef(full, half)[0, 1] > 0.99


@pytest.mark.parametrize(("name", "title"), [("relp", "RelP"), ("gim", "GIM"), ("atp-star", r"AtP\*")])
def test_a_divergence_from_the_clean_run_is_refused(name, title):
    with pytest.raises(OptionError, match=f"zero gradient at the clean run, so {title} would score every edge 0"):
        scores(name, metric="kl")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("relp", {"qk": "quarter"}, "qk='quarter': use one of exact, half, frozen"),
        ("gim", {"temperature": 0}, "temperature=0.0: give a number above 0"),
        ("gim", {"temperature": "nan"}, "temperature=nan: give a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        scores(name, **options)
