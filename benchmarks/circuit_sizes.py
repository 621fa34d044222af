"""How large is the default circuit, and does the number hold? ``python -m benchmarks.circuit_sizes``

For every task of the zoo models, five seeds and four numbers of prompts, the size that three rules choose from the same scores:

* ``bound``, the rule until 0.2: the smallest prefix whose lower 95 % confidence bound reaches the target on both sets of train
  prompts, found by growth and bisection;
* ``curve``, the rule now (:mod:`circuitfind.selection.size_rule`);
* ``held out``, the rule now on the held-out prompts instead: what remains if the size is chosen where it is measured. The ratio
  of its sizes comes from the scores, which no rule for a size can mend.

Writes ``results/circuit_sizes/``: ``sizes.csv`` with a row for each of them, ``README.md`` and the tables of ``docs/sizes.md``.
Rows that are in ``sizes.csv`` already are kept; delete it to measure all anew (about half an hour on two cores).

Flags: --seeds N N ..., --scores FOLDER (where scores are kept from one start to the next).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

import circuitfind as cf
from benchmarks.page import markdown_head, put_into
from circuitfind.circuit import Circuit
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.run.selecting import select_in
from circuitfind.scores import EdgeScores
from circuitfind.selection import smallest_faithful
from circuitfind.selection.size_rule import grid_of
from circuitfind.selection.size_runs import Prefixes
from circuitfind.setting.defaults import FAITHFULNESS
from circuitfind.statistics import bootstrap, quantiles
from circuitfind.task import TASKS, TokenPairs

OUT = Path("results/circuit_sizes")
PROMPTS, SEEDS = (32, 64, 128, 256), (0, 1, 2, 3, 4)
CELLS = [*((task.name, "tasks-4l") for task in TASKS if task.model == "tasks-4l"), ("induction", "induction-2l")]
KEY = ["task", "model", "seed", "prompts", "rule"]
NUMBERS = ["edges", "low", "high", "passes", "faithfulness"]
WIDEST = 1.5
"""The ratio of the largest to the smallest size that the rule aims at."""


def by_bound(setting: cf.Setting, scores: EdgeScores) -> tuple[Circuit, float, float]:
    """The rule until 0.2."""
    prefixes = Prefixes.of(scores)
    runners = [_runner(setting, pairs) for pairs in setting.with_fresh(setting.n)]

    def good(n: int) -> bool:
        return all(_surely(runner, prefixes.best(n)) >= FAITHFULNESS for runner in runners)

    too_small, enough = 0, prefixes.n
    for size in grid_of(prefixes.n)[:-1]:
        if good(size):
            enough = size
            break
        too_small = size
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if good(middle) else (middle, enough)
    return prefixes.best(enough), float("nan"), float("nan")


def _surely(runner: CircuitRunner, circuit: Circuit) -> float:
    """The faithfulness that a circuit exceeds with 95 % confidence over prompts."""
    full, empty, values = runner.run(np.stack([runner.whole, runner.nothing, circuit.kept]))
    return quantiles(bootstrap(values, empty, full), 0.05)[0]


def _runner(setting: cf.Setting, pairs: TokenPairs) -> CircuitRunner:
    return CircuitRunner(setting.transformer, pairs, setting.measure(), setting.ablated_by)


def by_curve(setting: cf.Setting, scores: EdgeScores) -> tuple[Circuit, float, float]:
    """The rule now."""
    circuit, curve = select_in(scores, setting)
    assert curve is not None
    return circuit, *curve.range


def on_held_out(setting: cf.Setting, scores: EdgeScores) -> tuple[Circuit, float, float]:
    """The rule now, on the held-out prompts."""
    on = setting.transformer, setting.held_out, scores, setting.measure()
    return smallest_faithful(*on, FAITHFULNESS), float("nan"), float("nan")


RULES: dict[str, Callable[[cf.Setting, EdgeScores], tuple[Circuit, float, float]]] = {
    "bound": by_bound,
    "curve": by_curve,
    "held out": on_held_out,
}


@contextmanager
def counted(n: int) -> Iterator[list[float]]:
    """Counts circuits run inside the block, in passes over ``n`` prompts."""
    passes, measure = [0.0], CircuitRunner._measure

    def counting(self: CircuitRunner, new: dict[bytes, Any]) -> None:
        passes[0] += len(new) * self.pairs.n_pairs / n
        measure(self, new)

    CircuitRunner._measure = counting  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        CircuitRunner._measure = measure  # type: ignore[method-assign]


def scores_of(setting: cf.Setting, folder: Path | None) -> EdgeScores:
    """The scores of the default algorithm, from the folder if they are there."""
    path = folder and folder / f"{setting.task}-{setting.transformer.name}-{setting.seed}-{setting.n}.safetensors"
    if path and path.exists():
        return EdgeScores.load(path)
    scores = cf.discover(setting)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        scores.save(path)
    return scores


def measured(setting: cf.Setting, scores: EdgeScores, rule: str) -> dict[str, Any]:
    """The numbers of one row."""
    with counted(setting.n) as passes:
        circuit, low, high = RULES[rule](setting, scores)
    runner = _runner(setting, setting.held_out)
    numbers = circuit.n_edges, low, high, round(passes[0], 2), float(runner.faithfulness(circuit.kept[None])[0])
    return dict(zip(NUMBERS, numbers, strict=True))


def measure(seeds: list[int], folder: Path | None) -> None:
    """Append the rows that are missing to the file."""
    path = OUT / "sizes.csv"
    there = {tuple(row) for row in rows()[KEY].itertuples(index=False)} if path.exists() else set()
    models = {name: cf.load_model(name) for name in {model for _, model in CELLS}}
    for seed in seeds:
        for task, model in CELLS:
            for n in PROMPTS:
                missing = [rule for rule in RULES if (task, model, seed, n, rule) not in there]
                if not missing:
                    continue
                setting = cf.Setting(task, model=models[model], n=n, seed=seed)
                scores = scores_of(setting, folder)
                keys: list[dict[str, Any]] = [
                    dict(zip(KEY, (task, model, seed, n, rule), strict=True)) for rule in missing
                ]
                found = [key | measured(setting, scores, key["rule"]) for key in keys]
                frame = pandas.DataFrame(found, columns=KEY + NUMBERS)
                frame.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.6g")
                print(*(f"{row['rule']} {row['edges']}" for row in found), task, model, seed, n, flush=True)


def rows() -> pandas.DataFrame:
    """What was measured, in order."""
    order = {name: number for number, name in enumerate(RULES)}
    found = pandas.read_csv(OUT / "sizes.csv")
    return found.sort_values(KEY, key=lambda column: column.map(order) if column.name == "rule" else column)


def ratios(found: pandas.DataFrame) -> str:
    """One row per task, as Markdown: smallest to largest size and their ratio, for each rule."""
    lines = markdown_head(
        ["task", "edges before", "ratio", "edges now", "ratio", "chosen on held-out prompts", "ratio"]
    )
    for (task, model), part in found.groupby(["task", "model"], sort=False):
        words = [f"{task} on {model}"]
        for rule in RULES:
            sizes = part[part.rule == rule].edges
            words += [f"{sizes.min()} to {sizes.max()}", f"{sizes.max() / sizes.min():.2f}"]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def qualities(found: pandas.DataFrame) -> str:
    """One row per rule, as Markdown: held-out faithfulness and cost over all runs."""
    names = [
        "rule",
        "runs",
        "held-out faithfulness, mean",
        "lowest",
        "below the target",
        "below by over 0.05",
        "passes",
        "most",
    ]
    lines = markdown_head(names)
    for rule in RULES:
        part = found[found.rule == rule]
        f, short = part.faithfulness, (part.faithfulness < FAITHFULNESS).mean()
        far = (part.faithfulness < FAITHFULNESS - 0.05).mean()
        large = part[part.prompts == max(PROMPTS)].passes
        lines.append(
            f"| {rule} | {len(part)} | {f.mean():.3f} | {f.min():.3f} | {short:.0%} | {far:.0%} | {large.mean():.0f} "
            f"| {large.max():.0f} |"
        )
    return "\n".join(lines)


def by_prompts(found: pandas.DataFrame, rule: str) -> str:
    """Sizes of the five seeds at each number of prompts, as Markdown."""
    lines = markdown_head(["task", *(f"{n} prompts" for n in PROMPTS)])
    for (task, model), part in found[found.rule == rule].groupby(["task", "model"], sort=False):
        cells = [", ".join(map(str, part[part.prompts == n].edges)) for n in PROMPTS]
        lines.append(f"| {task} on {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def covered(found: pandas.DataFrame) -> str:
    """How often the range that a run states holds the size of another seed with as many prompts."""
    part, hits = found[found.rule == "curve"], list[bool]()
    for _, group in part.groupby(["task", "model", "prompts"]):
        for one in group.itertuples():
            others = group[group.seed != one.seed].edges
            hits += ((one.low <= others) & (others <= one.high)).tolist()
    return f"The range that a run states holds the size that another seed chooses in {np.mean(hits):.0%} of all pairs of seeds."


def page(found: pandas.DataFrame) -> str:
    """The tables and what they show."""
    wide = [
        f"{task} on {model}"
        for (task, model), part in found[found.rule == "curve"].groupby(["task", "model"], sort=False)
        if part.edges.max() > WIDEST * part.edges.min()
    ]
    kept = f"The ratio of the largest to the smallest size is above {WIDEST} for {', '.join(wide) or 'no task'}."
    made = (
        f"Made by `python -m benchmarks.circuit_sizes` (torch {torch.__version__}): {len(SEEDS)} seeds and "
        f"{', '.join(map(str, PROMPTS))} prompts, target {FAITHFULNESS}. `passes` counts circuits run to choose the size, each "
        f"over as many prompts as the scores come from, at {max(PROMPTS)} prompts."
    )
    return "\n\n".join([ratios(found), kept, qualities(found), covered(found), made])


def main() -> None:
    parser = argparse.ArgumentParser(description="Sizes of default circuits over seeds and numbers of prompts.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--scores", type=Path, default=None)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    measure(given.seeds, given.scores)
    found = rows()
    if tuple(given.seeds) != SEEDS:
        return
    found.to_csv(OUT / "sizes.csv", index=False, float_format="%.6g")
    text = page(found)
    detail = [f"## Edges by the rule `{rule}`\n\nFive seeds each.\n\n{by_prompts(found, rule)}" for rule in RULES]
    head = "# Sizes of default circuits"
    (OUT / "README.md").write_text("\n\n".join([head, text, *detail]) + "\n", encoding="utf-8")
    put_into("circuit sizes", text)


if __name__ == "__main__":
    main()
