"""The default benchmark, and its top in the README.

    python -m benchmarks.leaderboard              measure what is missing, write results/leaderboard/ and the README's table
    python -m benchmarks.leaderboard --page       the tables from what is there, measuring nothing

To be run from the repository. Cells (``results/leaderboard/cells/``) are no part of it: they hold every score of every run.
Without them the ROC curves are not drawn again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas

from benchmarks.page import markdown_head, put_into
from circuitfind.bench.benchmark import Crew, run_grid
from circuitfind.bench.grid import read_grid
from circuitfind.bench.leaderboard import leaderboard
from circuitfind.bench.page import write_leaderboard

ROOT = Path(__file__).parents[1]
OUT = Path("results") / "leaderboard"
COLUMNS = {
    ("trained", "edge-auc"): "edge AUC, trained",
    ("compiled", "edge-auc"): "compiled",
    ("other-ablations", "edge-auc"): "other ablations",
    ("or-gate", "edge-auc"): "redundant inputs",
    ("behaviour", "cmd-log"): "CMD, log axis",
    ("cost", "forwards"): "plain forwards",
}
"""Board and quantity of each column, and its head."""


def top(table: pandas.DataFrame) -> str:
    """One row for each algorithm, by its mean area on the trained models: Markdown."""
    means = {
        head: table[(table.board == board) & (table.quantity == quantity)].set_index("algorithm")
        for (board, quantity), head in COLUMNS.items()
    }
    order = means["edge AUC, trained"].sort_values(["mean", "algorithm"], ascending=[False, True]).index
    rows = [
        f"| `{name}` | " + " | ".join(_cell(found, name, head) for head, found in means.items()) + " |"
        for name in order
    ]
    return "\n".join([*markdown_head(["algorithm", *COLUMNS.values()]), *rows])


def _cell(found: pandas.DataFrame, name: str, head: str) -> str:
    if name not in found.index:
        return "-"
    row = found.loc[name]
    if head == COLUMNS["cost", "forwards"]:
        return f"{row['mean']:,.0f}"
    text = f"{row['mean']:.3f}"
    if name == "random-edges" and head == COLUMNS["trained", "edge-auc"]:
        text += f" ({row['low']:.2f} to {row['high']:.2f})"
    return text if row.complete else f"{text} ({row.settings} of {row.of_settings})"


def settings(table: pandas.DataFrame) -> str:
    """How many settings each column is the mean of."""
    counts = {
        head: int(table[(table.board == board) & (table.quantity == quantity)].of_settings.max())
        for (board, quantity), head in COLUMNS.items()
    }
    return ", ".join(f"{head} {count}" for head, count in counts.items())


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.page:
        write_leaderboard(given.out)
    else:
        run_grid(read_grid(), given.out, Crew(workers=given.workers), say=print)
    table = leaderboard(given.out)
    text = top(table) + f"\n\nMeans over settings (a model, a task, an ablation): {settings(table)}. Costs are medians."
    put_into("leaderboard", text)


if __name__ == "__main__":
    main()
