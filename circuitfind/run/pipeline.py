"""A run and its folder: everything needed to believe a circuit, or to make it again.

    config.json        what was asked for, resolved          edges.csv         the kept edges as a table, see MOST_ROWS
    scores.safetensors a score for every edge                evaluation.json   held-out measurements and controls
    circuit.json       the kept edges and where they are from    circuit.dot, .svg, .png
    versions.json      libraries, machine, seconds            summary.txt       the verdict in sentences

Where the algorithm decides edge by edge (ACDC) there are also ``decisions.csv``, every decision in order, which ``circuitfind
replay`` makes again; and of a sweep ``thresholds.csv``: edges kept and tests made at each threshold. Where it finds a circuit
of its own in another way (path patching), ``tree.txt`` is that circuit from the logits down, with heads' roles. Where scores
are kept apart by parts of prompts, there is the circuit of (part, edge) too: ``positional.json``, ``.dot``, ``.svg``, ``.png``
and ``positional_evaluation.json``.

How the folder is written and continued is :mod:`circuitfind.run.folder`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuitfind import rendering
from circuitfind.circuit import Circuit, Layout
from circuitfind.circuit.tree import tree_text
from circuitfind.errors import CircuitfindError, PairsError
from circuitfind.evaluation import (
    CHANCE,
    FEW_PROMPTS,
    Evaluation,
    clean_accuracy,
    head_roles,
    verdict,
)
from circuitfind.formats.run_folder import CIRCUITS
from circuitfind.graph import prunes_from_input
from circuitfind.run import calls
from circuitfind.run.config import POSITIONAL, refuse_early
from circuitfind.run.config import RunConfig as RunConfig
from circuitfind.run.folder import PACKAGES as PACKAGES
from circuitfind.run.folder import RunFolder
from circuitfind.run.folder import versions as versions
from circuitfind.scores import EdgeScores
from circuitfind.scores.decisions import write_tables
from circuitfind.selection.prefixes import check_size
from circuitfind.task import Task, TokenPairs, spans_of
from circuitfind.transformer import Transformer

MOST_ROWS = 100_000
"""Rows of ``edges.csv``; of a larger circuit, the edges with the largest scores. A score of every edge of the graph is in
``scores.safetensors`` alone: as text, those of a large model would be gigabytes."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what is in it; ``by_part`` is the circuit of (part, edge), and what
    was measured of it, where scores are kept apart by parts of prompts."""

    folder: Path
    config: RunConfig
    scores: EdgeScores
    circuit: Circuit
    evaluation: Evaluation
    sentences: list[str]
    seconds: Mapping[str, float]
    by_part: tuple[Circuit, Evaluation] | None = None


def default_folder(task: str, model: str, algorithm: str) -> Path:
    """``results/TASK/MODEL/ALGORITHM`` below the working folder."""
    return Path("results") / task / Path(model).name / algorithm


def run(
    config: RunConfig, out: Path | None = None, *, force: bool = False, say: Callable[[str], None] = lambda line: None
) -> Run:
    """Discover, select, evaluate, draw, and fill the run folder.

    Args:
        out: the folder; :func:`default_folder` if None.
        say: called with lines for people while the run goes on.
    """
    refuse_early(config)
    folder = RunFolder(out, force=force) if out is not None else None
    seconds: dict[str, float] = {}
    with _timed(seconds, "load"):
        how = {"dtype": config.dtype, "kv_ports": config.kv_ports}
        model = calls.load_model(config.model, device=config.device, bos=config.bos, **how)
        task = calls.load_task(config.task, model=model, metric=config.metric)
    train, held_out = (_pairs(model, task, config, split) for split in ("train", "held-out"))
    if config.rule in ("top", "greedy"):
        check_size(model.graph, config.value)
    folder = folder or RunFolder(default_folder(task.name, model.name, config.algorithm), force=force)
    say(f"{model!r}")
    say(f"task {task.name}: {len(train)} train and {len(held_out)} held-out pairs")
    if config.parts in POSITIONAL:
        _refuse_unknown_parts(model, task, config, train, held_out)
    _refuse_failing(model, train, config, say)
    settings = {**asdict(config), "circuitfind": version("circuitfind")}
    if folder.begin(settings, _decisive(model, train, config, task)):
        say(f"going on with the interrupted run in {folder.partial}")
    with _timed(seconds, "discover"):
        try:
            scores = folder.stored_scores() or _discover(model, task, config, train, folder, say)
        except CircuitfindError:
            folder.leave_unless_something_was_computed()
            raise
        folder.store_scores(scores)
    with _timed(seconds, "select"):
        circuit: Circuit = _select(scores, model, task, config)
    with _timed(seconds, "evaluate"):
        evaluation = _evaluate(circuit, model, task, config, held_out)
    by_part = _by_part(scores, model, task, config, held_out, seconds) if config.parts in POSITIONAL else None
    sentences = verdict(circuit, evaluation)
    if train.checksum() == held_out.checksum():
        sentences.append("Weak: there is one prompt, so the circuit was measured on the prompt it was found on.")
    elif len(train) < FEW_PROMPTS:
        sentences.append(f"Weak: found on only {len(train)} train prompts; use {FEW_PROMPTS} or more.")
    sentences += _about_decisions(scores, circuit) + _about_table(circuit)
    sentences += verdict(*by_part, without_parts=circuit.n_edges) if by_part else []
    with _timed(seconds, "draw"):
        _write_results(folder, circuit, evaluation, task, sentences)
        if by_part:
            _write_circuit(folder, "positional", *by_part, task)
    write_tables(folder.partial, scores.decisions)
    if scores.chosen is not None:
        _write_tree(folder.partial, circuit, model, train)
    if task.fixed is not None:
        calls.write_pairs(task.fixed, folder.partial / "pairs.jsonl")
    folder.write_json("versions.json", {**versions(model), "seconds": seconds})
    folder.finish()
    return Run(folder.out, config, scores, circuit, evaluation, sentences, seconds, by_part)


def _decisive(model: Transformer, train: TokenPairs, config: RunConfig, task: Task) -> dict[str, Any]:
    """Everything that decides the scores."""
    names = ("algorithm", "ablation", "seed", "batch_size", "parts", "dtype", "kv_ports")
    settings = {name: getattr(config, name) for name in names}
    settings |= {"metric": config.metric or task.metric, "options": config.all_options}
    if config.parts == "span" and train.text is not None:
        settings["labels"] = [dict(pair.labels) for pair in train.text]
    return {**settings, "weights": model.checksum(), "tokens": train.checksum()}


def _refuse_failing(model: Transformer, train: TokenPairs, config: RunConfig, say: Callable[[str], None]) -> None:
    """Stop before discovery if the model is no better than chance on the prompts."""
    share = clean_accuracy(model, train, config.batch_size)
    if not share <= CHANCE:  # NaN where no incorrect answers are given: nothing to compare with
        return
    message = (
        f"model {model.name!r} prefers the correct answer on only {share:.0%} of the {len(train)} train prompts, which is no "
        "better than chance; there is no behaviour to find. 'circuitfind check-pairs' shows it pair by pair"
    )
    if not config.anyway:
        raise PairsError(message + "; --anyway goes on all the same")
    say(f"Weak: {message}.")


def _refuse_unknown_parts(
    model: Transformer, task: Task, config: RunConfig, train: TokenPairs, held_out: TokenPairs
) -> None:
    """Stop before discovery if other prompts have parts of which the scores could say nothing, or there are no labels."""
    found = Layout.of(spans_of(train, config.parts, model.tokenizer), train, model.config.causal)
    fresh = calls.choosing_pairs(model, task, n=len(train), seed=config.seed, **config.task_options)
    for pairs in (*fresh, held_out):
        found.places(spans_of(pairs, config.parts, model.tokenizer))


def _pairs(model: Transformer, task: Task, config: RunConfig, split: str) -> TokenPairs:
    n = config.n_prompts if split == "train" else config.n_held_out
    return calls.tokenized_pairs(model, task, split=split, n=n, seed=config.seed, **config.task_options)


def _select(scores: EdgeScores, model: Transformer, task: Task, config: RunConfig, parts: bool = False) -> Circuit:
    value = int(config.value) if config.rule in ("top", "greedy") else config.value
    name = "faithfulness" if config.rule == "default" else config.rule
    own = config.decided and scores.decided is not None
    rule: dict[str, Any] = {} if own else {name: value}
    return calls.select(
        scores, model, task, absolute=config.absolute, batch_size=config.batch_size, parts=parts, **rule
    )


def _evaluate(circuit: Circuit, model: Transformer, task: Task, config: RunConfig, held_out: TokenPairs) -> Evaluation:
    return calls.evaluate(
        model, task, circuit, n_random=config.n_random, seed=config.seed, batch_size=config.batch_size, pairs=held_out
    )


def _by_part(
    scores: EdgeScores,
    model: Transformer,
    task: Task,
    config: RunConfig,
    held_out: TokenPairs,
    seconds: dict[str, float],
) -> tuple[Circuit, Evaluation]:
    """The circuit of (part, edge) by the run's rule, measured."""
    with _timed(seconds, "select by part"):
        circuit = _select(scores, model, task, config, parts=True)
    with _timed(seconds, "evaluate by part"):
        return circuit, _evaluate(circuit, model, task, config, held_out)


