"""A benchmark's folder with made-up numbers, in the layout of the harness."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

ALGORITHMS = ("acdc", "eap", "eap-ig-inputs", "exact", "random-edges", "refine", "relp", "edge-pruning", "gim")
KNOWN = (("compiled-0", "reverse"), ("compiled-1", "sort"), ("siit-2", "gate"), ("siit-3", "copy"))
OTHERS = (("tasks-4l", "ioi"), ("tasks-4l", "greater-than"), ("induction-2l", "induction"))
OR_GATES = (("wired-or", "or"), ("wired-backup", "backup"))
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = (0, 1)


def cells(ablations=("corrupted", "zero"), algorithms=ALGORITHMS):
    for model, task in (*KNOWN, *OTHERS, *OR_GATES):
        for ablation in ablations:
            for algorithm in algorithms:
                for seed in SEEDS:
                    about = {
                        "model": model,
                        "task": task,
                        "algorithm": algorithm,
                        "options": "{}",
                        "metric": "logit-diff",
                    }
                    yield {
                        **about,
                        "ablation": ablation,
                        "seed": seed,
                        "cell": f"{model}-{task}-{ablation}-{algorithm}-{seed}",
                    }


def roc_of(rng, strength):
    tpr = np.concatenate([[0], np.sort(rng.random(20) ** (1 / strength)), [1]])
    return [np.linspace(0, 1, len(tpr)).tolist(), tpr.tolist()]


def rows_of(cell, rng):
    """The measured quantities of one cell; later algorithms of the list are worse."""
    place = ALGORITHMS.index(cell["algorithm"].partition("<")[0]) if cell["algorithm"] in ALGORITHMS else 0
    skill = 0.95 - 0.04 * place
    if (cell["model"], cell["task"]) not in OTHERS:
        names = ("edge-auc", "edge-auc-pessimistic", "edge-pr-auc", "head-auc", "node-auc")
        yield from ((name, np.nan, np.clip(skill + rng.normal(0, 0.02), 0, 1)) for name in names)
    yield from (("faithfulness", share, skill * share**0.2 + rng.normal(0, 0.02)) for share in FRACTIONS)
    yield from ((name, np.nan, skill + rng.normal(0, 0.05)) for name in ("cpr", "cpr-log"))
    yield from ((name, np.nan, 1 - skill + abs(rng.normal(0, 0.05))) for name in ("cmd", "cmd-log"))
    yield from (("kl", share, rng.exponential(1 - share + 0.01)) for share in FRACTIONS)
    yield from (("edges-for", level, rng.integers(1, 500)) for level in (0.85, 0.9, 0.95))


def write_benchmark(folder: Path, *, lacking=(("gim", "siit-2"), ("gim", "tasks-4l")), seed=0, **which) -> Path:
    """Write a folder; ``lacking``: pairs of an algorithm and a model whose cells failed."""
    rng = np.random.default_rng(seed)
    table, costs, failures = [], [], []
    for number, cell in enumerate(cells(**which)):
        if (cell["algorithm"], cell["model"]) in lacking:
            failures.append({**cell, "type": "NumericalError", "message": '<b>NaN</b> in layer 1 & "more"'})
            continue
        table += [{**cell, "quantity": name, "at": at, "value": value} for name, at, value in rows_of(cell, rng)]
        forwards = 0 if cell["algorithm"] == "random-edges" else 3 * 2 ** (number % len(ALGORITHMS))
        costs.append({**cell, "seconds": forwards / 10, "forwards": forwards, "megabytes": 100 + forwards})
        place = folder / "cells" / cell["cell"]
        place.mkdir(parents=True)
        result = {"roc": roc_of(rng, 3)} if (cell["model"], cell["task"]) not in OTHERS else {}
        (place / "result.json").write_text(json.dumps(result))
    pd.DataFrame(table).to_parquet(folder / "table.parquet")
    pd.DataFrame(costs).to_csv(folder / "costs.csv", index=False)
    pd.DataFrame(failures).to_csv(folder / "failures.csv", index=False)
    skipped = {
        "model": "tasks-4l",
        "task": "ioi",
        "algorithm": "hisp",
        "ablation": "zero",
        "reason": "no <zero> ablation",
    }
    pd.DataFrame([skipped]).to_csv(folder / "skipped.csv", index=False)
    grid = {
        "command": "circuitfind bench --quick",
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "machine": ["x86_64", "2 cores"],
    }
    (folder / "grid.json").write_text(json.dumps(grid))
    return folder
