"""What the picture of a table must be: true to the numbers, legible, safe, the same every time."""

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from circuitfind.errors import RenderError
from circuitfind.rendering import heat_map
from circuitfind.rendering.heat_map import MOST_NUMBERS, MOST_VECTORS
from circuitfind.rendering.style import HELPS, HURTS

SVG = "{http://www.w3.org/2000/svg}"
TABLE = np.array([[2.0, -1.0, 0.0], [-2.0, 1.0, 0.5]])


def drawn(tmp_path, values, rows=None, columns=None, **words) -> str:
    values = np.asarray(values)
    rows = range(values.shape[0]) if rows is None else rows
    columns = range(values.shape[1]) if columns is None else columns
    return heat_map(values, rows, columns, tmp_path / "map.svg", **words).read_text(encoding="utf-8")


def texts(svg: str) -> list[tuple[float, float, str]]:
    """Where every piece of text stands (x, y in points), and what it says."""
    found = []
    for element in ET.fromstring(svg).iter(f"{SVG}text"):
        place = element.get("x"), element.get("y")
        if None in place:
            place = element.get("transform").partition("(")[2].partition(")")[0].replace(",", " ").split()[:2]
        found.append((float(place[0]), float(place[1]), "".join(element.itertext())))
    return found


def words(svg: str) -> list[str]:
    return [text for _, _, text in texts(svg)]


def cells(svg: str) -> list[str]:
    """Fill of every cell, row by row."""
    group = next(part for part in ET.fromstring(svg).iter(f"{SVG}g") if part.get("id", "").startswith("QuadMesh"))
    styles = [path.get("style") for path in group.iter(f"{SVG}path")]
    return [style.partition("fill: ")[2].partition(";")[0] for style in styles if "fill: #" in style]


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])


def test_blue_helps_and_vermilion_hurts_on_a_scale_that_is_symmetric_around_white(tmp_path):
    fills = cells(drawn(tmp_path, TABLE))
    assert fills[0].upper() == HELPS
    assert fills[3].upper() == HURTS
    for fill, end, share in ((fills[1], HURTS, 0.5), (fills[4], HELPS, 0.5), (fills[5], HELPS, 0.25)):
        np.testing.assert_allclose(rgb(fill), 255 + share * (rgb(end) - 255), atol=2)
    assert (rgb(fills[2]) >= 253).all()


def test_only_what_does_not_exist_is_hatched(tmp_path):
    holes = np.where(TABLE == 1.0, np.nan, TABLE)
    assert "<pattern" not in drawn(tmp_path, TABLE)
    svg = drawn(tmp_path, holes)
    assert "<pattern" in svg
    assert len(cells(svg)) == TABLE.size - 1
    assert "Hatched: no value." in words(svg)


def test_a_small_table_says_its_numbers_each_in_its_cell(tmp_path):
    svg = drawn(tmp_path, TABLE, ["top", "bottom"], ["one", "two", "three"])
    placed = {text: (x, y) for x, y, text in texts(svg)}
    assert placed["2.00"][1] == placed["-1.00"][1] < placed["-2.00"][1] == placed["1.00"][1]
    assert placed["2.00"][0] == placed["-2.00"][0] < placed["-1.00"][0] == placed["1.00"][0] < placed["0.50"][0]
    assert abs(placed["top"][1] - placed["2.00"][1]) < 5  # points; a cell is 33 x 19
    assert abs(placed["three"][0] - placed["0.50"][0]) < 8


def test_a_large_table_says_none(tmp_path):
    table = np.full((13, 12), 0.25)
    table[0, 0] = 1.0
    assert table.size > MOST_NUMBERS
    assert words(drawn(tmp_path, table)).count("0.25") == 0
    assert words(drawn(tmp_path, table[:12])).count("0.25") == 143


