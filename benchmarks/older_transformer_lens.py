"""Run the tests of the HookedTransformer adapter with TransformerLens 2 and 3, each in a virtual environment of its own.

    python -m benchmarks.older_transformer_lens /tmp/older-lens [VERSION ...]

An environment that is there is used again. The package index must be reachable; nothing is downloaded from a hub.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

VERSIONS = ("2.18.0", "3.9.0")
TESTS = "tests/models/test_hooked_transformers.py"
ROOT = Path(__file__).parents[1]
OURS = "typer rich numba networkx pandas jinja2 matplotlib scipy pyyaml graphviz safetensors tokenizers".split()
TESTING = ("pytest", "hypothesis")
PINS = ("torch<2.14", "pyarrow<19", "datasets<4")  # TransformerLens 2 needs NumPy 1, which later versions refuse


def environment(folder: Path, version: str) -> Path:
    """The Python of an environment with one version of TransformerLens, made if it is not there."""
    place = folder / f"transformer-lens-{version}"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        wanted = [f"transformer_lens=={version}", *PINS, *OURS, *TESTING]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def main(folder: Path, versions: tuple[str, ...]) -> int:
    """How many versions failed."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    failed = 0
    for version in versions:
        command = [
            str(environment(folder, version)),
            "-m",
            "pytest",
            "-q",
            "-W",
            "default",
            "-p",
            "no:cacheprovider",
            TESTS,
        ]
        print(f"TransformerLens {version}", flush=True)
        failed += subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), tuple(sys.argv[2:]) or VERSIONS))
