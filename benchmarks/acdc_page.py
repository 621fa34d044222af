"""Tables and picture of :mod:`benchmarks.acdc_speed`'s result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.attribution_speed import N_PROMPTS, N_TOKENS, SHAPE
from circuitfind.rendering.style import FAINT, HELPS, HURTS, INK, MUTED

Row = dict[str, Any]
Columns = Mapping[str, Callable[[Row], str]]
SHAPE_EDGES = SHAPE.graph().n_edges
PICTURE = "acdc_speed"
MADE = "Made by `python -m benchmarks.acdc_speed`."


def page(result: Row) -> str:
    """The whole result."""
    lines = ["# Speed of ACDC", "", MADE, "", f"![Seconds against edges kept]({PICTURE}.svg)", ""]
    lines += gpt2_page(result["gpt2"], result.get("autocircuit")) if "gpt2" in result else []
    lines += zoo_page(result["zoo"]) if "zoo" in result else []
    return "\n".join(lines)


def short_page(result: Row) -> str:
    """The tables for the page about ACDC."""
    lines = short_zoo(result["zoo"]) if "zoo" in result else []
    lines += short_gpt2(result["gpt2"], result.get("autocircuit")) if "gpt2" in result else []
    return "\n".join([*lines, MADE])


# ------------------------------------------------------------------------------------------------------------ tables


def table(columns: Columns, rows: Sequence[Row], left: int = 0) -> list[str]:
    """A Markdown table; all but the first ``left`` columns are numbers."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    cells = [[text(row) for text in columns.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *cells)]


def zoo_columns(n_edges: str = "") -> dict[str, Callable[[Row], str]]:
    """What the short and the long table of the zoo models share."""
    return {
        "threshold": lambda row: f"{row['threshold']:g}",
        "kept": lambda row: f"{row['kept']:,}",
        "share": lambda row: f"{row['kept'] / row['edges']:.1%}",
        f"tests{n_edges}": lambda row: f"{row['tests']:,}",
        "seconds": lambda row: span(row["seconds"]),
        "sequential, seconds": naive_words,
        "times ours": lambda row: times(row["naive_seconds"] / row["seconds"]),
    }


def zoo_page(part: Row) -> list[str]:
    """Every row of the zoo models."""
    columns = {
        "model": lambda row: row["model"],
        "task": lambda row: row["task"],
        **zoo_columns(),
        "cut untested": lambda row: f"{row['edges'] - row['tests']:,}",
        "plain forwards": lambda row: f"{row['seconds'] / row['forward_seconds']:,.1f}",
        "same circuit": same_words,
    }
    return [
        "## Zoo models",
        "",
        f"{part['prompts']} train prompts, KL, corrupted ablation, float32, {part['threads']} threads. Seconds of the whole "
        "call, the clean and the corrupted run included, after one that is not counted (short "
        "ones: the median of three). Sequential is "
        "the search as its paper has it (`tests/naive_acdc.py`), one dense forward pass per test, run once; where it says "
        "estimated, its tests times one measured dense forward pass. Plain forwards: our seconds in forward passes of the "
        "full model on the same prompts. Same circuit: whether the sequential search, where it was run, kept the same edges.",
        "",
        *table(columns, part["rows"], left=2),
        "",
        versions_line(part),
        "",
    ]


def short_zoo(part: Row) -> list[str]:
    """IOI on `tasks-4l`."""
    rows = [row for row in part["rows"] if (row["model"], row["task"]) == ("tasks-4l", "ioi")]
    columns = zoo_columns(f" of {rows[0]['edges']:,}")
    about = f"`tasks-4l` on IOI, {part['prompts']} prompts, {part['threads']} threads; sequential: one dense forward per test."
    return [about, "", *table(columns, rows), ""]


def gpt2_columns(peer: Row | None) -> dict[str, Callable[[Row], str]]:
    """What the short and the long table of the GPT-2 shape share."""
    columns: dict[str, Callable[[Row], str]] = {
        "threshold": lambda row: f"{row['threshold']:g}",
        "kept": lambda row: f"{row['kept']:,}",
        "tests": lambda row: f"{row['tests']:,}",
        "seconds": lambda row: span(row["seconds"]),
        "ms per test": lambda row: span(1000 * row["seconds"] / row["tests"]) if row["tests"] else "",
    }
    if peer:
        columns["AutoCircuit, hours, extrapolated"] = lambda row: f"{peer['seconds'] / 3600:.1f}"
        columns["times ours"] = lambda row: times(peer["seconds"] / row["seconds"])
    return columns | {"peak memory, MB": lambda row: f"{row['megabytes']:,.0f}"}


def gpt2_page(part: Row, peer: Row | None) -> list[str]:
    """Every row of the GPT-2 shape, and AutoCircuit."""
    speed = max(row["matrix_speed"] for row in part["rows"])
    forward = statistics.median(row["forward_seconds"] for row in part["rows"])
    columns = gpt2_columns(peer) | {
        "thrown away": lambda row: f"{row['thrown_away']:,}",
        "plain forwards": lambda row: f"{row['seconds'] / forward:,.0f}",
        "ms per decision": lambda row: span(1000 * row["seconds"] / SHAPE_EDGES),
        "floor, seconds": lambda row: span(row["operations"] / speed),
        "times floor": lambda row: times(row["seconds"] * speed / row["operations"]) if row["operations"] else "",
    }
    return [
        "## GPT-2-small shape",
        "",
        f"Random weights, {N_PROMPTS} prompts x {N_TOKENS} tokens, KL, corrupted ablation, float32, {part['threads']} "
        f"threads, {SHAPE_EDGES:,} decisions. Each threshold once, in a process of its own; seconds include the clean and "
        f"the corrupted run. One plain forward pass of the full model (logits at the answer): {forward:.3f} s. Thrown away "
        "are tests computed in a batch after a cut that was refused. Floor: operations of the matrix products of the tests "
        f"made (thrown-away ones not counted), at this machine's {speed / 1e9:.0f} GFLOP/s of one large product. Peak memory "
        "is above the loaded model.",
        "",
        *table(columns, part["rows"]),
        "",
        *(autocircuit_page(peer) if peer else []),
        versions_line(part),
        "",
    ]


