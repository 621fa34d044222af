"""Slow plain versions of what the engine does fast: one receiver at a time, one prompt at a time, loops everywhere."""

import torch
from torch import Tensor

from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.metrics import Metric, Targets
from circuitfind.transformer import ACTIVATIONS, Transformer


def _norm(model: Transformer, where: str, x: Tensor) -> Tensor:
    if model.config.norm == "none":
        return x
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.pow(2).mean(-1, keepdim=True) + model.config.norm_eps).sqrt()
    out = unit * model.weights.get(f"{where}.w", torch.ones_like(unit[0]))
    return out + model.weights.get(f"{where}.b", torch.zeros_like(unit[0]))


def _head(model: Transformer, layer: int, head: int, q_in: Tensor, k_in: Tensor, v_in: Tensor) -> Tensor:
    """One head's write (positions, d_model) from the raw inputs of its three ports."""
    c = model.config
    columns = slice(head * c.d_head, (head + 1) * c.d_head)
    parts = {}
    for port, x in zip("QKV", (q_in, k_in, v_in), strict=True):
        out = _norm(model, f"layers.{layer}.ln1", x) @ model.weights[f"layers.{layer}.W_{port}"][:, columns]
        if f"layers.{layer}.b_{port}" in model.weights:
            out = out + model.weights[f"layers.{layer}.b_{port}"][columns]
        parts[port] = out
    rows = []
    for position in range(len(q_in)):
        scores = parts["K"][: position + 1] @ parts["Q"][position] * c.attention_scale
        rows.append(scores.softmax(0) @ parts["V"][: position + 1])
    return torch.stack(rows) @ model.weights[f"layers.{layer}.W_O"][columns]


def _mlp(model: Transformer, layer: int, x: Tensor) -> Tensor:
    w = model.weights
    pre = _norm(model, f"layers.{layer}.ln2", x) @ w[f"layers.{layer}.W_in"]
    pre = pre + w.get(f"layers.{layer}.b_in", torch.zeros_like(pre[0]))
    out = ACTIVATIONS[model.config.activation](pre) @ w[f"layers.{layer}.W_out"]
    return out + w.get(f"layers.{layer}.b_out", torch.zeros_like(out[0]))


def senders(model: Transformer, tokens: Tensor, kept: set[str] | None = None, ablated: dict[str, Tensor] | None = None):
    """Run one prompt. Returns what every sender writes, and the logits' input, by name.

    ``kept`` holds names of kept edges; a cut edge carries ``ablated[sender]``. None keeps all.
    """
    c = model.config
    stream = model.weights["W_E"][tokens]
    if c.positions == "learned":
        stream = stream + model.weights["W_pos"][: len(tokens)]
    out, biases = {"input": stream}, torch.zeros_like(stream)

    def read(receiver: str) -> Tensor:
        total = biases.clone()
        for name, live in out.items():
            total = total + (live if kept is None or f"{name}->{receiver}" in kept else ablated[name])
        return total

    for layer in range(c.n_layers):
        written = {}
        for head in range(c.n_heads):
            ports = [read(f"a{layer}.h{head}<{port}>") for port in "qkv"]
            written[f"a{layer}.h{head}"] = _head(model, layer, head, *ports)
        out |= written
        biases = biases + model.weights.get(f"layers.{layer}.b_O", torch.zeros_like(biases[0]))
        if c.d_mlp:
            out[f"m{layer}"] = _mlp(model, layer, read(f"m{layer}"))
    return out, read("logits")


def logits(model: Transformer, final: Tensor) -> Tensor:
    out = _norm(model, "ln_final", final) @ model.weights["W_U"]
    return out + model.weights.get("b_U", torch.zeros_like(out[0]))


def circuit_logits(model: Transformer, clean: Tensor, ablated: dict[str, Tensor], kept: set[str]) -> Tensor:
    """Logits (positions, d_vocab) of one prompt under a circuit."""
    return logits(model, senders(model, clean, kept, ablated)[1])


def ablated_values(model: Transformer, name: str, corrupted: list[Tensor]) -> list[dict[str, Tensor]]:
    """For every prompt, what every sender writes under an ablation."""
    runs = [senders(model, tokens)[0] for tokens in corrupted]
    if name == "corrupted":
        return runs
    out = []
    for tokens in corrupted:
        row = {}
        for sender in runs[0]:
            if name == "zero":
                row[sender] = torch.zeros_like(runs[0][sender][:1]).expand(len(tokens), -1)
            elif name == "mean":
                row[sender] = torch.cat([run[sender] for run in runs]).mean(0).expand(len(tokens), -1)
            else:
                row[sender] = torch.stack(
                    [
                        torch.stack([run[sender][p] for run in runs if len(run[sender]) > p]).mean(0)
                        for p in range(len(tokens))
                    ]
                )
        out.append(row)
    return out


