"""Slow plain versions of what the engine does fast: one receiver at a time, one prompt at a time, loops everywhere."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

from circuitfind.task.metrics import Metric, Targets
from circuitfind.transformer import ACTIVATIONS, Transformer, TransformerConfig

# -------------------------------------------------------------------- what a backward rule may change


class Derivatives:
    """Every step whose derivative a backward rule may change; a subclass may detach what it likes, but changes no value."""

    def scale(self, scale: Tensor) -> Tensor:
        """Of a norm, before it divides."""
        return scale

    def activation(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    def cap(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Of attention scores or logits."""
        return function(x)

    def gate(self, activated: Tensor, up: Tensor) -> Tensor:
        return activated * up

    def dot(self, query: Tensor, keys: Tensor) -> Tensor:
        """Of one query with some keys."""
        return (query * keys).sum(-1)

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(0)

    def mix(self, pattern: Tensor, values: Tensor) -> Tensor:
        return pattern @ values

    def router(self, share: Tensor) -> Tensor:
        return share


derivatives = Derivatives()
"""What all functions here use; tests put their own in its place."""

# -------------------------------------------------------------------- one node at a time


def _unit(kind: str, x: Tensor, eps: float) -> Tensor:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) before its weight and bias, row by row."""
    if kind == "layer":
        x = x - x.sum(-1, keepdim=True) / x.shape[-1]
    return x / derivatives.scale(torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps))


def _norm(model: Transformer, where: str, x: Tensor, part: slice = slice(None), kind: str = "") -> Tensor:
    """The norm called ``where``, with some entries (``part``) of its weight and bias."""
    kind = kind or model.config.norm
    if kind == "none":
        return x
    out = _unit(kind, x, model.config.norm_eps)
    if f"{where}.w" in model.weights:
        out = out * model.weights[f"{where}.w"][part]
    if f"{where}.b" in model.weights:
        out = out + model.weights[f"{where}.b"][part]
    return out


def _before_block(model: Transformer, where: str, x: Tensor) -> Tensor:
    return _norm(model, where, x) if model.config.pre_norm else x


def _plus(model: Transformer, x: Tensor, bias: str) -> Tensor:
    return x + model.weights[bias] if bias in model.weights else x


@cache
def _rotation(frequencies: tuple[float, ...], gain: float, adjacent: bool, d_head: int, position: int) -> Tensor:
    """The rotary embedding of one position as a matrix (Su et al. 2021, equation 15): a plane for each frequency."""
    matrix = [[float(row == column) for column in range(d_head)] for row in range(d_head)]
    for number, frequency in enumerate(frequencies):
        one = 2 * number if adjacent else number
        other = one + 1 if adjacent else number + len(frequencies)
        angle = position * frequency
        matrix[one][one] = matrix[other][other] = gain * math.cos(angle)
        matrix[one][other] = -gain * math.sin(angle)
        matrix[other][one] = gain * math.sin(angle)
    return torch.tensor(matrix, dtype=torch.float64)


def _rotate(model: Transformer, layer: int, x: Tensor) -> Tensor:
    """Queries or keys of one head (positions, d_head), each turned as far as its position says."""
    c = model.config
    table = c.rotary_of_layer[layer] if c.rotary_of_layer else 0
    if c.positions != "rotary" or table == -1:
        return x
    turns = [_rotation(c.rotary[table], c.rotary_gain, c.rotary_adjacent, c.d_head, p) for p in range(len(x))]
    return torch.stack([turn.to(x.dtype) @ row for turn, row in zip(turns, x, strict=True)])


def _head(model: Transformer, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mixed values (positions, d_head) of one head from the projections (positions, all heads) of its three ports."""
    c = model.config
    shared = head // (c.n_heads // c.n_kv_heads)
    at = {"q": head, "k": shared, "v": shared}
    columns = {port: slice(place * c.d_head, (place + 1) * c.d_head) for port, place in at.items()}
    q, k, v = q[:, columns["q"]], k[:, columns["k"]], v[:, columns["v"]]
    if c.qk_norm == "head":
        q = _norm(model, f"layers.{layer}.q_norm", q, columns["q"])
        k = _norm(model, f"layers.{layer}.k_norm", k, columns["k"])
    q, k = _rotate(model, layer, q), _rotate(model, layer, k)
    factor = c.attention_scale[layer] if isinstance(c.attention_scale, tuple) else c.attention_scale
    window = c.windows[layer] if c.windows else 0
    rows = []
    for query in range(len(q)):
        seen = [key for key in range(query + 1 if c.causal else len(q)) if not window or abs(query - key) < window]
        scores = factor * derivatives.dot(q[query], k[seen])
        if c.attention_cap:
            scores = derivatives.cap(lambda x: c.attention_cap * torch.tanh(x / c.attention_cap), scores)
        if c.positions == "alibi":
            scores = scores - c.alibi[head] * torch.tensor([abs(query - key) for key in seen], dtype=scores.dtype)
        rows.append(derivatives.mix(derivatives.softmax(scores), v[seen]))
    return torch.stack(rows)