def short_gpt2(part: Row, peer: Row | None) -> list[str]:
    """One row per threshold."""
    about = f"GPT-2-small shape, random weights, {N_PROMPTS} prompts x {N_TOKENS} tokens, {part['threads']} threads."
    return [f"{about} {extrapolated(peer) if peer else ''}".rstrip(), "", *table(gpt2_columns(peer), part["rows"]), ""]


def autocircuit_page(peer: Row) -> list[str]:
    """AutoCircuit's seconds, layer by layer."""
    columns = {
        "layer": lambda layer: str(layer["layer"]),
        "edges": lambda layer: f"{layer['edges']:,}",
        "seconds per test": lambda layer: span(layer["seconds_per_test"]),
        "hours, extrapolated": lambda layer: f"{layer['edges'] * layer['seconds_per_test'] / 3600:.2f}",
    }
    return [
        f"{extrapolated(peer)} That is {peer['seconds']:,.0f} s or {peer['seconds'] / 3600:.1f} hours at any threshold; its "
        f"own plain forward pass (every position unembedded) took {peer['forward_seconds']:.3f} s.",
        "",
        *table(columns, peer["layers"]),
        "",
        f"AutoCircuit's environment: {listed(peer['peer_versions'])}, {peer['threads']} threads.",
        "",
    ]


# ------------------------------------------------------------------------------------------------------------- words


def zoo_line(row: Row) -> str:
    """A row while it is measured."""
    return (
        f"{row['model']} {row['task']} at {row['threshold']:g}: kept {row['kept']} after {row['tests']} tests, "
        f"{span(row['seconds'])} s; sequential {naive_words(row)}; same circuit: {same_words(row) or 'not asked'}"
    )


def extrapolated(peer: Row) -> str:
    n = peer["tests_timed_per_layer"]
    return (
        f"AutoCircuit's ACDC tests all {SHAPE_EDGES:,} edges; its total is extrapolated from {n} timed "
        f"test{'s' if n > 1 else ''} per layer, on the same model and prompts with {peer['threads']} threads."
    )


def naive_words(row: Row) -> str:
    return span(row["naive_seconds"]) + ("" if row["naive_measured"] else " (estimated)")


def same_words(row: Row) -> str:
    differing = row.get("differing_edges")
    return "" if differing is None else f"no, {differing} differ" if differing else "yes"


def span(number: float) -> str:
    """Three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 1 else f"{number:.3f}"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def listed(known: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in known.items())


def versions_line(part: Row) -> str:
    return f"Versions: {listed(part['versions'])}."


# ----------------------------------------------------------------------------------------------------------- picture


def draw(result: Row, folder: Path) -> None:
    """Seconds against edges kept, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "svg.hashsalt": PICTURE, "text.color": INK, "axes.edgecolor": MUTED}):
        figure, axes = pyplot.subplots(figsize=(6.5, 4.5), dpi=150, layout="constrained")
        _points(axes, result)
        _axes(axes)
        if peer := result.get("autocircuit"):
            _line(axes, peer["seconds"])
        figure.legend(loc="outside upper center", ncols=3, frameon=False, handletextpad=0.1, columnspacing=1.2)
        figure.savefig(folder / f"{PICTURE}.png")
        figure.savefig(folder / f"{PICTURE}.svg", metadata={"Date": None})
        pyplot.close(figure)


def _points(axes: Any, result: Row) -> None:
    zoo = [row for row in result.get("zoo", {}).get("rows", []) if row["model"] == "tasks-4l"]
    naive, gpt2 = [row for row in zoo if row["naive_measured"]], result.get("gpt2", {}).get("rows", [])
    for rows, key, label, color, marker in (
        (zoo, "seconds", "circuitfind, tasks-4l", HELPS, "o"),
        (naive, "naive_seconds", "sequential search, tasks-4l", HURTS, "^"),
        (gpt2, "seconds", "circuitfind, GPT-2-small shape", INK, "s"),
    ):
        if rows:
            x, y = [max(0.5, row["kept"]) for row in rows], [row[key] for row in rows]
            axes.scatter(x, y, s=20, label=label, color=color, marker=marker, alpha=0.75, linewidth=0)


def _axes(axes: Any) -> None:
    """Both logarithmic, in plain numbers; 0 kept edges stand at 0.5."""
    axes.set(xscale="log", yscale="log", xlabel="edges kept", ylabel="seconds")
    axes.set_xlim(0.35, 1.5 * max(10, axes.dataLim.x1))
    powers = [10**power for power in range(6) if 10**power < axes.get_xlim()[1]]
    axes.set_xticks([0.5, *powers], ["0", *(f"{power:,}" for power in powers)])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.minorticks_off()
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Any, seconds: float) -> None:
    """What AutoCircuit takes, whatever is kept."""
    axes.axhline(seconds, color=MUTED, linestyle="--", linewidth=1.2)
    words = f"AutoCircuit on the GPT-2-small shape, extrapolated: {seconds / 3600:.1f} hours"
    plain = {"color": "white", "pad": 0.5}
    axes.annotate(words, (0.4, seconds), xytext=(0, 5), textcoords="offset points", color=MUTED, bbox=plain)
    axes.set_ylim(top=4 * seconds)
