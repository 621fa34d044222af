"""An interrupted training's state on disk: parameters, optimiser moments and step, as safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuitfind.errors import ModelError

Tensors = dict[str, Tensor]


@dataclass
class Training:
    """Everything that decides how a training continues.

    Attributes:
        parameters: leaf tensors by name.
        optimizer: AdamW over them.
        step: how many steps are done.
        seconds: how many seconds they took.
    """

    parameters: Tensors
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path, identity: str) -> None:
        """Write the state; an existing file is replaced only when the new one is complete."""
        tensors = {f"parameter/{name}": tensor.detach() for name, tensor in self.parameters.items()}
        for name, tensor in self.parameters.items():
            for key, value in self.optimizer.state[tensor].items():
                tensors[f"{key}/{name}"] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished, {"identity": identity, "step": str(self.step), "seconds": str(self.seconds)})
        unfinished.replace(path)

    def resume(self, path: Path, identity: str) -> bool:
        """Load the state saved at ``path``, if there is one, and return whether there was.

        Raises:
            ModelError: the state belongs to a different training (``identity`` differs).
        """
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["identity"] != identity:
                raise ModelError(
                    f"{path} is the state of another training ({metadata['identity']}, now {identity}); delete it to "
                    "start anew, or give the same options to resume"
                )
            tensors: Tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self._take(tensors)
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        return True

    def _take(self, tensors: Tensors) -> None:
        for name, tensor in self.parameters.items():
            with torch.no_grad():
                tensor.copy_(tensors[f"parameter/{name}"])
            keys = [key.removesuffix(f"/{name}") for key in tensors if key.endswith(f"/{name}")]
            self.optimizer.state[tensor] = {key: tensors[f"{key}/{name}"].clone() for key in keys if key != "parameter"}
