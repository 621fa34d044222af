"""Where something is found or measured, as one frozen value: everything that is not the method itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from circuitfind import models
from circuitfind.discovery.contract import Problem
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.execution.memory import memory_limit
from circuitfind.scores import Provenance
from circuitfind.setting.defaults import ABLATION, N_HELD_OUT, N_PROMPTS
from circuitfind.setting.naming import TaskLike, is_name, is_whole, load_task, tokenized_pairs
from circuitfind.task import Task, TokenPairs
from circuitfind.task.metrics import Metric, MetricLike, as_metric, metric_again
from circuitfind.transformer import Transformer

FRESH_SEED = 1_000_003
"""Added to the seed for the prompts a circuit is chosen on."""
LOADING = {"device": None, "dtype": "float32", "bos": None, "kv_ports": "head"}
"""How a model is loaded where nothing is said."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Setting:
    """Model, task, metric, ablation, prompts, seed and memory, shared by every call.

    Nothing is loaded before it is needed, and nothing twice: the model, the task and every set of prompts are made once and
    kept, here and in every :meth:`but` of it.

    Attributes:
        task: a task's name, a file of pairs, a DataFrame, a list of pairs, :class:`PromptPairs` or a :class:`Task`.
        model: a zoo name, hub id, Hugging Face directory or TransformerLens object, or a loaded :class:`Transformer`; the
            task's own model if None.
        metric: a name, a :class:`Metric` or a callable ``(logits, targets) -> (..., prompts)``. If None: the algorithm's own,
            or that of the circuit that is measured, or else the task's.
        ablation: what a cut edge carries. If None: that of the circuit that is measured, or else ``corrupted``.
        n, n_held_out: how many prompts of the train and of the held-out split.
        seed: which prompts, and whatever else is drawn at random.
        task_options: values of the task's options. If None: those of the circuit that is measured, or else the defaults.
        pairs: token pairs to use instead of the task's, whatever the split.
        batch_size: prompts at a time; if None, what memory allows.
        memory: what a call may take beside the weights, such as ``"8GB"``; if None, what the device allows.
        device, dtype, bos, kv_ports: how a named model is loaded, see :func:`circuitfind.load_model`.

    Raises:
        UnknownNameError: no such metric or ablation.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8, ablation="mean")
        >>> len(setting.train), setting.transformer.graph.n_edges
        (8, 257)
        >>> setting.but(ablation="zero").transformer is setting.transformer
        True
    """

    task: TaskLike
    model: Any = None
    metric: MetricLike | None = None
    ablation: str | None = None
    n: int = N_PROMPTS
    n_held_out: int = N_HELD_OUT
    seed: int = 0
    task_options: Mapping[str, str] | None = None
    pairs: TokenPairs | None = None
    batch_size: int | None = None
    memory: str | None = None
    device: str | None = None
    dtype: str = "float32"
    bos: bool | None = None
    kv_ports: str = "head"
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", models.dtype_name(self.dtype))
        if self.metric is not None:
            as_metric(self.metric)
        if self.ablation is not None and self.ablation not in ABLATIONS:
            raise UnknownNameError("ablation", self.ablation, ABLATIONS)

    def refuse_early(self) -> None:
        """Refuse everything that can be known to be wrong before the model loads.

        Raises:
            OptionError, UnknownNameError: the message says what is allowed.
        """
        for name, value, least in (
            ("prompts", self.n, 1),
            ("held-out", self.n_held_out, 1),
            ("seed", self.seed, 0),
            ("batch-size", self.batch_size, 1),
        ):
            if value is not None and value < least:
                raise OptionError(f"--{name} {value}: give at least {least}")
        if is_name(self.task) or (isinstance(self.task, str | Path) and not Path(self.task).expanduser().exists()):
            _ = self.behaviour if is_whole(self.task) else load_task(self.task)

    def but(self, **changes: Any) -> Setting:
        """The same setting with some changes; what is loaded already stays loaded where it is the same."""
        other = replace(self, **changes)
        if not changes.keys() & {"task", "model", *LOADING}:
            object.__setattr__(other, "_made", self._made)
        elif not changes.keys() & {"model", *LOADING} and (self.model is not None or "task" not in changes):
            other._made.update({key: value for key, value in self._made.items() if key == "model"})
        return other

    def like(self, provenance: Provenance) -> Setting:
        """What this setting leaves open is taken from where a circuit is from: its ablation and its task's options."""
        ablation = self.ablation or provenance.ablation or ABLATION
        options = provenance.task_options if self.task_options is None else self.task_options
        return self.but(ablation=ablation, task_options=options)

    @property
    def ablated_by(self) -> str:
        """The ablation that was asked for, or else ``corrupted``."""
        return self.ablation or ABLATION

    def to_json(self) -> dict[str, Any]:
        """What was named, as a run folder keeps it."""
        metric = self.metric if self.metric is None or isinstance(self.metric, str) else as_metric(self.metric).name
        return {
            "task": str(self.task) if isinstance(self.task, str | Path) else self.behaviour.name,
            "model": str(self.model_spec) if isinstance(self.model_spec, str | Path) else self.transformer.name,
            "ablation": self.ablated_by,
            "metric": metric,
            "n_prompts": self.n,
            "n_held_out": self.n_held_out,
            "seed": self.seed,
            "batch_size": self.batch_size,
            **{name: getattr(self, name) for name in LOADING},
            "task_options": dict(self.task_options or {}),
        }

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    # ---------------------------------------------------------------- what it stands for

    @property
    def model_spec(self) -> Any:
        """What names the model: as given, or the one that the task is for; one's own pairs are for ``tasks-4l``."""
        if self.model is not None:
            return self.model
        return self.behaviour.model if is_whole(self.task) else Task.model

    @property
    def transformer(self) -> Transformer:
        """The checked model.

        Raises:
            OptionError: a loaded model is to be loaded in another way.
        """
        return self._once("model", self._load)

    def _load(self) -> Transformer:
        how = {name: getattr(self, name) for name in LOADING}
        if not isinstance(self.model, Transformer):
            return models.load(self.model_spec, **how)
        if how != LOADING:
            asked = next(name for name, value in LOADING.items() if how[name] != value)
            raise OptionError(f"the model is loaded already, so {asked}={how[asked]!r} comes too late; load it so")
        return self.model

    @property
    def behaviour(self) -> Task:
        """The task."""
        metric = self.metric if isinstance(self.metric, str) else None

        def load() -> Task:
            return load_task(self.task, model=None if is_whole(self.task) else self.transformer, metric=metric)

        return self._once(("task", metric), load)

    def measure(self, otherwise: MetricLike | None = None) -> Metric:
        """The metric that was asked for, or else ``otherwise``, or else the task's."""
        return as_metric(self.metric or otherwise or self.behaviour.metric)

    def measure_of(self, provenance: Provenance) -> Metric:
        """The metric that was asked for, or else the one that something was found with, or else the task's.

        Raises:
            OptionError: it was found with a metric that is neither registered nor in a file that is still the same.
        """
        if self.metric is None and provenance.metric:
            return metric_again(provenance.metric, provenance.metric_source)
        return self.measure()

    # ---------------------------------------------------------------- prompts

    def prompts(self, split: str, fresh: bool = False) -> TokenPairs:
        """Prompts of one split, tokenised; or as many others of it."""
        if self.pairs is not None:
            return self.pairs
        n = self.n_held_out if split == "held-out" else self.n
        seed, options = self.seed + FRESH_SEED * fresh, dict(self.task_options or {})
        return self._once(
            (split, n, seed, *sorted(options.items())),
            lambda: tokenized_pairs(self.transformer, self.behaviour, split=split, n=n, seed=seed, **options),
        )

    @property
    def train(self) -> TokenPairs:
        """The prompts that scores are found on."""
        return self.prompts("train")

    @property
    def held_out(self) -> TokenPairs:
        """The prompts that circuits are measured on."""
        return self.prompts("held-out")

    @property
    def choosing(self) -> list[TokenPairs]:
        """The sets of train prompts that a circuit's size is chosen on: those the scores are from, and as many others.

        On its own prompts a ranking looks better than it is, so a circuit must be faithful on fresh ones too. The rows of a
        file are few and serve both; there the list holds one set.
        """
        if self.pairs is not None or self.behaviour.is_given:
            return [self.train]
        return [self.train, self.prompts("train", fresh=True)]

    # ---------------------------------------------------------------- for a call

    @contextmanager
    def memory_limit(self) -> Iterator[None]:
        """Inside, a call keeps to :attr:`memory`, or to the limit around it where there is none."""
        if self.memory is None:
            yield
        else:
            with memory_limit(self.memory):
                yield

    def problem(
        self,
        split: str = "train",
        *,
        metric: MetricLike | None = None,
        parts: str = "",
        given: str | None = None,
        **about: Any,
    ) -> Problem:
        """Model, prompts and metric, with the provenance that is written on results.

        Args:
            metric: what to measure where the setting does not say; the task's if None.
            given: what the provenance calls the split of token pairs that were given; ``split`` if None.
            about: what else the provenance says, such as ``algorithm`` and ``options``.
        """
        model, pairs, resolved = self.transformer, self.prompts(split), self.measure(metric)
        provenance = Provenance(
            model=model.name,
            model_source=model.source,
            task=self.behaviour.name,
            split=split if self.pairs is None or given is None else given,
            n_prompts=len(pairs),
            pairs_hash=pairs.fingerprint,
            task_options=dict(self.task_options or {}),
            metric=resolved.name,
            metric_source=resolved.source_json,
            unit=resolved.unit,
            ablation=self.ablated_by,
            seed=self.seed,
            **about,
        )
        return Problem(model, pairs, resolved, self.ablated_by, self.seed, self.batch_size, parts, provenance)
