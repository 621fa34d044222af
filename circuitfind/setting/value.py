"""Where a circuit is found or measured, as one frozen value: everything except the method itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from circuitfind import models
from circuitfind.discovery.contract import Problem
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS, require_corrupted
from circuitfind.execution.memory import memory_limit
from circuitfind.graph import REFERENCE, ComputationGraph
from circuitfind.scores import Provenance
from circuitfind.setting import naming
from circuitfind.setting.defaults import ABLATION, ENOUGH_FRESH, N_HELD_OUT, N_PROMPTS, TIMES_FRESH
from circuitfind.setting.naming import TaskLike, is_name, is_whole, load_task, refuse_reference
from circuitfind.setting.stored import LOADING, as_stored
from circuitfind.task import Task, TokenPairs
from circuitfind.task.corruption import check_rule
from circuitfind.task.files import lacks_corrupted
from circuitfind.task.metrics import Metric, MetricLike, as_metric, metric_again
from circuitfind.task.reference import read_reference_prompts
from circuitfind.task.spans import of_length
from circuitfind.task.tokens import ANSWERS
from circuitfind.transformer import Transformer

GIVEN = "given"
"""The split of prompts that were given as token pairs: whether the circuit was found on them is not known."""
FRESH_SEED = 1_000_003
"""Added to the seed for the fresh prompts that a circuit is chosen on."""
Made = TypeVar("Made")
Neurons = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Setting:
    """Model, task, metric, ablation, prompts, seed and memory, shared by every call.

    Nothing is loaded before it is needed, and nothing is loaded twice. The model, the task and every set of prompts are made
    once and kept, here and in the settings that :meth:`but` makes from this one.

    Attributes:
        task: a task's name, a file of pairs, a DataFrame, a list of pairs, :class:`PromptPairs` or a :class:`Task`.
        model: a zoo name, hub id, Hugging Face directory or TransformerLens object, or a loaded :class:`Transformer`; the
            task's own model if None.
        metric: a name, a :class:`Metric` or a callable ``(logits, targets) -> (..., prompts)``. If None: the algorithm's own
            metric, or that of the measured circuit, or else the task's.
        ablation: what a cut edge carries. If None: that of the measured circuit, or else ``corrupted``.
        n, n_held_out: number of prompts of the train and of the held-out split.
        seed: of the prompts and of everything else drawn at random.
        reference_prompts: prompts of your own whose mean outputs cut edges carry, for ``mean-reference`` ablation, which is
            the default with them: a file, a list of texts, :class:`PromptPairs` or :class:`TokenPairs`; see
            :func:`circuitfind.task.reference.read_reference_prompts`.
        task_options: values of the task's options. If None: those of the measured circuit, or else the defaults.
        pairs: token pairs to use instead of the task's, for every split.
        batch_size: prompts at a time; if None, as many as memory allows.
        memory: what a call may use in addition to the weights, such as ``"8GB"``; if None, what the device allows.
        corrupt: for your own pairs, the rule that makes their corrupted prompts; see :func:`circuitfind.load_pairs`.
        group_by: for your own pairs, a column; rows with the same text in it belong to one split.
        answers: ``"all"`` tokens of an answer count (its log-probability is the sum over its tokens), or the ``"first"`` alone.
        length: use only prompts of so many tokens; 0 uses prompts of any length.
        device, dtype, bos, kv_ports: how a named model is loaded; see :func:`circuitfind.load_model`.
        neuron_nodes: for every layer, the neurons of its MLP that are nodes of their own; () for none. If None: those that the
            model has already. :func:`circuitfind.with_neurons` chooses them.

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
    answers: str = "all"
    corrupt: str = ""
    group_by: str = ""
    length: int = 0
    device: str | None = None
    dtype: str = "float32"
    bos: bool | None = None
    kv_ports: str = "head"
    neuron_nodes: Neurons | None = None
    reference_prompts: Any = None
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", models.dtype_name(self.dtype))
        if self.metric is not None:
            as_metric(self.metric)
        if self.answers not in ANSWERS:
            raise UnknownNameError("answers", self.answers, ANSWERS)
        if self.ablation is not None and self.ablation not in ABLATIONS:
            raise UnknownNameError("ablation", self.ablation, ABLATIONS)
        if self.corrupt:
            check_rule(self.corrupt)
        if self.reference_prompts is not None and self.ablation is None:
            object.__setattr__(self, "ablation", REFERENCE)

    def refuse_early(self) -> None:
        """Refuse everything that is known to be wrong before the model loads.

        Raises:
            OptionError, UnknownNameError: the message says what is allowed.
        """
        for name, value, least in (
            ("prompts", self.n, 1),
            ("held-out", self.n_held_out, 1),
            ("seed", self.seed, 0),
            ("length", self.length, 0),
            ("batch-size", self.batch_size, 1),
        ):
            if value is not None and value < least:
                raise OptionError(f"--{name} {value}: give at least {least}")
        refuse_reference(self.reference_prompts, self.ablation, self.pairs)
        if is_name(self.task) or (isinstance(self.task, str | Path) and not Path(self.task).expanduser().exists()):
            _ = self.behaviour if is_whole(self.task) else load_task(self.task)
        self.require_corrupted()

    @property
    def lacks_corrupted(self) -> bool:
        """Whether one's own pairs have no corrupted prompts; no model is loaded."""
        if self.pairs is not None:
            return not self.pairs.has_corrupted
        if self.corrupt or is_name(self.task):
            return False
        if is_whole(self.task):
            task = self.task if isinstance(self.task, Task) else self.behaviour
            return task.lacks_corrupted
        return self._once("bare", lambda: lacks_corrupted(self.task))

    def require_corrupted(self) -> None:
        """Refuse corrupted ablation for pairs without corrupted prompts, before the model loads.

        Raises:
            OptionError: the message names the column, and what needs none.
        """
        if self.ablated_by == "corrupted" and self.lacks_corrupted:
            source = Path(self.task).name if isinstance(self.task, str | Path) else "these pairs"
            require_corrupted(
                False, "corrupted ablation" if self.ablation else "corrupted ablation (the default)", source
            )

    def without_corrupted(self) -> Setting:
        """The same for a method that looks at clean prompts alone: with mean ablation, where nothing is said and the pairs
        have no corrupted prompts.
        """
        return self.but(ablation="mean") if self.ablation is None and self.lacks_corrupted else self

    def but(self, **changes: Any) -> Setting:
        """The same setting with some changes; whatever they do not affect stays loaded.

        Reference prompts go if the ablation becomes one that does not use them.
        """
        if changes.keys() == {"neuron_nodes"}:
            return self._split(changes["neuron_nodes"])
        if changes.get("ablation", REFERENCE) != REFERENCE:
            changes.setdefault("reference_prompts", None)
        other = replace(self, **changes)
        if not changes.keys() & {"task", "model", "corrupt", "group_by", *LOADING}:
            object.__setattr__(other, "_made", self._made)
        elif not changes.keys() & {"model", *LOADING} and (self.model is not None or "task" not in changes):
            other._made.update({key: value for key, value in self._made.items() if key == "model"})
        return other

    def _split(self, neurons: Neurons | None) -> Setting:
        """The same setting with other neurons as nodes; the weights and the prompts stay loaded."""
        other = replace(self, neuron_nodes=neurons)
        other._made.update(self._made)
        if neurons is not None and "model" in self._made:
            other._made["model"] = self.transformer.with_neurons(neurons)
        return other

    def of_circuit(self, provenance: Provenance, graph: ComputationGraph) -> Setting:
        """The setting that a circuit is measured in: :meth:`like`, with the circuit's neurons as nodes."""
        like = self.like(provenance)
        return like if like.transformer.graph.neurons == graph.neurons else like.but(neuron_nodes=graph.neurons)

    def like(self, provenance: Provenance) -> Setting:
        """The same setting, with the ablation and task options it leaves open taken from a circuit's provenance."""
        ablation = self.ablation or provenance.ablation or ABLATION
        options = provenance.task_options if self.task_options is None else self.task_options
        like = self.but(ablation=ablation, task_options=options)
        like.require_corrupted()
        return like

    @property
    def ablated_by(self) -> str:
        """The given ablation, or else ``corrupted``."""
        return self.ablation or ABLATION

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as a run folder stores them."""
        return as_stored(self)

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    # ---------------------------------------------------------------- model, task and metric

    @property
    def model_spec(self) -> Any:
        """The model as given, or else the one the task is for; the default for your own pairs is ``tasks-4l``."""
        if self.model is not None:
            return self.model
        return self.behaviour.model if is_whole(self.task) else Task.model

    @property
    def transformer(self) -> Transformer:
        """The checked model.

        Raises:
            OptionError: the model is already loaded, but the setting asks for another device, dtype or the like.
        """
        return self._once("model", self._load)

    def _load(self) -> Transformer:
        whole = self._loaded()
        return whole if self.neuron_nodes is None else whole.with_neurons(self.neuron_nodes)

    def _loaded(self) -> Transformer:
        how = {name: getattr(self, name) for name in LOADING}
        if not isinstance(self.model, Transformer):
            return models.load(self.model_spec, **how)
        if how != LOADING:
            asked = next(name for name, value in LOADING.items() if how[name] != value)
            raise OptionError(
                f"the model is loaded already, so {asked}={how[asked]!r} comes too late; load it that way"
            )
        return self.model

    @property
    def behaviour(self) -> Task:
        """The task."""
        metric = self.metric if isinstance(self.metric, str) else None

        def load() -> Task:
            model, corrupt = None if is_whole(self.task) else self.transformer, self.corrupt
            return load_task(self.task, model=model, metric=metric, corrupt=corrupt, group_by=self.group_by)

        return self._once(("task", metric), load)

    def measure(self, otherwise: MetricLike | None = None) -> Metric:
        """The given metric, or else ``otherwise``, or else the task's."""
        return as_metric(self.metric or otherwise or self.behaviour.metric)

    def measure_of(self, provenance: Provenance) -> Metric:
        """The given metric, or else the one in the provenance, or else the task's.

        Raises:
            OptionError: the provenance's metric is neither registered nor in an unchanged file.
        """
        if self.metric is None and provenance.metric:
            return metric_again(provenance.metric, provenance.metric_source)
        return self.measure()

    # ---------------------------------------------------------------- prompts

    def prompts(self, split: str, fresh: int = 0) -> TokenPairs:
        """Tokenised prompts of one split; or that many other prompts from it, if ``fresh`` is above 0."""
        if self.pairs is not None:
            return self._with_reference(of_length(self.pairs, self.length) if self.length else self.pairs)
        n = fresh or (self.n_held_out if split == "held-out" else self.n)
        seed, options = self.seed + FRESH_SEED * bool(fresh), dict[str, Any](self.task_options or {})
        which: dict[str, Any] = {"split": split, "n": n, "seed": seed, "answers": self.answers, "n_tokens": self.length}
        pairs = self._once(
            (*which.values(), *sorted(options.items())),
            lambda: naming.tokenized_pairs(self.transformer, self.behaviour, **which, **options),
        )
        return self._with_reference(pairs)

    def _with_reference(self, pairs: TokenPairs) -> TokenPairs:
        """Pairs with the reference prompts that the ablation takes its means over, if it does."""
        if self.reference_prompts is None or self.ablation != REFERENCE:
            return pairs
        # The source is kept, so that no other object gets its id.
        key, source = ("reference", id(self.reference_prompts)), self.reference_prompts
        _, read = self._once(key, lambda: (source, read_reference_prompts(source, self.transformer.tokenizer)))
        return replace(pairs, reference=read)

    def called(self, split: str) -> str:
        """What a result calls the prompts of a split: ``given``, if :attr:`pairs` were given instead."""
        return split if self.pairs is None else GIVEN

    @property
    def train(self) -> TokenPairs:
        """The prompts for finding scores."""
        return self.prompts("train")

    @property
    def held_out(self) -> TokenPairs:
        """The prompts for measuring circuits."""
        return self.prompts("held-out")

    @property
    def choosing(self) -> list[TokenPairs]:
        """The sets of train prompts that a circuit's size is chosen on: those of the scores, and as many fresh ones or more.

        A ranking looks better than it is on its own prompts, and few prompts leave the size to chance. A file has few rows, so
        they serve both purposes, and the list holds one set.
        """
        return self.with_fresh(max(self.n, min(ENOUGH_FRESH, TIMES_FRESH * self.n)))

    def with_fresh(self, n: int) -> list[TokenPairs]:
        """The train prompts, and ``n`` fresh ones where the task makes its prompts itself."""
        given = self.pairs is not None or self.behaviour.is_given
        return [self.train] if given else [self.train, self.prompts("train", fresh=n)]

    # ---------------------------------------------------------------- for a call

    @contextmanager
    def memory_limit(self) -> Iterator[None]:
        """Inside the block, limit memory to :attr:`memory`; if that is None, the limit outside stays."""
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
        **about: Any,
    ) -> Problem:
        """Model, prompts and metric, with the provenance that is attached to results.

        Args:
            metric: used if the setting has none; the task's if None.
            about: further fields of the provenance, such as ``algorithm`` and ``options``.
        """
        self.require_corrupted()
        model, pairs, resolved = self.transformer, self.prompts(split), self.measure(metric)
        provenance = Provenance(
            model=model.name,
            model_source=model.source,
            task=self.behaviour.name,
            split=self.called(split),
            n_prompts=pairs.n_pairs,
            pairs_hash=pairs.fingerprint,
            task_options=dict(self.task_options or {}),
            metric=resolved.name,
            metric_source=resolved.source_json,
            unit=resolved.unit,
            ablation=self.ablated_by,
            seed=self.seed,
            reference_hash=pairs.reference.checksum() if self.ablated_by == REFERENCE and pairs.reference else "",
            bos=naming.begin_with_bos(pairs, model.tokenizer),
            **about,
        )
        return Problem(model, pairs, resolved, self.ablated_by, self.seed, self.batch_size, parts, provenance)
