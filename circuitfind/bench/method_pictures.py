"""The picture of a comparison of algorithms: faithfulness and KL against the size of the circuit, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuitfind.bench.pictures import CONTROL, GREY, INK, LOOKS, label_axes, legend_below, new_figure

if TYPE_CHECKING:
    from circuitfind.bench.method_values import Method, MethodComparison, SizePoint

CAPTION = (
    "Circuits of equal sizes on held-out prompts: faithfulness (left; 1 is the whole model) and KL(full || circuit) (right; 0 "
    "is the whole model). Upright lines are 95 % bootstrap intervals over prompts; algorithms stand side by side at each "
    "size."
)
APART = 0.012
"""How far algorithms are set apart at one size, as a share of the axis."""
DEEPEST = 10
"""A logarithmic axis of KL ends at the least KL divided by this, whatever the intervals do."""
OWN = " A star is an algorithm's own circuit."


def caption(found: MethodComparison) -> str:
    """What the picture shows."""
    own = any(point.asked is None for method in found.methods for point in method.points)
    return CAPTION + OWN * own


def draw_methods(found: MethodComparison) -> Any:
    """A figure of matplotlib with two panels."""
    figure, ((left, right),) = new_figure(9.0, 4.4, 1, 2)
    left.axhline(1, color=INK, linewidth=0.6)
    for number, method in enumerate(found.methods):
        look = _look(number, method.name)
        beside = (number - (len(found.methods) - 1) / 2) * APART
        for axes, quantity in ((left, "faithfulness"), (right, "kl")):
            _draw(axes, method, look, quantity, (max(found.sizes) / min(found.sizes)) ** beside)
    for axes in (left, right):
        axes.set_xscale("log")
        _mark_sizes(axes, found.sizes)
    if all(point.kl_95[0] > 0 for method in found.methods for point in method.points):
        right.set_yscale("log")
        least = min(point.kl for method in found.methods for point in method.points)
        right.set_ylim(bottom=max(right.get_ylim()[0], least / DEEPEST))
    else:
        right.set_ylim(bottom=0)
    unit = f"faithfulness ({found.about['metric']})"
    label_axes(left, "Faithfulness, held out", "edges in the circuit", unit)
    label_axes(right, "KL, held out", "edges in the circuit", "KL(full || circuit), nats")
    legend_below(figure, left)
    return figure


def _look(number: int, name: str) -> dict[str, Any]:
    """A colour, a dash pattern and a marker; beyond six algorithms, colours come again, dashed otherwise and hollow."""
    if name == CONTROL:
        return {"color": GREY, "linestyle": (0, (1, 2)), "marker": ".", "label": name}
    turn = number // len(LOOKS)
    color, _, marker = LOOKS[number % len(LOOKS)]
    hollow = {"markerfacecolor": "white"} if turn % 2 else {}
    return {
        "color": color,
        "linestyle": LOOKS[(number + turn) % len(LOOKS)][1],
        "marker": marker,
        "label": name,
        **hollow,
    }


def _draw(axes: Any, method: Method, look: dict[str, Any], quantity: str, beside: float) -> None:
    """One algorithm's curve with its intervals, and its own circuit; ``beside`` is a factor of all sizes."""
    points = [point for point in method.points if point.asked is not None and point.edges]
    x = [point.edges * beside for point in points]
    axes.plot(x, [getattr(point, quantity) for point in points], linewidth=1.6, markersize=4.5, zorder=3, **look)
    axes.vlines(x, *_ends(points, quantity), color=look["color"], linewidth=1.2, alpha=0.75, zorder=2)
    for point in method.points:
        if point.asked is None and point.edges:
            color = look["color"]
            axes.plot(
                point.edges, getattr(point, quantity), "*", color=color, markersize=12, mec=INK, mew=0.5, zorder=4
            )


def _ends(points: Sequence[SizePoint], quantity: str) -> tuple[list[float], list[float]]:
    ends = [getattr(point, f"{quantity}_95") for point in points]
    return [end[0] for end in ends], [end[1] for end in ends]


def _mark_sizes(axes: Any, sizes: Sequence[int]) -> None:
    """Ticks at the sizes asked for; on a logarithmic axis, one that is too near to the last is not named."""
    named, last = [], 0.0
    for size in sizes:
        if size >= 1.35 * last:
            named.append(size)
            last = size
    axes.set_xticks(named, [f"{size:,}" for size in named])
    axes.minorticks_off()
