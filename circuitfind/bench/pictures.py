"""The benchmark's pictures: faithfulness against edges, quality against cost, and ROC curves.

Each of the best entrants has its own colour, dash pattern and marker, the same in all pictures. The random control is grey and
dotted. All others are thin and grey, because nobody can tell twenty lines apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.bench.leaderboard import Board, boards, main_board
from circuitfind.bench.recorded import SETTING, Recorded

if TYPE_CHECKING:
    import pandas

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""
Place = tuple[str, float, float, bool]
"""A name's alignment, its offset in points, and whether a line joins it to its point."""
INK = "#1b1b1b"
"""Colour of axes and text; a page replaces it with its own text colour."""
GREY = "#8a8a8a"
LOOKS = (
    ("#0072b2", "-", "o"),
    ("#d55e00", (0, (6, 2)), "s"),
    ("#009e73", (0, (4, 1.5, 1, 1.5)), "^"),
    ("#cc79a7", (0, (2, 1.5)), "D"),
    ("#e69f00", (0, (8, 2, 2, 2)), "v"),
    ("#56b4e9", (0, (1, 1)), "P"),
)
CONTROL = "random-edges"
GRID = np.linspace(0, 1, 61) ** 2
"""False positive rates at which curves are averaged; dense near 0, the range that matters for small circuits."""
MOST_PANELS = 12
PLACES = (
    *(("left", 6, -3), ("right", -6, -3), ("left", 4, 6), ("right", -4, 6)),
    *(("left", 4, -12), ("right", -4, -12)),
)
"""Possible places for a point's name: its alignment, and its offset in points."""
FAR = tuple(
    ("left" if right >= 0 else "right", round(reach * right, 1), round(reach * up - 4, 1), True)
    for reach in (18, 26, 36, 48, 62, 80, 100)
    for right, up in ((math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False))
)
"""Further places, the nearest first, joined to the point by a line."""
MARK = 5
"""Pixels from the middle of a point to the edge of its mark."""
LEAST_COST = 0.5
"""Forward passes at which an entrant that runs no model is drawn, because a logarithmic axis has no 0."""


@dataclass(frozen=True)
class Drawn:
    """A picture: its file's stem, a caption that also serves people who cannot see it, and how to draw it."""

    name: str
    caption: str
    draw: Callable[[], Any]


def pictures(found: Recorded) -> list[Drawn]:
    """The pictures that have something to show."""
    made = boards(found)
    known, behaviour = main_board(made, "known"), main_board(made, "behaviour")
    looks = _looks([board for board in (known, behaviour) if board is not None])
    curves = _curves(found.table)
    forwards = next((board for board in made if board.name == "cost" and board.quantity.name == "forwards"), None)
    drawn = []
    if len(curves):
        caption = (
            "Faithfulness against the share of edges kept, the mean over settings whose circuit is not known; 1 is the whole "
            "model. The broad line is the entrant nearest to 1 at each size."
        )
        drawn.append(Drawn("faithfulness", caption, lambda: _draw_faithfulness(curves, looks)))
    if known is not None and forwards is not None:
        caption = (
            f"Mean {known.quantity.label} where the circuit is known, against cost in plain forward passes (median over "
            "settings). The line joins the entrants that no other beats at a lower cost; one that runs no model is drawn at "
            f"{LEAST_COST}."
        )
        drawn.append(Drawn("cost", caption, lambda: _draw_cost(known, forwards, looks)))
    rocs = _rocs(found)
    if rocs:
        caption = (
            "ROC curves by model, means over its cells. The x axis is a square root: its left is about small circuits."
        )
        drawn.append(Drawn("roc", caption, lambda: _draw_rocs(rocs, looks)))
    return drawn


def to_svg(figure: Any) -> str:
    """A figure as SVG, with its text kept as text; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "circuitfind", "font.family": "sans-serif"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return text.getvalue()


def write_pictures(found: Recorded, folder: Path) -> dict[str, tuple[str, str]]:
    """Write every picture as ``NAME.svg`` and ``NAME.png``, and return SVG text and caption by name."""
    folder.mkdir(parents=True, exist_ok=True)
    out = {}
    for picture in pictures(found):
        figure = picture.draw()
        svg = to_svg(figure)
        (folder / f"{picture.name}.svg").write_text(svg, encoding="utf-8")
        figure.savefig(folder / f"{picture.name}.png", dpi=150, facecolor="white", metadata={"Software": None})
        out[picture.name] = (svg, picture.caption)
    return out


# ---------------------------------------------------------------- looks


def _looks(made: Sequence[Board]) -> Callable[[str], dict[str, Any]]:
    """A function from an entrant to its look; the best entrants, taken from each board in turn, get their own look."""
    rankings = [[name for name in board.ranks() if name != CONTROL] for board in made]
    turns = [
        name
        for place in range(max(map(len, rankings), default=0))
        for names in rankings
        for name in names[place : place + 1]
    ]
    best = list(dict.fromkeys(turns))[: len(LOOKS)]

    def look(name: str) -> dict[str, Any]:
        if name in best:
            color, dashes, marker = LOOKS[best.index(name)]
            return {"color": color, "linestyle": dashes, "marker": marker, "linewidth": 1.7, "label": name, "zorder": 3}
        dashes = (0, (1, 2)) if name == CONTROL else "-"
        width = 1.6 if name == CONTROL else 0.7
        label = name if name == CONTROL else "_other"
        return {"color": GREY, "linestyle": dashes, "marker": "", "linewidth": width, "label": label, "zorder": 2}

    return look


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of matplotlib, in inches, and its panels, (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color=GREY, alpha=0.25, linewidth=0.6)
        one.tick_params(colors=INK, labelsize=8)
        for spine in one.spines.values():
            spine.set_color(INK)
    return figure, axes


def label_axes(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Write a panel's title and what its axes show."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def legend_below(figure: Any, axes: Any) -> None:
    """The legend of a panel, below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=INK)