def n_nodes(model: Transformer) -> int:
    """Attention nodes of a layer."""
    return 1 if model.config.granularity == "attention blocks" else model.config.n_heads


def attention_node(model: Transformer, layer: int, node: int, q_in: Tensor, k_in: Tensor, v_in: Tensor) -> Tensor:
    """One attention node's write (positions, d_model) from the raw inputs of its three ports."""
    c, key = model.config, f"layers.{layer}."
    ports = {}
    for port, x in zip("qkv", (q_in, k_in, v_in), strict=True):
        x = _before_block(model, key + "ln1", x)
        ports[port] = _plus(model, x @ model.weights[f"{key}W_{port.upper()}"], f"{key}b_{port.upper()}")
        if c.qk_norm == "all" and port != "v":
            ports[port] = _norm(model, f"{key}{port}_norm", ports[port])
    heads = range(c.n_heads) if c.granularity == "attention blocks" else [node]
    total = torch.zeros_like(q_in)
    for head in heads:
        rows = slice(head * c.d_head, (head + 1) * c.d_head)
        total = total + _head(model, layer, head, *ports.values()) @ model.weights[key + "W_O"][rows]
    return _norm(model, key + "ln1_post", _plus(model, total, key + "b_O")) if c.post_norm else total


def neurons_of(c: TransformerConfig, layer: int) -> tuple[int, ...]:
    """The neurons of a layer that are nodes of their own."""
    return c.neurons[layer] if c.neurons else ()


def mlp_nodes(c: TransformerConfig, layer: int) -> list[str]:
    """The MLP (or the rest of it), and its neurons that are nodes."""
    return [f"m{layer}", *(f"m{layer}.n{neuron}" for neuron in neurons_of(c, layer))]


def mlp_node(model: Transformer, name: str, x: Tensor) -> Tensor:
    """What ``m3`` (without its neurons that are nodes) or the neuron ``m3.n7`` writes (positions, d_model)."""
    layer, _, neuron = name[1:].partition(".n")
    whole = _mlp(model, int(layer), x, None)
    alone = {n: _mlp(model, int(layer), x, n) for n in neurons_of(model.config, int(layer))}
    return alone[int(neuron)] if neuron else whole - sum(alone.values())


def _mlp(model: Transformer, layer: int, x: Tensor, neuron: int | None) -> Tensor:
    """What a whole MLP writes, or one of its neurons, without the bias."""
    c, w, key = model.config, model.weights, f"layers.{layer}."
    act = partial(derivatives.activation, ACTIVATIONS[c.activation])
    x = _before_block(model, key + "ln2", x)
    if c.n_experts and layer not in c.dense_layers:
        out = torch.stack([_experts(model, key, row) for row in x])
    else:
        up = _plus(model, x @ w[key + "W_in"], key + "b_in")
        gate = _plus(model, x @ w[key + "W_gate"], key + "b_gate") if c.gated else None
        hidden = act(up) if gate is None else derivatives.gate(act(gate), up)
        if c.mlp_norm:
            hidden = _norm(model, key + "mlp_ln", hidden, kind="layer")
        if neuron is not None:
            return torch.stack([value * w[key + "W_out"][neuron] for value in hidden[:, neuron]])
        out = _plus(model, hidden @ w[key + "W_out"], key + "b_out")
    return _norm(model, key + "ln2_post", out) if c.post_norm else out


