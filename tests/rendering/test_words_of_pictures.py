"""A picture's title and caption may be left out or be one's own."""

import re

import pytest

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
    edges = [re.findall(r"\n\t.*->.*", text) for text in (usual, bare, own)]
    assert edges[0] == edges[1] == edges[2]


def test_the_command_line_takes_them(command_line, tmp_path, circuit):
    circuit.save(tmp_path / "circuit.json")
    code, _, err = command_line(
        "render", tmp_path / "circuit.json", tmp_path / "a.dot", "--no-caption", "--title", "Mine"
    )
    assert (code, err) == (0, "")
    text = (tmp_path / "a.dot").read_text()
    assert "Mine" in text
    assert "Model tasks-4l" not in text
