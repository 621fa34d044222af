"""A run and its folder: everything needed to trust a circuit, or to reproduce it.

    config.json        the resolved configuration            edges.csv         the kept edges as a table, see MOST_ROWS
    scores.safetensors a score for every edge                evaluation.json   held-out measurements and controls
    circuit.json       the kept edges and their provenance   circuit.dot, .svg, .png
    versions.json      libraries, machine, seconds           summary.txt       the verdict in sentences
    curve.csv          faithfulness, KL and the task's metric against size, from the evaluations of the selection, with the
                       intervals over prompts                curve.svg, .png

An algorithm that decides edge by edge (ACDC) also writes ``decisions.csv``: every decision in order, which ``circuitfind
replay`` checks again. A sweep writes ``thresholds.csv``: edges kept and tests made at each threshold. If the algorithm finds a
circuit of its own in another way (path patching), ``tree.txt`` is that circuit from the logits down, with heads' roles. If
scores are stored separately by parts of prompts, there is also the circuit of (part, edge): ``positional.json``, ``.dot``,
``.svg``, ``.png`` and ``positional_evaluation.json``.

:mod:`circuitfind.run.folder` writes and resumes the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuitfind import rendering
from circuitfind.circuit import Circuit
from circuitfind.circuit.tree import tree_text
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.evaluation import Evaluation
from circuitfind.formats.circuit_json import CIRCUITS
from circuitfind.run import calls, selecting
from circuitfind.run.estimate import estimate
from circuitfind.run.folder import PACKAGES as PACKAGES
from circuitfind.run.folder import RunFolder, folder_for
from circuitfind.run.folder import versions as versions
from circuitfind.run.neurons import with_neurons
from circuitfind.run.request import RunConfig as RunConfig
from circuitfind.run.said import (
    MOST_ROWS,
    Evaluated,
    notes_on,
    refuse_failing,
    refuse_unknown_parts,
    rows_of,
    sentences_of,
)
from circuitfind.scores import EdgeScores
from circuitfind.scores.decisions import write_tables
from circuitfind.selection import Chosen, SizeCurve
from circuitfind.selection.prefixes import check_size
from circuitfind.setting.value import Setting as Setting
from circuitfind.task import Task, write_id_pairs
from circuitfind.task.spans import PARTS_AXES
from circuitfind.task.write_pairs import write_pairs

LEAST_CURVE = 32
"""A curve of a circuit chosen by another rule goes up to at least this many edges, and to twice the circuit's."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what is in it.

    Attributes:
        by_part: the circuit of (part, edge) and its evaluation, if scores are stored separately by parts of prompts.
        curve: faithfulness against size, from the evaluations of the selection; None if it is undefined on the train prompts.
    """

    folder: Path
    setting: Setting
    config: RunConfig
    scores: EdgeScores
    circuit: Circuit
    evaluation: Evaluation
    sentences: list[str]
    seconds: Mapping[str, float]
    by_part: Evaluated | None = None
    curve: SizeCurve | None = None


@dataclass(frozen=True)
class _Begun:
    """A run that has begun: its setting and configuration, the algorithm's options, its folder, the seconds of every stage."""

    setting: Setting
    config: RunConfig
    options: Mapping[str, Any]
    folder: RunFolder
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    setting: Setting,
    config: RunConfig | None = None,
    out: Path | None = None,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Load, discover, select, evaluate, draw, and write the run folder.

    Args:
        out: the folder; :func:`default_folder` if None.
        force: replace an existing run folder.
        say: called with lines of progress for people.

    Raises:
        OptionError, UnknownNameError, PairsError: the run is impossible; it is refused as early as possible.
    """
    config = config or RunConfig()
    if config.algorithm and ALGORITHMS[config.algorithm].without_corrupted:
        setting = setting.without_corrupted()
    with setting.memory_limit():
        begun = _load(setting, config, out, force, say)
        scores = _discover(begun)
        circuit, curve = _select(begun, scores)
        evaluation = _evaluate(begun, circuit)
        by_part = _by_part(begun, scores) if begun.config.parts in PARTS_AXES else None
        curve = curve or _curve(begun, scores, circuit)
        sentences = sentences_of(begun.setting, scores, circuit, evaluation, by_part, curve)
        _draw(begun, circuit, evaluation, by_part, curve)
        _write(begun, scores, circuit, evaluation, by_part, sentences)
    found = scores, circuit, evaluation, sentences
    return Run(begun.folder.out, setting, begun.config, *found, begun.seconds, by_part, curve)


def default_folder(task: str, model: str, algorithm: str) -> Path:
    """``results/TASK/MODEL/ALGORITHM`` below the working folder."""
    return Path("results") / task / Path(model).name / algorithm


# ---------------------------------------------------------------- load


def _load(setting: Setting, config: RunConfig, out: Path | None, force: bool, say: Callable[[str], None]) -> _Begun:
    """Load model and prompts and begin the folder; checks that need no model come first, then those that need no prompts."""
    config, options = config.resolved(setting)
    setting.refuse_early()
    folder = RunFolder(out, force=force) if out is not None else None
    seconds: dict[str, float] = {}
    with _timed(seconds, "load"):
        model, task = setting.transformer, setting.behaviour
    train, held_out = setting.train, setting.held_out
    if config.n_neurons:
        setting = with_neurons(setting, config.n_neurons, say=say)
        model = setting.transformer
    if config.rule in ("top", "greedy"):
        check_size(model.graph, config.value)
    folder = folder or RunFolder(_folder_of(setting, config, force, say), force=force)
    say(f"{model!r}")
    train_only = f"{train.n_pairs} given"
    both = f"{train.n_pairs} train and {held_out.n_pairs} held-out" if setting.pairs is None else train_only
    say(f"task {task.name}: {both} pairs{rows_of(train)}")
    for note in notes_on(setting, config.parts):
        say(note)
    if config.parts in PARTS_AXES:
        refuse_unknown_parts(setting, config.parts)
    refuse_failing(setting, config.anyway, say)
    if folder.begin(_resolved_values(setting, config), _decisive(setting, config, options)):
        say(f"going on with the interrupted run in {folder.partial}")
    return _Begun(setting, config, options, folder, say, seconds)


def _folder_of(setting: Setting, config: RunConfig, force: bool, say: Callable[[str], None]) -> Path:
    """The folder of a run for which none was named; a run with other settings that is there stays."""
    usual = default_folder(setting.behaviour.name, setting.transformer.name, config.algorithm or "")
    found = usual if force else folder_for(usual, _resolved_values(setting, config))
    if found != usual:
        say(f"{usual} holds a run with other settings, so this one goes into {found}")
    return found


def _resolved_values(setting: Setting, config: RunConfig) -> dict[str, Any]:
    """The contents of ``config.json``: everything that determines a run's result."""
    used = {
        "train": setting.train.n_pairs,
        "held-out": setting.held_out.n_pairs,
    }  # a file may have fewer than asked for
    more = {"prompts_used": used, "metric_source": setting.measure().source_json, "circuitfind": version("circuitfind")}
    return {**setting.to_json(), **asdict(config), **more}


