"""Commands that list what is available: tasks, models, algorithms, metrics."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from circuitfind.cli.options import Json, app, print_result


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="One task in full.")] = None,
    show: Annotated[int, typer.Option(help="Print this many example pairs.")] = 0,
    as_json: Json = False,
) -> None:
    """List the tasks, or describe one."""
    from circuitfind.task import TASKS

    if name is None:
        descriptions = {task.name: task.description for task in TASKS}
        print_result(descriptions, as_json, (f"{key:24} {text}" for key, text in descriptions.items()))
        return
    task = TASKS[name]
    pairs = [
        {"clean": p.clean, "corrupted": p.corrupted, "correct": list(p.correct), "incorrect": list(p.incorrect)}
        | ({"answer_at": p.answer_at} if p.answer_at else {})
        for p in (task.pairs(show) if show else [])
    ]
    facts: dict[str, Any] = {
        "name": task.name,
        "description": task.description,
        "source": task.source,
        "clean": task.clean_rule,
        "corrupted": task.corrupted_rule,
        "metric": task.metric,
        "model": task.model,
        "options": {key: list(values) for key, values in task.options.items()},
        "positions": dict(task.position_labels),
        "published circuits": [f"{c.model}: {c.source}" for c in task.canonical],
    }
    lines = [f"{key:20} {value}" for key, value in facts.items() if value]
    print_result({**facts, "pairs": pairs}, as_json, [*lines, *(json.dumps(p, ensure_ascii=False) for p in pairs)])


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="One zoo model: its card.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Print the words it knows.")] = False,
    as_json: Json = False,
) -> None:
    """List the models that come with circuitfind, or show one's card or words."""
    from circuitfind import zoo

    if name is None:
        rows = {key: zoo.zoo_config(key) for key in zoo.zoo_names()}
        print_result(rows, as_json, (f"{key:17} {_shape_words(row['config'])}" for key, row in rows.items()))
        return
    if words:
        vocabulary = sorted(zoo.open_zoo(name).tokenizer.vocabulary)
        print_result(vocabulary, as_json, [" ".join(vocabulary)])
        return
    print_result(zoo.zoo_config(name), as_json, [zoo.card(name)])


def _shape_words(config: dict[str, Any]) -> str:
    mlp = f"d_mlp {config['d_mlp']}" if config["d_mlp"] else "attention only"
    return (
        f"{config['n_layers']} layers x {config['n_heads']} heads, d_model {config['d_model']}, {mlp}, "
        f"{config['d_vocab']} words"
    )


@app.command()
def algorithms(as_json: Json = False) -> None:
    """List the discovery algorithms with their options."""
    from circuitfind.discovery.contract import ALGORITHMS

    rows: dict[str, dict[str, Any]] = {
        a.name: {
            "description": a.description,
            "paper": a.paper,
            "cost": a.cost,
            "options": dict(a.options),
            "parts": list(a.parts),
        }
        for a in ALGORITHMS
    }
    lines, width = [], max(map(len, rows)) + 1
    for key, row in rows.items():
        settings = ", ".join(f"{option}={default}" for option, default in row["options"].items())
        lines += [
            f"{key:{width}} {row['description']}",
            f"{'':{width}} {row['paper']}",
            f"{'':{width}} cost: {row['cost']}",
        ]
        lines += [f"{'':{width}} options: {settings}"] if settings else []
        lines += [f"{'':{width}} scores apart by {', '.join(row['parts'])}: --parts"] if row["parts"] else []
    print_result(rows, as_json, lines)


@app.command()
def metrics(as_json: Json = False) -> None:
    """List the metrics; one of your own is --metric FILE.py:NAME, a function (logits, targets)."""
    from circuitfind.task.metrics import METRICS

    rows = {
        metric.name: {
            "unit": metric.unit,
            "better": "more" if metric.larger_is_better else "less",
            "description": words,
        }
        for metric in METRICS
        if (words := (metric.function.__doc__ or "").strip().partition("\n")[0])
    }
    lines = (
        f"{name:12} {row['description']} Unit: {row['unit']}; {row['better']} is better." for name, row in rows.items()
    )
    print_result(rows, as_json, lines)