def _experts(model: Transformer, key: str, x: Tensor) -> Tensor:
    """A mixture of experts on one token (d_model,)."""
    c, w = model.config, {name[len(key) :]: tensor for name, tensor in model.weights.items() if name.startswith(key)}
    act = partial(derivatives.activation, ACTIVATIONS[c.activation])
    odds = [(x * w["W_router"][:, expert]).sum().exp() for expert in range(c.n_experts)]
    share = [odd / sum(odds) for odd in odds]
    chosen = sorted(range(c.n_experts), key=lambda expert: share[expert].item())[-c.experts_per_token :]
    whole = sum(share[expert] for expert in chosen) if c.normalize_experts else 1.0
    out = torch.zeros_like(x)
    for expert in chosen:
        gate, up = x @ w["W_expert_in"][expert, :, : c.d_expert], x @ w["W_expert_in"][expert, :, c.d_expert :]
        weight = derivatives.router(share[expert] / whole)
        out = out + weight * (derivatives.gate(act(gate), up) @ w["W_expert_out"][expert])
    if c.d_shared:
        hidden = derivatives.gate(act(x @ w["W_shared_gate"]), x @ w["W_shared_in"])
        weight = derivatives.router(torch.sigmoid((x * w["W_shared_router"][:, 0]).sum()))
        out = out + weight * (hidden @ w["W_shared_out"])
    return out


def embedding(model: Transformer, tokens: Tensor) -> Tensor:
    """What ``input`` writes (positions, d_model)."""
    c, rows = model.config, []
    for position, token in enumerate(tokens.tolist()):
        row = model.weights["W_E"][token] * c.embed_scale
        rows.append(row + model.weights["W_pos"][position] if c.positions == "learned" else row)
    stream = torch.stack(rows)
    return _norm(model, "ln_embed", stream) if c.embed_norm else stream


def logits(model: Transformer, final: Tensor) -> Tensor:
    c = model.config
    out = c.logit_scale * _plus(model, _norm(model, "ln_final", final) @ model.weights["W_U"], "b_U")
    return derivatives.cap(lambda x: c.logit_cap * torch.tanh(x / c.logit_cap), out) if c.logit_cap else out


# -------------------------------------------------------------------- node by node through one prompt

Read = Callable[[str, dict[str, Tensor], Tensor], Tensor]
"""From a receiver's name, what the senders before it write, and the biases in the stream, to the receiver's input."""


def _walk(model: Transformer, start: Tensor, read: Read) -> tuple[dict[str, Tensor], Tensor]:
    """What every sender writes, and the logits' input."""
    c = model.config
    out, biases = {"input": start}, torch.zeros_like(start)
    for layer in range(c.n_layers):
        below = dict(out), biases
        for node in range(n_nodes(model)):
            name = node_name(c, layer, node)
            ports = [read(f"{port_owner(c, layer, node, port)}<{port}>", *below) for port in "qkv"]
            out[name] = attention_node(model, layer, node, *ports)
        if not c.post_norm:
            biases = _plus(model, biases, f"layers.{layer}.b_O")
        if c.d_mlp:
            before_mlp = below if c.parallel else (dict(out), biases)
            for name in mlp_nodes(c, layer):
                out[name] = mlp_node(model, name, read(name, *before_mlp))
    return out, read("logits", out, biases)


def node_name(c: TransformerConfig, layer: int, node: int) -> str:
    """A head's name, or that of the one attention node of a layer."""
    return f"a{layer}.h{node}" if c.granularity == "heads" else f"a{layer}"


def port_owner(c: TransformerConfig, layer: int, node: int, port: str) -> str:
    """Whose name a port has: the node's, or that of the group whose keys and values the node shares."""
    if port == "q" or c.kv_ports == "head":
        return node_name(c, layer, node)
    return f"a{layer}.kv{node // (c.n_heads // c.n_kv_heads)}"


def owners(c: TransformerConfig, layer: int, port: str) -> list[str]:
    """Who has a port of this kind in a layer, each once."""
    nodes = range(1 if c.granularity == "attention blocks" else c.n_heads)
    return list(dict.fromkeys(port_owner(c, layer, node, port) for node in nodes))


