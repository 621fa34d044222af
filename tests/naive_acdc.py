"""The search of ACDC with a full pass per edge, and the comparison of a search with it."""

import numpy as np
import pytest
import torch
from naive import members, mlp_nodes, n_nodes, node_name, owners

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.scores.decisions import SAME_VALUE, TESTED_AGAIN, DecisionLog
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

ACDC = ALGORITHMS["acdc"]


def acdc_senders(model: Transformer, layer: int, of_mlp: bool, low_to_high: bool) -> list[str]:
    """Senders before a receiver: heads of ``layer`` too if ``of_mlp``, unless attention and MLP stand side by side."""
    c = model.config
    out = []
    heads = list(range(n_nodes(model))) if low_to_high else list(range(n_nodes(model)))[::-1]
    if of_mlp and not c.parallel:
        out += [node_name(c, layer, head) for head in heads]
    for lower in range(layer)[::-1]:
        if c.d_mlp:
            out += mlp_nodes(c, lower) if low_to_high else mlp_nodes(c, lower)[::-1]
        out += [node_name(c, lower, head) for head in heads]
    return [*out, "input"]


def acdc_order(model: Transformer, low_to_high: bool, split: bool, direct: bool) -> list[tuple[str, list[str]]]:
    """Receivers from the logits down, each with its senders in order; ``["*"]`` stands for the whole port."""
    c = model.config
    order = [("logits", acdc_senders(model, c.n_layers, False, low_to_high))]
    for layer in range(c.n_layers)[::-1]:
        if c.d_mlp:
            below = acdc_senders(model, layer, True, low_to_high)
            order += [(name, below) for name in mlp_nodes(c, layer)[::-1]]
        below = acdc_senders(model, layer, False, low_to_high)
        ports = [f"{owner}<{port}>" for port in "vkq" for owner in owners(c, layer, port)[::-1]]
        if not split:
            ports = owners(c, layer, "q")[::-1]
        if direct:
            order += [(port, ["*"]) for port in ports]
        order += [(port, below) for port in ports]
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
    ablated = prepare_ablation(ablation, model, [batch]).writes(batch)
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
            sending = tuple(f"{member}->" for member in members(model.config, node))
            unread = node != "logits" and not any(edge.startswith(sending) for edge in kept)
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


ACDC = ALGORITHMS["acdc"]


def log_of(model, pairs, metric="kl", ablation="corrupted", batch_size=None, **options) -> DecisionLog:
    problem = Problem(
        model, pairs, metric if isinstance(metric, Metric) else METRICS[metric], ablation, batch_size=batch_size
    )
    return ACDC(problem, **options).decisions[0]


def deltas_of(log: DecisionLog) -> dict[str, float]:
    """Delta of every tested candidate, in order."""
    how = log.values[:, 3]
    return {log.candidates.name(int(n)): log.delta[n] for n in np.flatnonzero(how <= TESTED_AGAIN)}


def assert_same_as_naive(model, pairs, metric, threshold, ablation="corrupted", batch_size=None, **options) -> None:
    log = log_of(model, pairs, metric, ablation, batch_size, threshold=threshold, **options)
    kept, deltas = acdc(
        model,
        pairs,
        METRICS[metric],
        threshold,
        ablation=ablation,
        absolute=options.get("absolute", False),
        low_to_high=options.get("heads") == "low-to-high",
        split=options.get("split_qkv", True),
        direct=options.get("direct_edges", False),
    )
    assert set(model.graph.edge_names(np.flatnonzero(log.kept))) == kept
    mine = deltas_of(log)
    skipped = {log.candidates.name(int(n)) for n in np.flatnonzero(log.values[:, 3] == SAME_VALUE)}
    assert list(mine) == [name for name in deltas if name not in skipped]
    assert skipped <= set(deltas)
    assert [deltas[name] for name in skipped] == pytest.approx([0.0] * len(skipped), abs=1e-13)
    assert list(mine.values()) == pytest.approx([deltas[name] for name in mine], abs=1e-9)


def zoo_problem(task="ioi", n=12, dtype="float32", **changes) -> Problem:
    model = cf.load_model("tasks-4l", dtype=dtype)
    pairs = tokenized_pairs(model, cf.load_task(task), split="train", n=n)
    return Problem(**{"model": model, "pairs": pairs, "metric": METRICS["kl"]} | changes)
