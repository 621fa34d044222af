"""The circuit of every task on the zoo models: ``python -m benchmarks.task_circuits``

Runs ``discover`` with its defaults for the seven tasks on ``tasks-4l`` and for induction on ``induction-2l``, keeps the run
folders in ``results/task_circuits/`` and writes the table there and into
``docs/task-circuits.md``. What the run of IOI says goes into the pages that explain it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.page import put_into
from circuitfind.run.pipeline import Run, Setting, run
from circuitfind.task import TASKS

OUT = Path("results/task_circuits")


def table(runs: list[Run]) -> str:
    """One row per run, as Markdown."""
    lines = [
        "| task | model | edges kept | faithfulness, held out | 95 % interval | random circuits | accuracy, full -> circuit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for done in runs:
        e, (low, high) = done.evaluation, done.evaluation.interval
        share = e.n_edges / e.n_edges_total
        lines.append(
            f"| {done.setting.task} | {done.setting.model} | {e.n_edges} of {e.n_edges_total:,} ({share:.1%}) "
            f"| {e.faithfulness:.2f} | {low:.2f} to {high:.2f} | {e.random.mean():.2f} +- {e.random.std(ddof=1):.2f} "
            f"| {e.accuracy_full:.0%} -> {e.accuracy:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Find and measure the circuit of every task.")
    parser.parse_args()
    pairs = [(task.name, "tasks-4l") for task in TASKS if task.model == "tasks-4l"] + [("induction", "induction-2l")]
    runs = []
    for task, model in pairs:
        runs.append(run(Setting(task, model), out=OUT / f"{task}-{model}", force=True, say=print))
        print(*runs[-1].sentences, sep="\n")
    made = (
        f"Made by `python -m benchmarks.task_circuits` ({torch.get_num_threads()} threads, torch {torch.__version__})."
    )
    text = f"{table(runs)}\n\n{made}"
    (OUT / "README.md").write_text(f"# Circuits of the zoo models\n\n{text}\n", encoding="utf-8")
    put_into("task circuits", text)
    said = next(done.sentences for done in runs if done.setting.task == "ioi")
    for place in ("first result", "a result"):
        put_into(place, "\n".join(["```text", *said, "```"]))


if __name__ == "__main__":
    main()