def members(c: TransformerConfig, owner: str) -> list[str]:
    """The nodes that have a port of this owner: a group's heads, or the node itself."""
    layer, dot, group = owner.partition(".kv")
    size = c.n_heads // c.n_kv_heads
    return [f"{layer}.h{int(group) * size + head}" for head in range(size)] if dot else [owner]


def senders(
    model: Transformer,
    tokens: Tensor,
    kept: set[str] | Mapping[str, float] | None = None,
    ablated: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run one prompt. Returns what every sender writes, and the logits' input, by name.

    ``kept`` holds names of kept edges, or how much of every edge is kept; a cut edge carries ``ablated[sender]``. None
    keeps all.
    """
    share = dict.fromkeys(kept, 1.0) if isinstance(kept, set) else kept

    def read(receiver: str, out: dict[str, Tensor], biases: Tensor) -> Tensor:
        total = biases.clone()
        for name, live in out.items():
            whole = 1.0 if share is None else share.get(f"{name}->{receiver}", 0.0)
            total = total + (live if whole == 1 else whole * live + (1 - whole) * ablated[name])
        return total

    return _walk(model, embedding(model, tokens), read)


def circuit_logits(
    model: Transformer, clean: Tensor, ablated: dict[str, Tensor], kept: set[str] | Mapping[str, float]
) -> Tensor:
    """Logits (positions, d_vocab) of one prompt under a circuit."""
    return logits(model, senders(model, clean, kept, ablated)[1])


def ablated_values(
    model: Transformer, name: str, corrupted: list[Tensor], averaged: list[Tensor] | None = None
) -> list[dict[str, Tensor]]:
    """For every prompt, what every sender writes under an ablation; ``averaged``: the prompts of a mean, if not corrupted."""
    runs = [senders(model, tokens)[0] for tokens in averaged or corrupted]
    if name == "corrupted":
        return runs
    out = []
    for tokens in corrupted:
        row = {}
        for sender in runs[0]:
            if name == "zero":
                row[sender] = torch.zeros_like(runs[0][sender][:1]).expand(len(tokens), -1)
            elif name in ("mean", "mean-clean", "mean-reference"):
                row[sender] = torch.cat([run[sender] for run in runs]).mean(0).expand(len(tokens), -1)
            else:
                assert name == "mean-positional"
                row[sender] = torch.stack(
                    [
                        torch.stack([run[sender][p] for run in runs if len(run[sender]) > p]).mean(0)
                        for p in range(len(tokens))
                    ]
                )
        out.append(row)
    return out


def edge_attribution(
    model: Transformer,
    clean: Tensor,
    ablated: dict[str, Tensor],
    metric: Metric,
    targets: Targets,
    point: float = 1.0,
    dropped: int | None = None,
) -> dict[str, float]:
    """EAP of one prompt: (clean - ablated) sender output times the gradient at each receiver's own input.

    Every receiver reads its own copy of the stream, so its gradient is its own; heads that share a port read one copy.
    ``point`` moves the embedding from the ablated (0) to the clean one (1) before the gradient is taken. No gradient passes
    through what the layer ``dropped`` writes.
    """
    with torch.no_grad():
        live, _ = senders(model, clean)
    start = ablated["input"] + point * (live["input"] - ablated["input"])
    inputs: dict[str, Tensor] = {}
    before: dict[str, list[str]] = {}

    def read(receiver: str, out: dict[str, Tensor], biases: Tensor) -> Tensor:
        if receiver not in inputs:
            parts = [part.detach() if name[1:].split(".")[0] == str(dropped) else part for name, part in out.items()]
            inputs[receiver] = (biases + sum(parts)) * 1.0
            inputs[receiver].retain_grad()
            before[receiver] = list(out)
        return inputs[receiver]

    _, final = _walk(model, start.clone().requires_grad_(), read)
    metric(logits(model, final)[-1:], targets).sum().backward()
    found = {}
    for receiver, names in before.items():
        grad = inputs[receiver].grad
        for sender in names:
            product = 0.0 if grad is None else float(((live[sender] - ablated[sender]) * grad).sum())
            found[f"{sender}->{receiver}"] = metric.sign * product
    return found


# -------------------------------------------------------------------- ACDC, one full forward pass per test
