"""Does a change of the code change a number? Store what circuitfind computes at one commit, and compare with another.

    python -m benchmarks.same_results store before.safetensors            # at the old commit
    python -m benchmarks.same_results store after.safetensors             # at the new one
    python -m benchmarks.same_results compare before.safetensors after.safetensors

Stored: for every algorithm, three shipped models, every ablation and every way to keep parts apart that the algorithm takes,
scores, decisions, circuits by every rule and held-out evaluations; and path patching, activation patching, knock-out,
hypothesis tests, stability and certificates. One thread, so that sums are made in one order. Names of arrays are
``MODEL/ALGORITHM/ABLATION/PARTS/WHAT``. ``compare`` prints every array that is not equal to the last bit, and exits with 1 if
there is one.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import circuitfind as cf

Arrays = dict[str, np.ndarray[Any, Any]]
MODELS = {"tasks-4l": "ioi", "induction-2l": "induction", "siit-hist": "siit-hist"}
N = 6
SHORT: dict[str, dict[str, Any]] = {
    "edge-pruning": {"steps": 12, "batch": 4},
    "subnetwork-probing": {"steps": 6},
    "refine": {"budget": 60},
    "ensemble": {},
    "acdc": {"threshold": 0.02},
}
"""Options that make the long algorithms short."""
PARTS = "parts" if "parts" in inspect.signature(cf.select).parameters else "positional"
"""What :func:`circuitfind.select` calls a circuit of (part, edge); version 0.1 said ``positional``."""
MOST_PARTS = ("", "prompt", "position", "span")


def settings() -> Iterator[tuple[str, str, str, str]]:
    """Model, algorithm, ablation and parts of everything that is defined."""
    for model in MODELS:
        for algorithm in cf.ALGORITHMS:
            for ablation in algorithm.ablations:
                for parts in MOST_PARTS:
                    if parts == "" or parts in algorithm.parts:
                        yield model, algorithm.name, ablation, parts


def store_all(only: str) -> Arrays:
    """Every array of every setting whose name holds ``only``."""
    found: Arrays = {}
    for model, task in MODELS.items():
        transformer = cf.load_model(model)
        for name, *setting in settings():
            key = "/".join((name, *setting))
            if name == model and only in key:
                begun = time.perf_counter()
                attempt(found, key, partial(run, transformer, task, *setting))
                print(f"{key}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
        if only in f"{model}/by-hand":
            for key, make in by_hand(transformer, task):
                attempt(found, f"{model}/by-hand/{key}", make)
    return found


def attempt(found: Arrays, key: str, make: Callable[[], Any]) -> None:
    """What ``make`` gives, its numbers under ``key``; where it refuses, the kind of refusal."""
    try:
        made = make()
    except cf.CircuitfindError as error:
        found[f"{key}/refused"] = as_bytes(f"{type(error).__name__}: {error}")
        return
    found.update({f"{key}/{name}": value for name, value in flatten(made)})


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Arrays of a nested value: numbers as they are, texts and JSON as bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}/{key}" if name else key)
    elif isinstance(value, torch.Tensor):
        yield name, np.ascontiguousarray(value.detach().numpy())
    elif isinstance(value, np.ndarray):
        yield name, np.ascontiguousarray(value)
    else:
        yield name, as_bytes(json.dumps(value, sort_keys=True, default=str))


def as_bytes(text: str) -> np.ndarray[Any, Any]:
    """A text as an array."""
    return np.frombuffer(text.encode() or b" ", dtype=np.uint8).copy()


def run(model: Any, task: str, algorithm: str, ablation: str, parts: str) -> dict[str, Any]:
    """One setting: scores, decisions, circuits and evaluations."""
    options = SHORT.get(algorithm, {})
    known = set(cf.ALGORITHMS[algorithm].options)
    options = {name: value for name, value in options.items() if name in known}
    scores = cf.discover(model, task, algorithm=algorithm, ablation=ablation, parts=parts, n=N, **options)
    found: dict[str, Any] = {"values": scores.values}
    for name in ("parts", "nodes", "chosen"):
        if getattr(scores, name) is not None:
            found[name] = getattr(scores, name)
    for number, log in enumerate(scores.decisions):
        frame = log.to_frame().drop(columns="seconds")
        found[f"decisions{number}"] = {str(column): frame[column].tolist() for column in frame}
    rules: dict[str, dict[str, Any]] = {"top": {"top": 20}, "threshold": {"threshold": 0.01}, "greedy": {"greedy": 15}}
    if parts == "":
        rules["faithfulness"] = {"faithfulness": 0.5}
        if scores.decided is not None:
            rules["decided"] = {}
    for rule, how in rules.items():
        found[rule] = circuit_and_evaluation(model, task, scores, how, by_part=False)
    if parts in ("position", "span"):
        by_part: dict[str, dict[str, Any]] = {
            "top": {"top": 30},
            "threshold": {"threshold": 0.01},
            "faithful": {"faithfulness": 0.5},
        }
        for rule, how in by_part.items():
            found[f"{rule}-by-{parts}"] = circuit_and_evaluation(model, task, scores, how, by_part=True)
    return found


def circuit_and_evaluation(model: Any, task: str, scores: Any, how: dict[str, Any], by_part: bool) -> dict[str, Any]:
    """A circuit by one rule, and what is measured of it."""
    try:
        circuit = cf.select(scores, model, task, **how, **({PARTS: True} if by_part else {}))
        evaluation = cf.evaluate(model, task, circuit, n=N, n_random=3)
    except cf.CircuitfindError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    edges = [(row.get("part"), row["name"], row["score"]) for row in circuit.edges]
    return {
        "kept": np.asarray(circuit.kept),
        "edges": edges,
        "selection": dict(circuit.selection),
        "evaluation": evaluation.to_json(),
    }


def by_hand(model: Any, task: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The calls that are not a discovery."""
    last = f"a{model.graph.n_layers - 1}.h0"
    for ablation in ("corrupted", "zero", "mean", "mean-positional"):
        paths = [f"a0.h1 -> {last}<v> -> logits"]
        yield f"path/{ablation}", as_json(cf.path_patch, model, task, paths, ablation=ablation, n=N)
        yield (
            f"knock-out/{ablation}",
            as_json(cf.ablate, model, task, ["a0", last, "m0"][: 2 + model.graph.has_mlp], ablation=ablation, n=N),
        )
    yield "map", as_json(cf.path_heat_map, model, task, f"{last}<q>", n=N)
    for by in ("", "position", "span"):
        yield f"activation/{by}", as_json(cf.activation_patch, model, task, by=by, n=N)
    yield "roles", lambda: cf.head_roles(model, task, n=N).to_json()

    def found(parts: str = "") -> tuple[Any, Any]:
        scores = cf.discover(model, task, algorithm="eap-ig-inputs", n=12, parts=parts)
        return scores, cf.select(scores, top=25)

    yield "hypotheses", lambda: cf.hypotheses(model, task, found()[1], n=N, n_random=5, n_permutations=50).to_json()
    yield "stability", lambda: cf.stability(*found("prompt"), n_resamples=30).to_json()
    yield "certify", lambda: cf.certify(*found("prompt"), n_samples=200).to_json()
    if model.graph.has_mlp:
        two = {"plain": {}, "probabilities": {"metric": "prob-diff"}}
        yield "sensitivity", as_json(cf.sensitivity, model, task, two, edges=20, n=N, n_held_out=N)


