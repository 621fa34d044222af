"""A picture's title and caption may be left out or be one's own."""

import re

import pytest
from picture_text import picture_text

import circuitfind as cf
from circuitfind.rendering import circuit_dot


@pytest.fixture(scope="module")
def circuit():
    return cf.select(cf.discover("tasks-4l", "ioi", algorithm="random-edges", n=2), top=9)


@pytest.fixture(scope="module")
def by_part():
    setting = cf.Setting("ioi", "tasks-4l", n=4)
    return cf.select(cf.discover(setting, algorithm="eap", parts="span"), setting, top=12, parts=True)


@pytest.mark.parametrize("which", ["circuit", "by_part"])
def test_words_are_as_asked_for(request, which):
    chosen = request.getfixturevalue(which)
    usual = circuit_dot(chosen)
    assert "Circuit of tasks-4l for ioi" in usual
    assert "Model tasks-4l" in usual
    bare = circuit_dot(chosen, title="", caption=False)
    assert "Circuit of tasks-4l for ioi" not in bare
    assert "Model tasks-4l" not in bare
    own = circuit_dot(chosen, title="Name movers")
    assert "Name movers" in own
    assert "Circuit of tasks-4l for ioi" not in own
    assert "Model tasks-4l" in own
    edges = [re.findall(r"\n\t.*->.* id=.*", text) for text in (usual, bare, own)]
    assert len(edges[0]) >= chosen.n_edges
    assert edges[0] == edges[1] == edges[2]


@pytest.mark.parametrize("which", ["circuit", "by_part"])
def test_a_legend_may_be_left_out_but_not_what_is_missing(request, which):
    chosen = request.getfixturevalue(which)
    words = picture_text(circuit_dot(chosen, legend=False, strongest=4))
    assert not re.search("helps|hurts|width:|query|attention: from", words)
    assert f"{chosen.n_edges - 4} weaker edges of {chosen.n_edges} are not drawn" in words
    assert "Model tasks-4l" in words
    assert "width: |score|" in picture_text(circuit_dot(chosen, strongest=4))


def test_a_picture_without_any_words_is_drawn(circuit, tmp_path):
    cf.render(circuit, tmp_path / "bare.svg", legend=False, caption=False, title="")
    assert set(re.findall(r">([^<>]*score[^<>]*)</text>", (tmp_path / "bare.svg").read_text())) == set()


def test_the_command_line_takes_them(command_line, tmp_path, circuit):
    circuit.save(tmp_path / "circuit.json")
    code, _, err = command_line(
        "render", tmp_path / "circuit.json", tmp_path / "a.dot", "--no-caption", "--no-legend", "--title", "Mine"
    )
    assert (code, err) == (0, "")
    text = (tmp_path / "a.dot").read_text()
    assert "Mine" in text
    assert "Model tasks-4l" not in text
    assert "width:" not in text
