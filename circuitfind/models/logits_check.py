"""A model held against logits that are known to be right; where they differ, which matrix turned round makes them equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from circuitfind.errors import ModelError
from circuitfind.models.checks import Check, compare
from circuitfind.models.layouts import layer_and_leaf
from circuitfind.transformer import Transformer

LogitsCheck = tuple[Any, Any] | tuple[Any, Any, int] | Callable[[Tensor], Any]
"""Token ids (prompts, positions) and logits (prompts, positions, outputs), or those at the last position (or another one, which
then comes third) alone, (prompts, outputs); or a callable that gives them.
"""
N_PROMPTS, MOST_POSITIONS = 4, 16
CLAIM = "logits equal those that were given"


def known_logits(model: Transformer, given: LogitsCheck) -> tuple[Tensor, Tensor, int]:
    """Ids, their logits, and the position that these are of where they are of one.

    Raises:
        ModelError: they have shapes that do not belong together.
    """
    at = -1
    if callable(given):
        shape = N_PROMPTS, min(model.config.n_ctx, MOST_POSITIONS)
        tokens = torch.randint(model.config.d_vocab, shape, generator=torch.Generator().manual_seed(0))
        logits = _given_by(given, tokens)
    elif isinstance(given, tuple | list) and len(given) in (2, 3):
        tokens, logits, at = (*given, -1)[:3]
    else:
        raise ModelError("logits_check= takes (tokens, logits), or a callable that gives logits for tokens")
    tokens, logits = torch.as_tensor(tokens), torch.as_tensor(logits).detach()
    whole = (*tokens.shape, model.config.n_outputs)
    if tokens.dim() != 2 or tuple(logits.shape) not in (whole, (whole[0], whole[-1])):
        raise ModelError(
            f"logits_check= has logits {tuple(logits.shape)} for tokens {tuple(tokens.shape)}; a model with "
            f"{model.config.n_outputs} outputs gives {whole}, or at one position {(whole[0], whole[-1])}"
        )
    return tokens, logits, int(at)


def _given_by(source: Callable[[Tensor], Any], tokens: Tensor) -> Any:
    """What a callable gives for tokens; a module in evaluation mode, on its own device."""
    module = source if isinstance(source, nn.Module) else None
    training = module is not None and module.training
    device = next((parameter.device for parameter in module.parameters()), tokens.device) if module else tokens.device
    try:
        if module is not None:
            module.eval()
        with torch.no_grad():
            logits = source(tokens.to(device))
    finally:
        if module is not None:
            module.train(training)
    logits = logits[0] if isinstance(logits, tuple) else getattr(logits, "logits", logits)  # nanoGPT, transformers
    return torch.as_tensor(logits).cpu()


def _compared(model: Transformer, tokens: Tensor, logits: Tensor, at: int) -> Check:
    with torch.inference_mode():
        ours = model.logits(tokens)
        return compare(CLAIM, ours if logits.dim() == 3 else ours[:, at], logits.to(ours.device))


def agrees(model: Transformer, given: LogitsCheck) -> bool:
    """Whether a model gives the known logits."""
    return _compared(model, *known_logits(model, given)).passed


def require_logits(model: Transformer, given: LogitsCheck) -> Transformer:
    """The model, if it gives the known logits.

    Raises:
        ModelError: it does not; the message says by how much, and which square matrix is transposed, if that is why.
    """
    known = known_logits(model, given)
    if (check := _compared(model, *known)).passed:
        return model
    for what, turned in _turned_round(model):
        if _compared(turned, *known).passed:
            raise ModelError(
                f"model {model.name!r} does not give the logits that were given (relative error {check.error:.1e}); it does "
                f"with {what} transposed. The matrix is square, so its shape did not tell"
            )
    raise ModelError(
        f"model {model.name!r} does not give the logits that were given: {check}. It is not one transposed square matrix; look "
        "at what the configuration says of activation, norm, norm_eps, attention_scale, positions and causal"
    )


def _turned_round(model: Transformer) -> Iterator[tuple[str, Transformer]]:
    """Models with square matrices transposed: those of one name in all layers, then every one alone."""
    square = [key for key, tensor in model.weights.items() if tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]]
    for leaf in dict.fromkeys(layer_and_leaf(key)[1] for key in square):
        keys = [key for key in square if layer_and_leaf(key)[1] == leaf]
        yield f"{leaf} of every layer" if len(keys) > 1 else keys[0], _with_transposed(model, keys)
    for key in square:
        yield key, _with_transposed(model, [key])


def _with_transposed(model: Transformer, keys: list[str]) -> Transformer:
    return model.with_weights({key: tensor.T if key in keys else tensor for key, tensor in model.weights.items()})
