"""Figures of scores and evaluations, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PALE, ACCENT = "#333333", "#9aa0a6", "#0072b2"


def plot_sizes(values: np.ndarray[Any, Any], unit: str) -> Figure:
    """Scores from the largest to the smallest by size, both axes logarithmic."""
    figure, axes = _figure()
    sizes = np.sort(np.abs(values))[::-1]
    axes.plot(np.arange(1, len(sizes) + 1), np.where(sizes > 0, sizes, np.nan), color=ACCENT)
    axes.set(
        xscale="log", yscale="log", xlabel="rank of the edge, by size of score", ylabel=f"|score| ({unit or 'score'})"
    )
    return figure


def plot_chances(circuit: float, interval: tuple[float, float], random: np.ndarray[Any, Any], metric: str) -> Figure:
    """A circuit's faithfulness with its interval, beside random circuits of equal size."""
    figure, axes = _figure()
    axes.scatter(random, np.zeros(len(random)), color=PALE, s=18)
    axes.plot(interval, (1, 1), color=ACCENT)
    axes.scatter([circuit], [1], color=ACCENT, zorder=3)
    axes.set_yticks([0, 1], [f"{len(random)} random circuits", "circuit, 95 % interval"])
    axes.set(ylim=(-0.6, 1.6), xlabel=f"faithfulness in {metric}")
    for place in (0, 1):
        axes.axvline(place, color=PALE, linewidth=0.6)
    return figure


def _figure() -> tuple[Figure, Any]:
    """A figure that no window shows by itself, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