def _decisive(setting: Setting, config: RunConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the scores."""
    own, train = setting.to_json(), setting.train
    settings = {name: own[name] for name in ("ablation", "seed", "batch_size", "dtype", "kv_ports")}
    settings |= {"algorithm": config.algorithm, "parts": config.parts, "options": options}
    settings |= {"neurons": setting.transformer.graph.neurons}
    metric = setting.measure()
    settings |= {"metric": metric.name, "metric_source": metric.source_json}
    if config.parts == "span" and train.text is not None:
        settings["labels"] = [dict(pair.labels) for pair in train.text]
    return {**settings, "weights": setting.transformer.checksum(), "tokens": train.checksum()}


# ---------------------------------------------------------------- discover, select, evaluate


def _discover(begun: _Begun) -> EdgeScores:
    """The scores, or those stored by an interrupted run."""
    setting, config, folder = begun.setting, begun.config, begun.folder
    with _timed(begun.seconds, "discover"):
        try:
            if (scores := folder.stored_scores()) is None:
                choosing = config.rule in ("default", "faithfulness")
                on = (setting, config.algorithm or "", begun.options)
                begun.say(estimate(*on, choosing=choosing, n_random=config.n_random))
                how = {"parts": config.parts, "workers": config.workers, **begun.options}
                checkpoint = folder.checkpoint()
                scores = calls.discover(setting, algorithm=config.algorithm, checkpoint=checkpoint, **how)
        except CircuitfindError:
            folder.leave_unless_something_was_computed()
            raise
        folder.store_scores(scores)
    return scores


def _select(begun: _Begun, scores: EdgeScores, parts: bool = False) -> Chosen:
    """The circuit chosen by the run's rule, and the curve if its size was chosen from one."""
    config = begun.config
    name = "faithfulness" if config.rule == "default" else config.rule
    value = int(config.value) if config.rule in ("top", "greedy") else config.value
    own = config.decided and scores.decided is not None
    rule: dict[str, Any] = {} if own else {name: value}
    with _timed(begun.seconds, "select by part" if parts else "select"):
        return selecting.select_in(scores, begun.setting, absolute=config.absolute, parts=parts, **rule)


def _curve(begun: _Begun, scores: EdgeScores, circuit: Circuit) -> SizeCurve | None:
    """The curve up to about twice a circuit's size, where the circuit was chosen without one."""
    most = max(LEAST_CURVE, 2 * circuit.n_edges)
    with _timed(begun.seconds, "curve"):
        try:
            return selecting.curve(begun.setting, scores, most=most, absolute=begun.config.absolute)
        except OptionError:  # full and empty model score the same: the evaluation says so
            return None


def _evaluate(begun: _Begun, circuit: Circuit) -> Evaluation:
    """The circuit's evaluation on held-out prompts."""
    with _timed(begun.seconds, "evaluate by part" if circuit.layout else "evaluate"):
        return calls.evaluate(begun.setting, circuit, n_random=begun.config.n_random)


def _by_part(begun: _Begun, scores: EdgeScores) -> Evaluated:
    """The circuit of (part, edge) chosen by the run's rule, and its evaluation."""
    circuit = _select(begun, scores, parts=True).circuit
    return circuit, _evaluate(begun, circuit)


# ---------------------------------------------------------------- say, draw, write


def _draw(
    begun: _Begun, circuit: Circuit, evaluation: Evaluation, by_part: Evaluated | None, curve: SizeCurve | None
) -> None:
    """The pictures of the run's circuits, and the curve as pictures and as a table."""
    place, task = begun.folder.partial, begun.setting.behaviour
    with _timed(begun.seconds, "draw"):
        _draw_one(circuit, evaluation, task, place / "circuit")
        if by_part:
            _draw_one(*by_part, task, place / "positional")
        if curve:
            title = f"{task.name} on {begun.setting.transformer.name}, {begun.config.algorithm}"
            rendering.write_figure(curve.plot(title=title), place / "curve.svg", place / "curve.png")
            curve.to_frame().to_csv(place / "curve.csv", index=False)


def _draw_one(circuit: Circuit, evaluation: Evaluation, task: Task, stem: Path) -> None:
    picture = rendering.circuit_dot(circuit, evaluation.to_json(), task)
    for suffix in (".dot", ".svg", ".png"):
        rendering.render(picture, stem.with_suffix(suffix))


def _write(
    begun: _Begun,
    scores: EdgeScores,
    circuit: Circuit,
    evaluation: Evaluation,
    by_part: Evaluated | None,
    sentences: list[str],
) -> None:
    """Write everything except the scores and the pictures, then give the folder its final name."""
    setting, folder, place = begun.setting, begun.folder, begun.folder.partial
    circuit.save(place / "circuit.json")
    circuit.to_frame(MOST_ROWS).to_csv(place / "edges.csv", index=False)
    folder.write_json("evaluation.json", evaluation.to_json())
    (place / "summary.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    if by_part:
        by_part[0].save(place / "positional.json")
        folder.write_json(CIRCUITS["positional.json"], by_part[1].to_json())
    write_tables(place, scores.decisions)
    if scores.chosen is not None:  # with what its heads do on the train prompts
        roles = calls.head_roles(setting, heads=circuit.nodes)
        (place / "tree.txt").write_text(tree_text(circuit, roles.texts()), encoding="utf-8")
    if setting.behaviour.fixed is not None:
        write_pairs(setting.behaviour.fixed, place / "pairs.jsonl")
    if setting.behaviour.tokens is not None:
        write_id_pairs(setting.behaviour.tokens, place / "pairs.jsonl")
    folder.write_json("versions.json", {**versions(setting.transformer), "seconds": begun.seconds})
    folder.finish()


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Record the seconds that a block takes."""
    begun = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begun, 3)