@pytest.mark.parametrize("n", [12, 64, 500])
def test_names_of_rows_and_columns_never_run_into_each_other(tmp_path, n):
    table = np.zeros((n, n))
    found = texts(drawn(tmp_path, table, [f"r{row}" for row in range(n)], range(1000, 1000 + n), unit="nats"))
    rows = sorted(y for _, y, text in found if text.startswith("r"))
    columns = sorted(x for x, _, text in found if text.isdecimal() and int(text) >= 1000)
    assert min(np.diff(rows)) >= 8.0  # points: the height of the letters
    assert min(np.diff(columns)) >= 20.0  # four digits
    assert len(rows) >= min(n, 20)
    assert len(columns) >= min(n, 15)


def test_many_cells_become_one_bitmap(tmp_path):
    side = int(MOST_VECTORS**0.5)
    of_the_scale = drawn(tmp_path, np.zeros((side, side))).count("<image")
    assert drawn(tmp_path, np.zeros((side + 1, side))).count("<image") == of_the_scale + 1


def test_the_users_words_are_escaped_and_never_read_as_mathematics(tmp_path):
    title = '<script>alert("x")</script> & $x^2$ \x00\ud800 ü'
    svg = drawn(tmp_path, TABLE, ["<b>", "$a$"], ["&amp;", "c", "d"], title=title, unit="$", caption="]]> -->")
    said = words(svg)
    assert "<script" not in svg
    assert {"<b>", "$a$", "&amp;", "$", "]]> -->"} <= set(said)
    assert '<script>alert("x")</script> & $x^2$' in " ".join(said)


def test_words_without_a_glyph_are_no_trouble(tmp_path):
    assert "日本" in words(drawn(tmp_path, TABLE, ["日本", "b"]))


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.full((2, 2), np.nan), [[1e-9, -3e-9]], [[4e7]]])
def test_any_scale_can_be_drawn(tmp_path, values):
    assert cells(drawn(tmp_path, values)) or np.isnan(values).all()


@pytest.mark.parametrize(("suffix", "begin"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_format(tmp_path, suffix, begin):
    path = heat_map(TABLE, "ab", "xyz", tmp_path / f"map{suffix}")
    assert path.read_bytes().startswith(begin)
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_table_gives_the_same_bytes_in_another_process_without_pyplot(tmp_path):
    svg = drawn(tmp_path, TABLE, title="one", unit="nats")
    code = (
        "import sys, hashlib, numpy as np; from circuitfind.rendering import heat_map\n"
        f"table, path = np.array({TABLE.tolist()}), {str(tmp_path / 'b.svg')!r}\n"
        "path = heat_map(table, range(2), range(3), path, title='one', unit='nats')\n"
        "print(hashlib.sha256(path.read_bytes()).hexdigest(), 'matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [hashlib.sha256(svg.encode()).hexdigest(), "False"]


def test_the_users_own_settings_change_nothing_and_stay(tmp_path):
    plain = drawn(tmp_path, TABLE)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert drawn(tmp_path, TABLE) == plain
        assert matplotlib.rcParams["font.size"] == 30
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_without_matplotlib_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RenderError, match="pip install matplotlib"):
        heat_map(TABLE, "ab", "xyz", tmp_path / "map.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "rows", "columns", "name", "words"),
    [
        (TABLE, "ab", "xyz", "map.gif", "must be one of .svg, .png, .pdf"),
        (TABLE, "a", "xyz", "map.svg", r"got values \(2, 3\), 1 names of rows and 3 of columns"),
        (TABLE[0], "ab", "xyz", "map.svg", "needs a table"),
        (np.zeros((0, 3)), "", "xyz", "map.svg", "needs a table"),
        (np.full((2, 3), np.inf), "ab", "xyz", "map.svg", "infinite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, values, rows, columns, name, words):
    with pytest.raises(RenderError, match=words):
        heat_map(values, rows, columns, tmp_path / name)
    assert not list(tmp_path.iterdir())