# ---------------------------------------------------------------- faithfulness against edges


def _curves(table: pandas.DataFrame) -> pandas.DataFrame:
    """Mean faithfulness by entrant (rows) and share of edges (columns), over settings whose circuit is not known."""
    known = table.groupby(list(SETTING)).quantity.transform(lambda names: names.str.endswith("auc").any()).astype(bool)
    rows = table[(table.quantity == "faithfulness") & ~known & table.value.notna()]
    settings = rows.groupby([*SETTING, "entrant", "at"]).value.mean()
    return settings.groupby(["entrant", "at"]).mean().unstack()


def _draw_faithfulness(curves: pandas.DataFrame, looks: Callable[[str], dict[str, Any]]) -> Any:
    figure, ((axes,),) = new_figure(7.2, 4.6)
    shares = curves.columns.to_numpy(dtype=float)
    nearest = (1 - curves).abs()
    best = [curves[share].to_numpy()[nearest[share].argmin()] for share in curves]
    axes.plot(shares, best, color=INK, linewidth=5, alpha=0.15, solid_capstyle="round", zorder=1)
    axes.axhline(1, color=INK, linewidth=0.6)
    for name, row in curves.iterrows():
        axes.plot(shares, row.to_numpy(), markersize=4, **looks(str(name)))
    axes.set_xscale("log")
    label_axes(axes, x="share of edges kept", y="faithfulness, held out")
    legend_below(figure, axes)
    return figure


# ---------------------------------------------------------------- quality against cost


def front(costs: Mapping[str, float], qualities: Mapping[str, float]) -> list[str]:
    """The entrants that no other beats at the same or a lower cost, cheapest first."""
    order = sorted(costs, key=lambda name: (costs[name], -qualities[name], name))
    kept: list[str] = []
    for name in order:
        if not kept or qualities[name] > qualities[kept[-1]]:
            kept.append(name)
    return kept


def _draw_cost(known: Board, forwards: Board, looks: Callable[[str], dict[str, Any]]) -> Any:
    figure, ((axes,),) = new_figure(7.2, 4.8)
    medians, means = forwards.values.median(), known.values.mean()
    names = [str(name) for name in means.index if name in medians.index]
    costs = {name: max(float(medians[name]), LEAST_COST) for name in names}
    qualities = {name: float(means[name]) for name in names}
    best = front(costs, qualities)
    axes.plot(
        [costs[name] for name in best],
        [qualities[name] for name in best],
        color=INK,
        linewidth=0.9,
        alpha=0.6,
        zorder=1,
    )
    for name in names:
        look = looks(name)
        axes.plot(costs[name], qualities[name], look["marker"] or ".", color=look["color"], markersize=7, zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.24, y=0.12)
    label_axes(axes, x="plain forward passes (median over settings)", y=f"mean {known.quantity.label}")
    name_points(
        figure,
        axes,
        {name: (costs[name], qualities[name]) for name in [*best, *(n for n in names if n not in best)]},
        best,
    )
    return figure


def name_points(
    figure: Any, axes: Any, points: Mapping[str, tuple[float, float]], bold: Sequence[str]
) -> dict[str, Box]:
    """Write every name next to its point, or where there is room with a thin line to it; the names' boxes in pixels."""
    figure.canvas.draw()
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    here = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [_around(point, MARK) for point in here.values()] + _along([here[name] for name in bold])
    boxes: dict[str, Box] = {}
    for name, point in here.items():
        look = {"fontsize": 7.5, "color": INK, "va": "bottom", "fontweight": "bold" if name in bold else "normal"}
        measured = axes.text(0, 0, name, transform=None, **look)
        extent = measured.get_window_extent(renderer)
        measured.remove()
        others = [other for key, other in here.items() if key != name]
        # The front runs from the lower left to the upper right, so its names go above it.
        near = [(*place, False) for place in ((PLACES[3], *PLACES) if name in bold else PLACES)]
        places = [(*place, _at(point, place, extent, scale)) for place in (*near, *FAR)]
        free = [place for place in places if _free(place[-1], figure.bbox.bounds, taken)]
        clear = (place for place in free if _belongs(place[-1], point, others, taken, line=place[3]))
        side, dx, dy, far, box = next(clear, (free or places)[0])
        boxes[name] = box
        taken += [box, *(_leader(box, point) if far else ())]
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3} if far else None
        put = {"textcoords": "offset points", "ha": side, "arrowprops": line}
        axes.annotate(name, points[name], (dx, dy), **put, **look).set_in_layout(False)
    return boxes


