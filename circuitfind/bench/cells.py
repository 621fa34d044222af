"""A cell: one algorithm, with its options, on one task of one model, under one ablation, with one seed.

A cell is identified by the hash of everything that determines its numbers: the options, the weights, the tokens of the
prompts, the known circuit, the metric, the measures, and the code of circuitfind and of the user's algorithm. So nothing is
measured twice, and no result is reused after a change. Threads and memory determine the order of summation, so they are in the
hash too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from circuitfind import models
from circuitfind.bench.grid import Grid, Ground
from circuitfind.bench.own import Sources, algorithm_named
from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.errors import CircuitfindError
from circuitfind.graph import Mask
from circuitfind.run.folder import code_hash
from circuitfind.setting.value import Setting
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric, MetricFile, as_metric, metric_from_text
from circuitfind.transformer import Transformer
from circuitfind.truth import truth_of

APART = (
    "tasks",  # the prompts they make are in a cell's hash
    *("cli", "rendering", "patching", "__main__.py"),
    *(
        f"run/{name}.py"
        for name in (
            "pipeline",
            "request",
            "estimate",
            "replay",
            "sensitivity",
            "comparison",
            "comparison_files",
            "overlap",
        )
    ),
    *("formats/importances.py", "formats/mib.py", "formats/mib_check.py", "formats/opening.py"),
    *("bench/page.py", "bench/leaderboard.py", "bench/recorded.py", "bench/pictures.py", "bench/significance.py"),
    *("bench/table.py", "bench/benchmark.py", "bench/plan.py", "bench/store.py", "bench/workers.py"),
    *("bench/methods.py", "bench/method_values.py", "bench/method_files.py", "bench/method_pictures.py"),
)
"""Source files and folders that do not affect a cell's numbers; all others are in its hash."""
LETTERS = 16
"""Number of characters of the hash in the name of a cell."""


@dataclass(frozen=True)
class GridValues:
    """The values that all cells of a grid share: see :mod:`circuitfind.bench.grid`."""

    measures: tuple[str, ...]
    threads: int
    memory: str
    device: str
    dtype: str

    @classmethod
    def of(cls, grid: Grid) -> GridValues:
        """The shared values of a grid."""
        return cls(grid.measures, grid.threads, grid.memory, grid.device, grid.dtype)


