"""Gradients and masks written out prompt by prompt."""

import naive
import torch
from attribution import result
from builders import prompt
from naive_runs import naive_ablated

from circuitfind.execution.writes import sublayers


def nodes(name, *given, **options):
    return result(name, *given, **options).nodes


def naive_gradients(model, tokens, metric, targets, writes=None):
    """Gradients of the metric, larger being better, at every receiver's own input and at every sender's output.

    Some senders write what ``writes`` says instead. Returns also which senders every receiver reads.
    """
    wrote, inputs, reads = {}, {}, {}

    def read(receiver, out, biases):
        for name in out:
            if name not in wrote:
                wrote[name] = (writes or {}).get(name, out[name]).clone().requires_grad_()
                wrote[name].retain_grad()
        if receiver not in inputs:
            inputs[receiver] = biases + sum(wrote[name] for name in out)
            inputs[receiver].retain_grad()
            reads[receiver] = list(out)
        return inputs[receiver]

    start = (writes or {}).get("input", naive.embedding(model, tokens)).clone().requires_grad_()
    final = naive._walk(model, start, read)[1]
    (metric.sign * metric(naive.logits(model, final)[-1:], targets)).sum().backward()
    at_inputs, at_outputs = ({name: x.grad for name, x in known.items()} for known in (inputs, wrote))
    return at_inputs, at_outputs, reads


def clean_and_ablated(model, pairs, ablation):
    clean = [naive.senders(model, prompt(pairs, row))[0] for row in range(len(pairs))]
    return zip(range(len(pairs)), clean, naive_ablated(model, pairs, ablation), strict=True)


def masks_of(graph, edges, share, step):
    """One mask for each edge: all edges out of its sender's sublayer at ``share``, the edge itself a step further."""
    masks = torch.ones(len(edges), graph.n_edges, dtype=torch.float64)
    for row, edge in enumerate(edges):
        part = next(part for part in sublayers(graph) if part.start <= graph.edge_sender[edge] < part.stop)
        masks[row, (graph.edge_sender >= part.start) & (graph.edge_sender < part.stop)] = share
        masks[row, edge] += step
    return masks