def edge_attribution(
    model: Transformer, clean: Tensor, ablated: dict[str, Tensor], metric: Metric, targets: Targets, point: float = 1.0
) -> dict[str, float]:
    """EAP of one prompt: (clean - ablated) sender output times the gradient at each receiver's own input.

    Every receiver reads its own copy of the stream, so its gradient is its own. ``point`` moves the embedding from the
    ablated (0) to the clean one (1) before the gradient is taken.
    """
    c = model.config
    with torch.no_grad():
        live, _ = senders(model, clean)
    start = ablated["input"] + point * (live["input"] - ablated["input"])
    inputs: dict[str, Tensor] = {}
    before: dict[str, list[str]] = {}
    out, biases = {"input": start.clone().requires_grad_()}, torch.zeros_like(start)

    def read(receiver: str) -> Tensor:
        inputs[receiver] = (biases + sum(out.values())) * 1.0
        inputs[receiver].retain_grad()
        before[receiver] = list(out)
        return inputs[receiver]

    for layer in range(c.n_layers):
        written = {}
        for head in range(c.n_heads):
            ports = [read(f"a{layer}.h{head}<{port}>") for port in "qkv"]
            written[f"a{layer}.h{head}"] = _head(model, layer, head, *ports)
        out |= written
        biases = biases + model.weights.get(f"layers.{layer}.b_O", torch.zeros_like(biases[0]))
        if c.d_mlp:
            out[f"m{layer}"] = _mlp(model, layer, read(f"m{layer}"))
    value = metric(logits(model, read("logits"))[-1:], targets)
    value.sum().backward()
    return {
        f"{sender}->{receiver}": metric.sign * float(((live[sender] - ablated[sender]) * inputs[receiver].grad).sum())
        for receiver, names in before.items()
        for sender in names
    }


# -------------------------------------------------------------------- ACDC, one full forward pass per test


def acdc_senders(model: Transformer, layer: int, mlp_of_layer_below: bool, low_to_high: bool) -> list[str]:
    """Senders before a receiver: heads of ``layer`` too if ``mlp_of_layer_below`` (the receiver is an MLP)."""
    c = model.config
    out = []
    heads = list(range(c.n_heads)) if low_to_high else list(range(c.n_heads))[::-1]
    if mlp_of_layer_below:
        out += [f"a{layer}.h{head}" for head in heads]
    for lower in range(layer)[::-1]:
        if c.d_mlp:
            out.append(f"m{lower}")
        out += [f"a{lower}.h{head}" for head in heads]
    return [*out, "input"]


def acdc_order(model: Transformer, low_to_high: bool, split: bool, direct: bool) -> list[tuple[str, list[str]]]:
    """Receivers from the logits down, each with its senders in order; ``["*"]`` stands for the whole port."""
    c = model.config
    order = [("logits", acdc_senders(model, c.n_layers, False, low_to_high))]
    for layer in range(c.n_layers)[::-1]:
        if c.d_mlp:
            order.append((f"m{layer}", acdc_senders(model, layer, True, low_to_high)))
        below = acdc_senders(model, layer, False, low_to_high)
        ports = [f"<{port}>" for port in "vkq"] if split else [""]
        heads = range(c.n_heads)[::-1]
        if direct:
            order += [(f"a{layer}.h{head}{port}", ["*"]) for port in ports for head in heads]
        order += [(f"a{layer}.h{head}{port}", below) for port in ports for head in heads]
    return order


def acdc(
    model: Transformer,
    pairs,
    metric: Metric,
    threshold: float,
    *,
    ablation: str = "corrupted",
    absolute: bool = False,
    low_to_high: bool = False,
    split: bool = True,
    direct: bool = False,
) -> tuple[set[str], dict[str, float]]:
    """ACDC as its paper has it: kept edges, and the delta of every tested candidate in the order of the tests.

    One full dense forward pass per test, over all prompts at once; nothing is kept from one test to the next.
    """
    (batch,) = make_batches(model, pairs, len(pairs))
    batch = with_clean_logits(model, batch, (metric,))
    ablated = prepare_ablation(ablation, model, [batch]).values(batch)
    kept = set(model.graph.edge_names())

    def loss() -> float:
        mask = torch.from_numpy(model.graph.mask(kept))[None].to(model.dtype)
        logits = run_masked(model, batch.clean, ablated, mask, batch.answer)
        return -metric.sign * float(metric(logits, batch.targets).mean())

    deltas: dict[str, float] = {}
    current = loss()
    for receiver, senders in acdc_order(model, low_to_high, split, direct):
        node = receiver.partition("<")[0]
        ports = [receiver] if split or not node.startswith("a") else [f"{receiver}<{port}>" for port in "qkv"]
        for sender in senders:
            edges = {e for e in kept if e.split("->")[1] in ports and sender in ("*", e.split("->")[0])}
            unread = node != "logits" and not any(edge.startswith(f"{node}->") for edge in kept)
            if unread or not edges:
                kept -= edges
                continue
            kept -= edges
            new = loss()
            name = f"{receiver}->{node}" if sender == "*" else f"{sender}->{receiver}"
            deltas[name] = new - current
            if (abs(new - current) if absolute else new - current) < threshold:
                current = new
            else:
                kept |= edges
    return kept, deltas