@dataclass(frozen=True)
class Cell:
    """What is run, and what it must be run on.

    Attributes:
        model, task: their specifications.
        algorithm, options: the algorithm with all options resolved.
        metric, metric_file: the metric that scores are found with, and its file if it is the user's own.
        ablation, seed, prompts, held_out: see :class:`~circuitfind.setting.value.Setting`; number of prompts of each split.
        own: the file of the algorithm, if it is the user's own.
        shared: the values that all cells of the grid share.
        weights, tokens, truth: hashes of the model, of the prompts of both splits with the task's metric, and of the known
            circuit ("" if no circuit is known).
        code: hash of circuitfind's source.
    """

    model: str
    task: str
    algorithm: str
    options: Mapping[str, Any]
    metric: str
    metric_file: Sources
    ablation: str
    seed: int
    prompts: int
    held_out: int
    own: Sources
    shared: GridValues
    weights: str
    tokens: str
    truth: str
    code: str

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @property
    def name(self) -> str:
        """The first :data:`LETTERS` characters of the hash of all fields."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:LETTERS]


@cache
def measuring_code() -> str:
    """Hash of all source code that a cell runs."""
    return code_hash(APART)


class Subjects:
    """Models and settings for the names in a grid; those of the last model are kept."""

    def __init__(self) -> None:
        self._model: tuple[Any, Transformer, str] | None = None
        self._settings: dict[Any, Setting] = {}

    def model(self, spec: str, shared: GridValues) -> tuple[Transformer, str]:
        """A model, and a hash of its weights and configuration."""
        key = spec, shared.device, shared.dtype
        if self._model is None or self._model[0] != key:
            self._model = None  # frees the memory of the previous model
            self._settings.clear()
            model = models.load(spec, device=shared.device, dtype=shared.dtype)
            self._model = key, model, weights_of(model)
        return self._model[1:]

    def setting(self, model: Transformer, ground: Ground | Cell, seed: int) -> Setting:
        """The setting of a ground or a cell; its prompts are made once."""
        key = ground.task, ground.prompts, ground.held_out, seed
        if key not in self._settings:
            self._settings[key] = Setting(ground.task, model, n=ground.prompts, n_held_out=ground.held_out, seed=seed)
        return self._settings[key]


@dataclass(frozen=True)
class Subject:
    """A task on a model with the prompts of one seed, and a hash of the model."""

    setting: Setting
    weights: str

    @classmethod
    def of(cls, subjects: Subjects, ground: Ground | Cell, seed: int, shared: GridValues) -> Subject:
        """The subject of a ground or a cell."""
        model, weights = subjects.model(ground.model, shared)
        return cls(subjects.setting(model, ground, seed), weights)

    def truth(self, ablation: str) -> Mask | None:
        """The known circuit, boolean (edges,), if there is one."""
        truth = truth_of(self.setting.transformer, self.setting.behaviour, ablation)
        return None if truth is None else truth.edges

    def hashes(self, ablation: str) -> dict[str, str]:
        """``weights``, ``tokens`` and ``truth`` of a :class:`Cell`."""
        truth, both = self.truth(ablation), (self.setting.train, self.setting.held_out)
        return {
            "weights": self.weights,
            "tokens": _sha256(
                _said_of(self.setting.behaviour.metric), *(text for pairs in both for text in _checksums(pairs))
            ),
            "truth": "" if truth is None else hashlib.sha256(truth.tobytes()).hexdigest(),
        }

    def problem(self, metric: Metric, ablation: str) -> Problem:
        """The problem of discovery.

        Raises:
            OptionError: the metric needs incorrect answers that a pair does not have.
        """
        return self.setting.but(metric=metric, ablation=ablation).problem("train")


def _checksums(pairs: TokenPairs) -> tuple[str, str]:
    """Hash of the token ids, and the positions where the answers are read."""
    return pairs.checksum(), str(pairs.answer_position.tolist())


def weights_of(model: Transformer) -> str:
    """A hash of a model's weights and configuration, as a :class:`Cell` has it."""
    return _sha256(model.checksum(), json.dumps(model.config_dict(), sort_keys=True))


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _said_of(metric: str) -> str:
    """A registered metric's name; for a user's own, the hash of its file, whose path may differ on another machine."""
    source = as_metric(metric).source
    return metric if source is None else source.sha256


def algorithm_of(cell: Cell) -> Algorithm:
    """A cell's algorithm."""
    return algorithm_named(cell.algorithm, cell.own)


def named_metric(metric: Metric) -> tuple[str, Sources]:
    """``metric`` and ``metric_file`` of a :class:`Cell`."""
    if metric.source is None:
        return metric.name, {}
    file = Path(metric.source.path).name
    return f"{file}:{metric.source.name}", {file: metric.source.text}


def metric_of(cell: Cell) -> Metric:
    """A cell's metric; a user's own is made from the text that came with the cell."""
    for file, text in cell.metric_file.items():
        return metric_from_text(MetricFile(file, cell.metric.removeprefix(f"{file}:"), text))
    return as_metric(cell.metric)


def check_here(cell: Cell, subject: Subject) -> None:
    """Refuse to measure a cell if anything differs from what the grid was planned with.

    Raises:
        CircuitfindError: circuitfind's code, the weights, the prompts or the known circuit differ on this machine.
    """
    here = {"code": measuring_code(), **subject.hashes(cell.ablation)}
    for what, value in here.items():
        if getattr(cell, what) != value:
            raise CircuitfindError(
                f"the {what} of {cell.model}, {cell.task} differ on this machine from those that the grid was planned with; "
                "install the same circuitfind, and give the same models, everywhere"
            )
