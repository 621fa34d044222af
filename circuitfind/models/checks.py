"""The three checks that every model passes before anything is computed with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.in_float64 import float64_throughout
from circuitfind.models.left_on import left_on
from circuitfind.models.refusals import unknown_parts_refused
from circuitfind.transformer import Transformer, base_streams, sender_outputs, walk

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
N_PROMPTS, N_POSITIONS, LONGEST = 3, 12, 600
"""Size of the checks' random prompts. If the model has attention windows, prompts are longer than a window, up to a limit."""


@dataclass(frozen=True)
class Check:
    """One check: the claim, the largest relative error found, and the tolerance."""

    claim: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        return f"{verdict} {self.claim}: relative error {self.error:.1e} (allowed {self.tolerance:.0e})"


def check_model(model: Transformer, source: Any = None, *, seed: int = 0) -> list[Check]:
    """Compare ``model`` with the object it was read from, on random tokens.

    1. *Logits* equal the source's.
    2. *Decomposition*: at every layer the source's residual stream is the sum of the senders' writes and the constant
       biases. It fails for post-norm models, in which a head has no write of its own.
    3. *All edges cut* gives the corrupted logits: every node that reads the stream of ablated senders writes what it
       writes in the corrupted run.

    Args:
        source: the TransformerLens object; without one, only what needs no source is checked (2 against the plain forward
            pass).

    Example:
        >>> import circuitfind as cf
        >>> [check.passed for check in cf.check_model(cf.load_model("induction-2l"))]
        [True, True, True]
    """
    generator = torch.Generator().manual_seed(seed)
    windows = [size + 4 for size in model.config.windows if 0 < size + 4 <= LONGEST]
    shape = (2, N_PROMPTS, min(max([N_POSITIONS, *windows[:1]]), model.config.n_ctx))
    clean, corrupted = torch.randint(model.config.d_vocab, shape, generator=generator).to(model.device)
    with torch.inference_mode():
        theirs, streams = _source_run(model, source, clean)
        tolerance = TOLERANCE.get(model.dtype, 1e-4)
        what = "the source" if source is not None else "the plain forward"
        return [
            Check(f"logits equal those of {what}", _error(model.logits(clean), theirs), tolerance),
            Check(f"the stream of {what} is the sum of all senders", _decomposition(model, clean, streams), tolerance),
            Check("cutting every edge gives the corrupted run", _all_cut(model, corrupted), tolerance),
        ]


def require(model: Transformer, checks: list[Check], source: Any = None) -> Transformer:
    """The model, if all checks passed.

    Args:
        source: what it was compared with; where something was left on in it, that is named first.

    Raises:
        ModelError: a check failed; the message lists the checks and what they mean.
    """
    if all(check.passed for check in checks):
        return model
    lines = "\n  ".join(str(check) for check in checks)
    if cause := left_on(source):
        raise ModelError(f"model {model.name!r} does not pass its checks. {cause}\n  {lines}")
    raise ModelError(
        f"model {model.name!r} does not pass its checks, so no result on it would be right:\n  {lines}\n"
        "Its architecture does something that circuitfind does not know (a scaled residual, another mask, ...), or its "
        "configuration says what the model does not do"
    )


def compare(claim: str, ours: Tensor, theirs: Tensor) -> Check:
    """The check that two tensors are equal up to their precision."""
    return Check(claim, _error(ours.detach(), theirs), TOLERANCE.get(ours.dtype, 1e-4))


def _error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value of the reference."""
    theirs = theirs.to(ours)
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))


def _largest(errors: list[float]) -> float:
    """The largest error; NaN if any is NaN, which ``max`` could miss."""
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _source_run(model: Transformer, source: Any, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The source's logits and its residual stream after every layer."""
    if source is None:
        streams = [at.stream for at in walk(model, model.embed(tokens)) if at.block.kind != "mlp"]
        return model.unembed(streams[-1]), streams[1:]
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.config.n_layers)]
    device = getattr(source.cfg, "device", None) or tokens.device
    modules = getattr(source, "original_model", None)
    unusual = unknown_parts_refused(f"model {model.name!r}")
    with unusual, float64_throughout(model.dtype == torch.float64, modules):
        logits, cache = source.run_with_cache(tokens.to(device), names_filter=names)
        return logits.to(tokens.device), [cache[name].to(tokens.device) for name in names]


def _decomposition(model: Transformer, tokens: Tensor, streams: list[Tensor]) -> float:
    """The largest error of the senders' sums, compared with the streams."""
    outputs = sender_outputs(model, tokens)
    sums = [
        stream
        for block, stream in zip(model.graph.blocks, base_streams(model, outputs, outputs[0]), strict=True)
        if block.kind == "logits" or (block.kind == "attention" and block.layer)
    ]
    return _largest([_error(ours, theirs) for ours, theirs in zip(sums, streams, strict=True)])


def _all_cut(model: Transformer, corrupted: Tensor) -> float:
    """The largest error of nodes and logits that read only the stream of corrupted senders."""
    graph, outputs = model.graph, sender_outputs(model, corrupted)
    errors = []
    for block, stream in zip(graph.blocks, base_streams(model, outputs, outputs[0]), strict=True):
        if block.kind == "logits":
            errors.append(_error(model.unembed(stream), model.logits(corrupted)))
        elif block.kind == "mlp":
            errors.append(_error(model.mlp_block(block.layer, stream), outputs[graph.mlp(block.layer)]))
        else:
            x = model.norm(f"layers.{block.layer}.ln1", stream)
            q, k, v = (model.project_all(block.layer, port, x) for port in "qkv")
            heads = outputs[graph.heads(block.layer)]
            errors.append(_error(model.node_writes(block.layer, model.attend(block.layer, q, k, v)), heads))
    return _largest(errors)