def _around(point: Any, reach: float) -> Box:
    return float(point[0] - reach), float(point[1] - reach), float(point[0] + reach), float(point[1] + reach)


def _free(box: Box, bounds: Box, taken: Sequence[Box]) -> bool:
    """Whether a box is inside the figure (left, bottom, width, height) and meets no other."""
    inside = box[0] >= 0 and box[1] >= 0 and box[2] <= bounds[2] and box[3] <= bounds[3]
    return inside and not any(_meet(box, other) for other in taken)


def _belongs(box: Box, point: Any, others: Sequence[Any], taken: Sequence[Box], *, line: bool) -> bool:
    """Whether a reader sees which point a name is of: its line meets nothing else, or no other point is about as near."""
    if line:
        own = _around(point, MARK)
        return not any(_meet(piece, other) for piece in _leader(box, point) for other in taken if other != own)
    return all(_distance(box, other) > 2 * _distance(box, point) + 2 for other in others)


def _distance(box: Box, point: Any) -> float:
    """Pixels between a point and a box; 0 inside it."""
    away = [max(box[axis] - point[axis], point[axis] - box[axis + 2], 0.0) for axis in (0, 1)]
    return math.hypot(*away)


def _leader(box: Box, point: Any) -> list[Box]:
    """Small boxes along the line from a point to its name, without the point's mark."""
    end = [min(max(point[axis], box[axis]), box[axis + 2]) for axis in (0, 1)]
    return [piece for piece in _along([point, end]) if not _meet(piece, _around(point, MARK))][:-1]


def _at(point: Any, place: Place, extent: Any, scale: float) -> Box:
    """The box of a name of this extent at a place beside a point."""
    side, dx, dy, _ = place
    left, below = point[0] + dx * scale - (extent.width if side == "right" else 0), point[1] + dy * scale
    return float(left), float(below), float(left + extent.width), float(below + extent.height)


def _along(corners: Sequence[Any]) -> list[Box]:
    """Small boxes along a line with these corners, in pixels."""
    found = []
    for start, stop in pairwise(np.asarray(corners, dtype=float)):
        for share in np.linspace(0, 1, 2 + int(np.hypot(*(stop - start)) / 4)):
            x, y = start + share * (stop - start)
            found.append((x - 1.5, y - 1.5, x + 1.5, y + 1.5))
    return found


def _meet(one: Box, other: Box) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# ---------------------------------------------------------------- ROC curves


def _rocs(found: Recorded) -> dict[str, dict[str, Any]]:
    """For each model and entrant, the mean true positive rate at :data:`GRID` over its cells."""
    curves: dict[str, dict[str, list[Any]]] = {}
    cells = found.table.drop_duplicates("cell")
    for cell, model, entrant in zip(cells.cell, cells.model, cells.entrant, strict=True):
        if (roc := found.roc(cell)) is not None:
            curves.setdefault(model, {}).setdefault(entrant, []).append(on_grid(*roc))
    return {
        model: {name: np.mean(rows, axis=0) for name, rows in sorted(of.items())}
        for model, of in sorted(curves.items())
    }


def on_grid(fpr: Sequence[float], tpr: Sequence[float]) -> Any:
    """The true positive rate at :data:`GRID`; of several at the same false positive rate, the largest."""
    x, first = np.unique(np.asarray(fpr, dtype=float), return_index=True)
    y = np.maximum.reduceat(np.asarray(tpr, dtype=float), first)
    return np.interp(GRID, x, y)


def _draw_rocs(rocs: Mapping[str, Mapping[str, Any]], looks: Callable[[str], dict[str, Any]]) -> Any:
    models = list(rocs)[:MOST_PANELS]
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure, panels = new_figure(2.9 * columns + 0.6, 2.7 * rows + 0.8, rows, columns)
    for axes, model in zip(panels.flat, models, strict=False):
        axes.plot(np.sqrt(GRID), GRID, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)))
        for name, curve in rocs[model].items():
            axes.plot(np.sqrt(GRID), curve, **{**looks(name), "marker": ""})
        axes.set_xticks(np.sqrt([0, 0.01, 0.1, 0.5, 1]), ["0", "0.01", "0.1", "0.5", "1"])
        axes.set_ylim(-0.02, 1.03)
        label_axes(axes, model, "false positive rate", "true positive rate")
    for axes in list(panels.flat)[len(models) :]:
        axes.set_visible(False)
    shown = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=INK
    )
    return figure