def as_json(call: Callable[..., Any], *given: Any, **how: Any) -> Callable[[], Any]:
    """A call to make later, whose result is taken as JSON."""
    return lambda: call(*given, **how).to_json()


def compare(before: Arrays, after: Arrays) -> list[str]:
    """A line for every array that differs."""
    lines = [f"only before: {name}" for name in sorted(before.keys() - after.keys())]
    lines += [f"only after: {name}" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if old.shape == new.shape and old.dtype == new.dtype and old.tobytes() == new.tobytes():
            continue
        if old.dtype == np.uint8:
            lines.append(f"{name}: {shown(old)} -> {shown(new)}")
        elif old.shape != new.shape:
            lines.append(f"{name}: shape {old.shape} -> {new.shape}")
        else:
            apart = np.abs(old.astype(np.float64) - new.astype(np.float64)).max(initial=0)
            lines.append(f"{name}: differs by up to {apart:.3g}; the largest is {np.abs(old).max(initial=0):.3g}")
    return lines


def shown(text: np.ndarray[Any, Any]) -> str:
    """The beginning of a text stored as bytes."""
    return text.tobytes().decode()[:160]


def main() -> None:
    """The command line of this script."""
    from safetensors.numpy import load_file, save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    store = commands.add_parser("store")
    store.add_argument("file", type=Path)
    store.add_argument("--only", default="", help="only settings whose name holds this text")
    held = commands.add_parser("compare")
    held.add_argument("before", type=Path)
    held.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "store":
        torch.set_num_threads(1)
        save_file(store_all(given.only), str(given.file))
        return
    before, after = load_file(str(given.before)), load_file(str(given.after))
    lines = compare(before, after)
    print(
        "\n".join([*lines, f"{len(before):,} arrays before, {len(after):,} after, {len(lines):,} lines of difference"])
    )
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