def _discover(
    model: Transformer, task: Task, config: RunConfig, train: TokenPairs, folder: RunFolder, say: Callable[[str], None]
) -> EdgeScores:
    from circuitfind.run.estimate import estimate

    say(estimate(model, train, config.algorithm, config.all_options, config.batch_size))
    return calls.discover(
        model,
        task,
        algorithm=config.algorithm,
        metric=config.metric,
        ablation=config.ablation,
        seed=config.seed,
        parts=config.parts,
        batch_size=config.batch_size,
        task_options=dict(config.task_options),
        checkpoint=folder.checkpoint(),
        pairs=train,
        workers=config.workers,
        **config.all_options,
    )


def _write_results(
    folder: RunFolder, circuit: Circuit, evaluation: Evaluation, task: Task, sentences: list[str]
) -> None:
    place = folder.partial
    circuit.to_frame(MOST_ROWS).to_csv(place / "edges.csv", index=False)
    (place / "summary.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    _write_circuit(folder, "circuit", circuit, evaluation, task)


def _write_circuit(folder: RunFolder, stem: str, circuit: Circuit, evaluation: Evaluation, task: Task) -> None:
    """A circuit, what was measured of it, and its pictures."""
    circuit.save(folder.partial / f"{stem}.json")
    folder.write_json(CIRCUITS[f"{stem}.json"], evaluation.to_json())
    picture = rendering.circuit_dot(circuit, evaluation.to_json(), task)
    for suffix in (".dot", ".svg", ".png"):
        rendering.render(picture, folder.partial / f"{stem}{suffix}")


def _about_table(circuit: Circuit) -> list[str]:
    """A sentence where the table of edges is not whole."""
    if circuit.n_edges <= MOST_ROWS:
        return []
    return [
        f"edges.csv holds the {MOST_ROWS:,} strongest of the {circuit.n_edges:,} kept edges; circuit.json holds all."
    ]


def _about_decisions(scores: EdgeScores, circuit: Circuit) -> list[str]:
    """Sentences about an algorithm's own decisions, and what pruning left of them; none where it only ranks."""
    sentences = [line for log in scores.decisions for line in log.summary()]
    chosen = circuit.selection
    dropped = chosen["asked"] - chosen["kept"] if chosen["rule"] == "decided" else 0
    if dropped and prunes_from_input(circuit.provenance.ablation):
        edges, were, carry = ("edges are", "were", "they carry") if dropped > 1 else ("edge is", "was", "it carries")
        sentences.append(
            f"{dropped:,} kept {edges} on no path from the input and {were} pruned: under corrupted ablation {carry} nothing."
        )
    return sentences


def _write_tree(place: Path, circuit: Circuit, model: Transformer, train: TokenPairs) -> None:
    """``tree.txt``, with what heads look at on the train prompts."""
    roles = head_roles(model, train)
    (place / "tree.txt").write_text(tree_text(circuit, roles.texts()), encoding="utf-8")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Record how long a block took."""
    begun = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - begun, 3)
