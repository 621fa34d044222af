"""Tables and picture of :mod:`benchmarks.algorithm_quality`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.page import markdown_head, put_into

if TYPE_CHECKING:
    import pandas

COLOURS = {
    "refine": "#0072b2",
    "acdc": "#d55e00",
    "edge-pruning": "#009e73",
    "eap-ig-inputs": "#cc79a7",
    "eap": "#e69f00",
    "random-edges": "#777777",
}
"""The algorithms that have a colour of their own in the picture; the others are thin and grey."""
RIVALS = ("acdc", "edge-pruning")


def write(folder: Path) -> None:
    """``table.md`` and the picture beside the CSV files, and the short table into the page of the algorithms."""
    import pandas

    found = pandas.concat([pandas.read_csv(path) for path in sorted(folder.glob("*.csv"))], ignore_index=True)
    tables = "\n\n".join(_whole_table(part, str(task)) for task, part in found.groupby("task", sort=False))
    text = f"# Every algorithm at every size of circuit\n\n{_made(found)}\n\n{_comparison(found)}\n\n{tables}\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    _draw(found, folder)
    put_into("algorithm quality", f"{_short_table(found)}\n\n{_comparison(found)}\n\n{_made(found)}")


def _made(found: pandas.DataFrame) -> str:
    first = found.iloc[0]
    forwards = ", ".join(
        f"{1000 * part.forward_seconds.iloc[0]:.0f} ms on {task}" for task, part in found.groupby("task", sort=False)
    )
    return (
        f"`tasks-4l` (1,519 edges), {first.prompts} train and {first.prompts} held-out prompts, {first.threads} threads, "
        f"torch {first.torch}; a plain forward pass of all train prompts took {forwards}. Made by `python -m "
        "benchmarks.algorithm_quality`."
    )


def _sizes(found: pandas.DataFrame) -> list[tuple[float, int]]:
    return sorted({(float(share), int(asked)) for share, asked in zip(found.share, found.asked, strict=True)})


def _whole_table(part: pandas.DataFrame, task: str) -> str:
    """Every algorithm: held-out KL and faithfulness at every size, edges kept where fewer than asked for, and cost."""
    heads = [f"{share:.1%}: {asked} edges" for share, asked in _sizes(part)]
    lines = [f"## {task}", "", "KL in nats / faithfulness of the logit difference, both held out.", ""]
    lines += markdown_head(["algorithm (metric)", *heads, "seconds, all sizes", "plain forwards, all sizes"])
    for (name, metric), rows in part.groupby(["algorithm", "metric"], sort=False):
        cells = [
            f"{row['kl']:.3g} / {row['faithfulness']:.2f}"
            + (f" ({row['edges']})" if row["edges"] != row["asked"] else "")
            for row in rows.sort_values("asked").to_dict("records")
        ]
        lines.append(
            f"| {name} ({metric}) | {' | '.join(cells)} | {rows.seconds_all_sizes.iloc[0]:.1f} "
            f"| {rows.forwards_all_sizes.iloc[0]:,.0f} |"
        )
    return "\n".join([*lines, "", "In brackets: edges, where they are fewer than asked for."])


def _short_table(found: pandas.DataFrame) -> str:
    """Held-out KL and the forwards of each size, of the searches and of the best ranking."""
    lines = markdown_head(["held-out KL (plain forwards)", *(f"{asked} edges" for _, asked in _sizes(found))])
    for task, part in found.groupby("task", sort=False):
        for name in ("refine", *RIVALS, "eap-ig-inputs", "random-edges"):
            rows = part[(part.algorithm == name) & (part.metric == "kl")].sort_values("asked")
            cells = (f"{row['kl']:.3g} ({row['forwards']:,.0f})" for row in rows.to_dict("records"))
            lines.append(f"| {task}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _comparison(found: pandas.DataFrame) -> str:
    """Where refine is better than the other searches, and at what share of their cost; counted, not claimed."""
    own = found[found.algorithm == "refine"].set_index(["task", "asked"])
    lines = []
    for rival in RIVALS:
        other = found[found.algorithm == rival].set_index(["task", "asked"]).loc[own.index]
        worse = own.index[own.kl > 1.005 * other.kl]
        ratio = own.forwards / other.forwards
        whole = own.groupby(level=0).forwards_all_sizes.first() / other.groupby(level=0).forwards_all_sizes.first()
        where = ", ".join(
            f"{task} at {asked} edges ({own.kl[task, asked]:.3g} to {other.kl[task, asked]:.3g})"
            for task, asked in worse
        )
        lines.append(
            f"- `refine` against `{rival}`: held-out KL lower or within 0.5 % at {len(own) - len(worse)} of {len(own)} sizes"
            + (f", higher for {where}" if where else "")
            + f". Its cost is {ratio.min():.2f} to {ratio.max():.2f} times that of one size (median {ratio.median():.2f}), and "
            + ", ".join(f"{share:.2f} on {task}" for task, share in whole.items())
            + " times that of all six sizes."
        )
    return "\n".join(lines)


def _draw(found: pandas.DataFrame, folder: Path) -> None:
    """KL against edges, a panel for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(found.task.unique())
    figure = Figure(figsize=(4.6 * len(tasks), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for (name, metric), rows in found[found.task == task].groupby(["algorithm", "metric"], sort=False):
            own = name in COLOURS and (metric == "kl" or name == "eap")
            style = {"color": COLOURS[name], "linewidth": 1.8, "marker": "o", "markersize": 4} if own else {}
            style = style or {"color": "#bbbbbb", "linewidth": 0.7, "zorder": 1}
            axes.plot(rows.asked, rows.kl, label=name if own else None, **style)
        axes.set(
            xscale="log",
            yscale="log",
            title=task,
            xlabel="edges asked for",
            ylabel="KL to the full model, nats, held out",
        )
        axes.spines[["top", "right"]].set_visible(False)
    axes.plot([], [], color="#bbbbbb", linewidth=0.7, label="all others")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "algorithm_quality.png", dpi=130)
