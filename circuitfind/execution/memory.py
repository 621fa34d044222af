"""How much memory a run may use, and what that decides: prompts at a time, tile sizes, and what goes to disk."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.transformer import Transformer

TILE_BYTES = 64 * 2**20
"""Bytes of all senders' writes that are computed from head space at a time."""
DEFAULT_CPU, SHARE_OF_GPU = 2**30, 0.6
"""Default memory of a run besides the weights: bytes on a CPU (at most half of what is free), and the share of a GPU's free
memory."""
FILE_BYTES = 256 * 2**20
"""Minimum size of a temporary file."""
SHARE_OF_BATCH = 0.4
"""Share of the budget that one micro-batch may take; the rest is for tiles, means, logits and the allocator."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_LIMIT: ContextVar[int] = ContextVar("memory limit", default=0)


@contextmanager
def memory_limit(size: str | int | None) -> Iterator[None]:
    """Limit memory besides the weights to about ``size``: ``8GB``, ``500MB``, bytes; None lets the device decide.

    Example:
        >>> import circuitfind as cf
        >>> with cf.memory_limit("200MB"):
        ...     scores = cf.discover("induction-2l", "induction", algorithm="eap", n=8)
    """
    token = _LIMIT.set(parse_bytes(size) if size else 0)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def current_limit() -> int:
    """The current limit in bytes; 0 for none."""
    return _LIMIT.get()


def parse_bytes(text: str | int) -> int:
    """Bytes from ``8GB``, ``500 MB``, ``1.5G`` or a number of bytes; units are powers of 1024.

    Raises:
        OptionError: the text is not a size, or the size is not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(text), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise OptionError(f"memory {str(text)!r} is not a size; write 8GB, 500MB or a number of bytes")
    return size


def budget(device: torch.device) -> int:
    """Bytes a run on ``device`` may use besides the weights: the current limit, or what the device allows."""
    if limit := current_limit():
        return limit
    if device.type == "cuda":
        return int(SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0])
    return max(2**26, min(DEFAULT_CPU, _free_memory() // 2))


def prompts_at_a_time(model: Transformer, numbers_per_token: int, longest: int, most: int) -> int:
    """How many prompts of ``longest`` tokens fit a micro-batch's share of the budget, at least 1."""
    per_prompt = numbers_per_token * model.dtype.itemsize * longest
    return max(1, min(most, int(SHARE_OF_BATCH * budget(model.device)) // max(1, per_prompt)))


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not available on every system
        return 2 * DEFAULT_CPU


def tile_tokens(model: Transformer, size: int) -> int:
    """Tokens whose writes of all senders take at most ``size`` bytes."""
    return max(1, size // (model.graph.n_senders * model.config.d_model * model.dtype.itemsize))


def attribution_numbers(model: Transformer, recompute: bool = False) -> int:
    """Numbers per token that an attribution pass holds at once, without its tile.

    These are the stream at every block, differences and port gradients in head space, and MLP differences and gradients.
    Unless recomputed, q, k, v and the MLPs' pre-activations are added.
    """
    c = model.config
    q, kv, mlps = c.n_heads * c.d_head, c.n_kv_heads * c.d_head, bool(c.d_mlp)
    streams = 1 + (mlps and not c.parallel)
    stored = streams * c.d_model + 2 * q + 3 * q + 3 * mlps * c.d_model
    saved = q + 2 * kv + (1 + c.gated) * c.d_mlp
    transient = 4 * (q + (1 + c.gated) * c.d_mlp) + 8 * c.d_model
    return c.n_layers * (stored + (0 if recompute else saved)) + transient


def added_numbers(model: Transformer, runs: int) -> int:
    """Numbers per token that gradients added up over some runs hold beside one attribution pass.

    These are the gradients of a second pass while it is added, and every run's streams with three factors for each head.
    """
    c = model.config
    q, mlps = c.n_heads * c.d_head, bool(c.d_mlp)
    return c.n_layers * (3 * q + mlps * c.d_model + runs * (c.d_model + 3 * c.n_heads))


def patching_numbers(model: Transformer) -> int:
    """Numbers per token that patching holds.

    For each of two whole runs: the stream at every block, mixed values, keys, values, what MLPs write, and the hidden
    values of one MLP.
    """
    c = model.config
    of_a_layer = (c.n_heads + 2 * c.n_kv_heads) * c.d_head + bool(c.d_mlp) * c.d_model
    return 2 * (len(model.graph.blocks) * c.d_model + c.n_layers * of_a_layer + c.d_mlp)


def patched_tokens(model: Transformer, most: int) -> int:
    """Tokens of patched runs to process at once: at most ``most``, in half of the budget that batches leave."""
    c = model.config
    numbers = 4 * (1 + c.gated) * c.d_mlp + 8 * c.d_model + 4 * c.n_heads * c.d_head
    share = int((1 - SHARE_OF_BATCH) / 2 * budget(model.device))
    return max(1, min(most, share // (numbers * model.dtype.itemsize)))


def dense_numbers(model: Transformer) -> int:
    """Numbers per token of all senders' writes, in the residual stream's space."""
    return model.graph.n_senders * model.config.d_model


def searching_numbers(model: Transformer) -> int:
    """Numbers per token that an incremental search holds for every prompt.

    These are the senders' outputs twice, the stream at every block, q, k and v of every node, and at most one constant per
    receiver.
    """
    c, graph = model.config, model.graph
    return (
        2 * graph.n_senders + len(graph.blocks) + graph.n_receivers
    ) * c.d_model + 3 * c.n_layers * c.n_heads * c.d_head


class Room:
    """Storage for large long-lived tensors: memory, or temporary files paged by the system if memory is too small.

    Args:
        on_disk: whether they go to files (CPU tensors only). Each file holds many tensors, because the number of mappings is
            limited.
    """

    def __init__(self, on_disk: bool = False) -> None:
        self.on_disk = on_disk
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of the dtype and device of ``like``.

        Raises:
            CircuitfindError: the disk is full.
        """
        if not self.on_disk or like.device.type != "cpu":
            return like.new_empty(shape)
        size = -(-torch.Size(shape).numel() * like.element_size() // 64) * 64  # rows stay aligned
        if len(self._free) < size:
            self._free = _file_of(max(size, FILE_BYTES))
        part, self._free = self._free[:size], self._free[size:]
        return part.view(like.dtype)[: torch.Size(shape).numel()].view(shape)

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor, moved to this storage."""
        return self.empty(tuple(tensor.shape), tensor).copy_(tensor) if self.on_disk else tensor.contiguous()


def _file_of(size: int) -> Tensor:
    """Bytes in an unnamed file; space is reserved now, so a full disk is noticed here and not during use."""
    with tempfile.NamedTemporaryFile(prefix="circuitfind-") as file:  # mapped files outlive their names
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        except OSError as error:
            raise CircuitfindError(
                f"the search needs {size / 2**20:,.0f} MB more on disk than there is in {tempfile.gettempdir()} ({error}); "
                "give it more with --memory or TMPDIR, or use fewer prompts"
            ) from None
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
