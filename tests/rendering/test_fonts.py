"""The same circuit is the same picture whatever fonts a machine has, and an SVG brings its letters along."""

import base64
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

import circuitfind as cf
from circuitfind.rendering.fonts import own_fonts, with_font

DRAW = """
import sys
from circuitfind.rendering import image
if sys.argv[1] == "without":
    from contextlib import nullcontext
    image.own_fonts = nullcontext
dot = 'digraph {a [label="Wide words WWW" fontname="DejaVu Sans"]; b [label="iiii"]; a -> b}'
sys.stdout.buffer.write(image.draw(dot, "svg"))
"""


def drawn(tmp_path, fonts, how):
    """A picture drawn in a process whose fontconfig knows one folder of fonts."""
    (tmp_path / fonts).mkdir(exist_ok=True)
    conf = tmp_path / f"{fonts}.conf"
    conf.write_text(f'<?xml version="1.0"?><fontconfig><dir>{tmp_path / fonts}</dir></fontconfig>')
    env = {**os.environ, "FONTCONFIG_FILE": str(conf), "HOME": str(tmp_path)}
    return subprocess.run([sys.executable, "-c", DRAW, how], env=env, capture_output=True, check=True).stdout


def test_a_picture_is_the_same_bytes_whatever_fonts_there_are(tmp_path):
    import matplotlib

    (tmp_path / "mono").mkdir()
    mono = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    (tmp_path / "mono" / "mono.ttf").write_bytes(mono.read_bytes())
    assert drawn(tmp_path, "none", "with") == drawn(tmp_path, "mono", "with")
    sizes = [re.search(rb'<svg width="\d+pt"', drawn(tmp_path, "mono", how))[0] for how in ("with", "without")]
    assert sizes[0] != sizes[1]  # without our fonts the machine's decide


def test_the_users_own_configuration_comes_back(monkeypatch):
    monkeypatch.setenv("FONTCONFIG_FILE", "mine")
    with own_fonts():
        assert os.environ["FONTCONFIG_FILE"] != "mine"
    assert os.environ["FONTCONFIG_FILE"] == "mine"
    monkeypatch.delenv("FONTCONFIG_FILE")
    with own_fonts():
        pass
    assert "FONTCONFIG_FILE" not in os.environ


@pytest.fixture(scope="module")
def svg(tmp_path_factory):
    circuit = cf.select(cf.discover("induction-2l", "induction", algorithm="random-edges", n=2), top=9)
    path = tmp_path_factory.mktemp("fonts") / "circuit.svg"
    cf.render(circuit, path)
    return path.read_text()


def test_an_svg_has_every_letter_that_it_shows(svg):
    from fontTools.ttLib import TTFont

    faces = re.findall(r"font-weight:(\w+);src:url\(data:font/ttf;base64,([^)]*)\)", svg)
    assert [weight for weight, _ in faces] == ["normal", "bold"]
    letters = set("".join(re.findall(r"<text[^>]*>([^<]*)", svg)).replace("&gt;", ">").replace("&lt;", "<")) - {"\xa0"}
    for _, data in faces:
        known = set(map(chr, TTFont(BytesIO(base64.b64decode(data))).getBestCmap()))
        assert letters <= known
    assert len(svg) < 120_000


def test_letters_that_the_font_lacks_do_no_harm():
    made = with_font('<svg xmlns="x"><text font-weight="bold">a\U00010ffc</text></svg>'.encode())
    assert b"@font-face" in made
