"""Tables and picture of :mod:`benchmarks.scaling`'s result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import markdown_head

AXES = {
    "layers": (3, 6, 12, 24),
    "heads": (4, 8, 16, 32),
    "d_model": (128, 256, 512, 1024),
    "prompts": (16, 32, 64, 128, 256),
    "tokens": (8, 16, 32, 64, 128),
}
METHODS = ("eap", "eap-ig-inputs", "acdc", "circuit")


def exponent(rows: list[dict[str, Any]], what: str) -> float:
    """Slope of the logarithm of a quantity against that of the size."""
    sizes, values = ([row[key] for row in rows] for key in ("size", what))
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0])


def table(rows: list[dict[str, Any]], speed: float) -> str:
    """Markdown: one line for every method and axis."""
    lines = [
        "| method | axis | sizes | seconds | exponent | exponent of the floor | times the floor | megabytes |",
        "| --- | --- | --- | --- | ---: | ---: | --- | --- |",
    ]
    for method in METHODS:
        for axis in AXES:
            here = [row for row in rows if row["method"] == method and row["axis"] == axis]
            shown = [
                " ".join(f"{row['size']}" for row in here),
                " ".join(f"{row['seconds']:.3g}" for row in here),
                f"{exponent(here, 'seconds'):.2f}",
                f"{exponent(here, 'operations'):.2f}",
                " ".join(f"{row['seconds'] / (row['operations'] / speed):.1f}" for row in here),
                " ".join(f"{row['megabytes']:.0f}" for row in here),
            ]
            lines.append(f"| {method} | {axis} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], speed: float, path: Path) -> None:
    """Time (dots) and floor (lines) against every size, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(3.2 * len(AXES), 3.6), sharey=True)
    colors = dict(zip(METHODS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))
    for panel, axis in zip(panels, AXES, strict=True):
        for method in METHODS:
            here = [row for row in rows if row["method"] == method and row["axis"] == axis]
            sizes = [row["size"] for row in here]
            label = f"{method} ({'one decision' if method == 'acdc' else 'whole run'})"
            panel.loglog(sizes, [row["seconds"] for row in here], "o-", color=colors[method], label=label, markersize=4)
            panel.loglog(sizes, [row["operations"] / speed for row in here], ":", color=colors[method])
        panel.set_xlabel(axis)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
    panels[0].set_ylabel("seconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle("Time (dots) and floor of matrix products (dotted)", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def gpu_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = ["what", "seconds", "plain forwards", "tokens/s", "plain forward's tokens/s"]
    head += ["GB above the weights", "edges kept"]
    lines = markdown_head(head)
    for row in rows:
        memory = "" if row["gigabytes"] is None else f"{row['gigabytes']:.2f}"
        values = f"{row['seconds']:.3g} | {row['forwards']:.2f} | {row['tokens_per_second']:,.0f}"
        rest = f"{row['forward_tokens_per_second']:,.0f} | {memory} | {'' if row['kept'] is None else row['kept']}"
        lines.append(f"| {row['what']} | {values} | {rest} |")
    return "\n".join(lines)
