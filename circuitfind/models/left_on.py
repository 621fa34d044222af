"""What somebody left on in a model's object, so that it does not compute what its weights say: train mode, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

MOST_NAMED = 3


def left_on(source: Any) -> str:
    """Sentences that name it and say how to turn it off; nothing where there is nothing, or no modules to look into."""
    return " ".join(_sentences(source)) if isinstance(source, nn.Module) else ""


def _sentences(source: nn.Module) -> Iterator[str]:
    dropping = (
        module for module in source.modules() if module.training and isinstance(module, nn.modules.dropout._DropoutNd)
    )
    if any(module.p > 0 for module in dropping):
        yield "The object is in train mode, so dropout changes what it computes at random: call model.eval() first."
    if names := [name for name, module in source.named_modules() if _is_hooked(module)]:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield (
            f"The object has hooks left on at {', '.join(names[:MOST_NAMED])}{more}, which may change what it computes: call "
            "model.reset_hooks(including_permanent=True), or remove() those that PyTorch registered."
        )


def _is_hooked(module: nn.Module) -> bool:
    """Whether a user's hook may change what a module gives. The libraries register some of their own, which only look."""
    hooks = [getattr(hook, "func", hook) for hook in module._forward_hooks.values()]
    return bool(getattr(module, "fwd_hooks", None)) or any(not _is_library(hook) for hook in hooks)


def _is_library(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] in (
        "transformers",
        "transformer_lens",
        "torch",
        "accelerate",
    )
