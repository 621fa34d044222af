"""A long column of scores is a sorted bar chart, and thin rows of a table are seen."""

import re

import numpy as np
import pytest

from circuitfind.rendering import heat_map
from circuitfind.rendering.bar_chart import SHOWN
from circuitfind.rendering.style import HELPS, HURTS


def test_the_largest_of_512_rows_are_bars_in_order(tmp_path):
    values = np.random.default_rng(0).standard_normal(512)
    values[7] = np.nan
    names = [f"n{row}" for row in range(512)]
    heat_map(values[:, None], names, ["all"], tmp_path / "bars.svg", title="Neurons", unit="nats")
    text = (tmp_path / "bars.svg").read_text()
    written = re.findall(r">(n\d+)</text>", text)
    known = np.flatnonzero(~np.isnan(values))
    largest = known[np.argsort(-np.abs(values[known]))][:SHOWN]
    expected = [f"n{row}" for row in largest[np.argsort(-values[largest])]]
    assert written == expected
    assert f"The {SHOWN} largest effects by size, of 511." in text
    for color, n in ((HELPS, (values[largest] > 0).sum()), (HURTS, (values[largest] < 0).sum())):
        assert text.lower().count(f"fill: {color.lower()}") == n


def test_a_column_of_sixty_is_a_heat_map(tmp_path):
    heat_map(np.ones((SHOWN, 1)), range(SHOWN), ["all"], tmp_path / "map.svg")
    assert "largest effects" not in (tmp_path / "map.svg").read_text()


@pytest.mark.parametrize("n", [100, 300, 512])
def test_every_row_of_a_table_is_seen_in_a_png(tmp_path, n):
    """Rows alternate between the two colours; no third colour, such as a line's white, may cover them."""
    from matplotlib.image import imread

    table = np.tile(np.where(np.arange(n) % 2, 1.0, -1.0)[:, None], (1, 3))
    heat_map(table, range(n), range(3), tmp_path / "map.png")
    picture = imread(tmp_path / "map.png")[:, :, :3]
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (HURTS, HELPS)]) / 255
    near = (np.abs(picture[:, :, None] - colours).max(-1) < 0.05).argmax(-1) - 2 * (
        np.abs(picture[:, :, None] - colours).max(-1) >= 0.05
    ).all(-1)
    column = near[:, np.flatnonzero((near >= 0).sum(0) > n)[0]]
    seen = column[column >= 0]
    assert np.count_nonzero(np.diff(seen)) == n - 1
