"""What a benchmark draws: fronts of cost and quality, curves, pictures that are the same bytes again."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from circuitfind.bench.leaderboard import Quantity
from circuitfind.bench.page import inline, write_leaderboard
from circuitfind.bench.pictures import GRID, front, name_points, new_figure, on_grid


def test_what_is_better_depends_on_the_quantity():
    values = pd.Series([0.5, 1.4, 0.9])
    assert Quantity("faithfulness", 0.1).badness(values).tolist() == pytest.approx([0.5, 0.4, 0.1])
    assert Quantity("cmd").badness(values).tolist() == [0.5, 1.4, 0.9]
    assert Quantity("edge-auc").badness(values).tolist() == [-0.5, -1.4, -0.9]
    assert Quantity("faithfulness", 0.02).label == "faithfulness at 2 %"


def test_the_front_is_what_no_other_beats_at_the_same_or_a_lower_cost():
    rng = np.random.default_rng(1)
    for _ in range(50):
        names = [f"e{n}" for n in range(8)]
        costs = {name: float(rng.integers(1, 6)) for name in names}
        quality = {name: float(rng.integers(1, 6)) for name in names}
        kept = front(costs, quality)
        for name in names:
            beaten = any(
                costs[other] <= costs[name]
                and quality[other] >= quality[name]
                and (costs[other], quality[other]) != (costs[name], quality[name])
                for other in names
            )
            alike = [other for other in names if (costs[other], quality[other]) == (costs[name], quality[name])]
            assert (name in kept) == (not beaten and name == min(alike))
        assert [costs[name] for name in kept] == sorted(costs[name] for name in kept)


def test_a_roc_curve_on_the_grid_passes_through_its_steps():
    fpr, tpr = [0.0, 0.0, 0.04, 0.04, 1.0], [0.0, 0.5, 0.5, 0.8, 1.0]
    curve = on_grid(fpr, tpr)
    assert curve[0] == 0.5
    assert curve[-1] == 1
    assert (np.diff(curve) >= 0).all()
    right = GRID > 0.04
    assert curve[right] == pytest.approx(0.8 + 0.2 * (GRID[right] - 0.04) / 0.96)


def test_pictures_are_the_same_bytes_again(benchmark, tmp_path):
    for name in ("table.parquet", "costs.csv", "failures.csv", "skipped.csv", "grid.json"):
        (tmp_path / name).write_bytes((benchmark / name).read_bytes())
    shutil.copytree(benchmark / "cells", tmp_path / "cells")
    write_leaderboard(tmp_path)
    for path in (benchmark / "pictures").iterdir():
        assert path.read_bytes() == (tmp_path / "pictures" / path.name).read_bytes(), path.name
    names = {path.name for path in (benchmark / "pictures").iterdir()}
    assert names == {f"{name}.{suffix}" for name in ("faithfulness", "cost", "roc") for suffix in ("svg", "png")}
    pages = [(place / "index.html").read_text(encoding="utf-8") for place in (benchmark, tmp_path)]
    rebuild = re.compile("circuitfind leaderboard [^<]*")
    assert rebuild.sub("", pages[0]) == rebuild.sub("", pages[1])


def test_a_picture_in_the_page_has_ids_of_its_own_and_the_pages_ink():
    svg = '<?xml version="1.0"?><svg a="1"><metadata>x</metadata><g id="p1" clip-path="url(#c)" fill="#1b1b1b"/>'
    svg += '<use href="#p1"/></svg>'
    assert inline(svg, "roc", 'a "b"') == (
        '<svg role="img" aria-label="a &quot;b&quot;" a="1"><g id="roc-p1" clip-path="url(#roc-c)" fill="currentColor"/>'
        '<use href="#roc-p1"/></svg>'
    )


@pytest.mark.parametrize("n", [3, 12, 25])
def test_every_point_has_a_name_and_no_name_covers_another_or_a_point(n):
    rng = np.random.default_rng(n)
    points = {f"method-{'x' * (k % 9)}{k}": tuple(rng.random(2) ** 2) for k in range(n)}
    figure, ((axes,),) = new_figure(7.2, 4.8)
    for point in points.values():
        axes.plot(*point, "o")
    axes.margins(x=0.24, y=0.12)
    boxes = name_points(figure, axes, points, list(points)[:1])
    figure.canvas.draw()
    drawn = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}  # without its line
    assert drawn.keys() == boxes.keys() == points.keys()
    for name, box in drawn.items():
        assert boxes[name] == pytest.approx(box.extents, abs=2)  # measured before it was drawn
        apart = [other for other in drawn if other != name and box.overlaps(drawn[other])]
        assert apart == []
        covered = [other for other, at in points.items() if box.contains(*axes.transData.transform(at))]
        assert covered == []
