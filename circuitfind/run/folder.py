"""The folder of a run: it is written completely or not at all, and an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from circuitfind.circuit.json_file import object_or_nothing
from circuitfind.errors import OptionError
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer

PACKAGES = ("torch", "transformer_lens", "networkx", "numba", "graphviz", "pygraphviz", "pandas", "pyarrow", "numpy")
KEPT = ("scores.safetensors", "checkpoint.safetensors")


class RunFolder:
    """``OUT.partial`` until the run is finished, then ``OUT``.

    The expensive parts (the scores, and the sums of an interrupted algorithm) are reused if nothing that determines them has
    changed: the model's weights, the prompts, the algorithm with its options, and circuitfind's own code.

    Args:
        out: where the finished folder will be.
        force: replace a finished run folder there, and drop scores of a partial one that was made with other settings.

    Raises:
        OptionError: the path holds something that must not be replaced.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        self.out, self.force = Path(out), force
        name = self.out.resolve().name
        if not name:
            raise OptionError(f"--out {out}: give a new folder's name")
        self.partial = self.out.resolve().with_name(name + ".partial")
        self.key = ""
        if self.out.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise OptionError(
                f"--out {out} exists already and is the working folder or holds it; give a new folder's name"
            )
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            self._check_replaceable()

    def _check_replaceable(self) -> None:
        if not self.out.is_dir() or "circuitfind" not in object_or_nothing(self.out / "config.json"):
            raise OptionError(f"{self.out} exists and is not a run folder, so it is not replaced; choose another --out")
        if not self.force:
            raise OptionError(f"{self.out} exists already; choose another --out, or replace it with --force")

    def begin(self, config: Mapping[str, Any], decisive: Mapping[str, Any]) -> bool:
        """Make the partial folder and write ``config.json``.

        Args:
            config: the whole configuration.
            decisive: everything that determines the scores.

        Returns:
            Whether there is an interrupted run to resume.

        Raises:
            OptionError: the partial folder holds scores that were made with other settings.
        """
        self.key = hashlib.sha256(json.dumps({**decisive, "code": code_hash()}, sort_keys=True).encode()).hexdigest()
        found = any((self.partial / name).exists() for name in KEPT)
        if found and object_or_nothing(self.partial / "key.json").get("key") != self.key:
            if not self.force:
                raise OptionError(
                    f"{self.partial} holds an interrupted run with other settings, prompts, weights or code; delete it, "
                    "choose another --out, or drop it with --force"
                )
            shutil.rmtree(self.partial)
            found = False
        self.partial.mkdir(parents=True, exist_ok=True)
        self.write_json("key.json", {"key": self.key})
        self.write_json("config.json", config)
        return found

    def leave_unless_something_was_computed(self) -> None:
        """After a refused run, remove the partial folder if it holds nothing to resume."""
        if not any((self.partial / name).exists() for name in KEPT):
            shutil.rmtree(self.partial)

    def write_json(self, name: str, values: Any) -> None:
        """Write one JSON file."""
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        (self.partial / name).write_text(text, encoding="utf-8")

    def checkpoint(self) -> Checkpoint:
        """Where the algorithm keeps its sums."""
        return Checkpoint(self.partial / "checkpoint.safetensors", self.key)

    def stored_scores(self) -> EdgeScores | None:
        """The scores of an interrupted run; None if it has none yet."""
        path = self.partial / "scores.safetensors"
        return EdgeScores.load(path) if path.exists() else None

    def store_scores(self, scores: EdgeScores) -> None:
        """Write the scores completely or not at all."""
        path = self.partial / "scores.safetensors"
        scores.save(path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def finish(self) -> None:
        """Give the folder its final name; an old folder is removed only after the new one is in place."""
        (self.partial / "key.json").unlink()
        old = self.partial.with_name(self.partial.name + ".old")
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(self.partial, self.out)
        shutil.rmtree(old, ignore_errors=True)


def folder_for(usual: Path, config: Mapping[str, Any]) -> Path:
    """The folder of a run for which none was named: the usual one, or one beside it where that holds a run with other settings.

    The same settings give the same folder again.
    """
    apart = {"circuitfind": "", "prompts_used": None}  # neither is a setting
    now = {**json.loads(json.dumps(config)), **apart}
    resolved = usual.resolve()
    for place in (resolved, resolved.with_name(resolved.name + ".partial")):
        stored = object_or_nothing(place / "config.json")
        if stored and {**stored, **apart} != now:
            text = json.dumps(now, sort_keys=True)
            return usual.with_name(f"{usual.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}")
    return usual


@cache
def code_hash(apart: tuple[str, ...] = ()) -> str:
    """SHA-256 of circuitfind's own source files.

    Args:
        apart: files and folders to leave out, such as ``"cli"`` or ``"bench/page.py"``.
    """
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if not {place.as_posix(), *(folder.as_posix() for folder in place.parents)} & set(apart):
            digest.update(place.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def versions(model: Transformer | None = None) -> dict[str, Any]:
    """Versions of the libraries, the machine, and the model's device."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    import torch

    return {
        "circuitfind": version("circuitfind"),
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": str(model.device) if model is not None else "cpu",
    }
