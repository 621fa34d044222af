"""Public values show themselves in a notebook, and progress is shown there and in log files."""

import re
import subprocess
from shutil import which
from types import SimpleNamespace

import numpy as np
import pytest
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind import progress
from circuitfind.rendering.notebook import chances_html, sizes_html, table_html


@pytest.fixture(scope="module")
def shown():
    model = small_model()
    setting = cf.Setting(cf.load_task(random_pairs(model, 9), name="random <ids>"), model=model, n=6, n_held_out=3)
    scores = cf.discover(setting, algorithm="eap")
    circuit = cf.select(scores, top=12)
    values = {
        "scores": scores,
        "circuit": circuit,
        "evaluation": cf.evaluate(setting, circuit, n_random=5),
        "comparison": cf.compare(circuit, cf.select(scores, top=5)),
        "rankings": cf.compare(scores, cf.discover(setting, algorithm="random-edges")),
        "heat map": cf.path_heat_map(setting, "logits"),
        "patching": cf.activation_patch(setting),
        "task": cf.load_task("ioi"),
        "task of ids": setting.behaviour,
    }
    return SimpleNamespace(
        **{name.replace(" ", "_"): value._repr_html_() for name, value in values.items()}, values=values
    )


NAMES = ("scores", "circuit", "evaluation", "comparison", "rankings", "heat_map", "patching", "task", "task_of_ids")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_whole_and_needs_nothing_else(shown, name):
    html = getattr(shown, name)
    assert not re.search(r"(src|href)=.?(http|//)", html)
    assert "random <ids>" not in html  # text is escaped
    for tag in ("table", "svg", "tr", "td", "div"):
        assert len(re.findall(rf"<{tag}\b", html)) == html.count(f"</{tag}>"), tag
    assert "nan" not in html


def test_the_strongest_edges_come_first_and_all_are_counted(shown):
    rows = re.findall(r"<tr><td>(.*?)</td>", shown.scores)
    scores = shown.values["scores"]
    assert rows == scores.to_frame(30)["name"].str.replace(">", "&gt;").str.replace("<", "&lt;").tolist()
    assert f"... and {len(scores.values) - 30:,} more" in shown.scores


def test_a_task_shows_ten_pairs(shown):
    assert shown.task.count("<tr><td>") == 10
    assert shown.task_of_ids.count("<tr><td>") == 9


def test_the_plot_of_sizes_falls_and_leaves_zeros_out():
    html = sizes_html(np.array([4.0, -2.0, 1.0, 0.0]), "nats")
    points = np.array([point.split(",") for point in re.search(r'points="(.*?)"', html)[1].split()], float)
    assert len(points) == 3
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) > 0).all()  # downwards
    assert sizes_html(np.zeros(4), "nats") == ""


def test_random_circuits_stand_at_their_faithfulness():
    html = chances_html(0.5, (0.25, 0.75), np.array([0.0, 1.0]))
    low, high = sorted(float(x) for x in re.findall(r'cx="([\d.]+)" cy="100"', html))
    (own,) = (float(x) for x in re.findall(r'cx="([\d.]+)" cy="50"', html))
    assert own == pytest.approx((low + high) / 2, abs=0.1)


def test_figures_show_the_same_numbers(shown):
    scores, evaluation = shown.values["scores"], shown.values["evaluation"]
    (line,) = scores.plot().axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), np.sort(np.abs(scores.values))[::-1])
    axes = evaluation.plot().axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), evaluation.interval)


@pytest.mark.skipif(which("chromium") is None, reason="no Chromium on the PATH")
def test_a_click_on_a_column_sorts_its_numbers(tmp_path):
    rows = [{"name": name, "score": score} for name, score in (("a", 2.0), ("b", -10.0), ("c", 1.5))]
    click = "<script>document.querySelectorAll('th')[1].click()</script>"
    (tmp_path / "page.html").write_text(table_html(rows) + click)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    out = subprocess.run(
        ["chromium", *flags, str(tmp_path / "page.html")], capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"<tr><td>(.)</td>", out) == ["b", "c", "a"]


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(progress, "_place", lambda: "log")
    assert list(progress.track(range(12), "counting")) == list(range(12))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    assert re.fullmatch(r"counting: \d+ of 12, \d+ s, about \d+ s left", lines[0])


def test_a_notebook_gets_bars(monkeypatch):
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.delenv("CIRCUITFIND_QUIET", raising=False)
    monkeypatch.setitem(progress.sys.modules, "IPython", kernel)
    monkeypatch.setitem(progress.sys.modules, "ipykernel", SimpleNamespace())
    assert progress._place() == "bar"
    monkeypatch.setenv("CIRCUITFIND_QUIET", "1")
    assert progress._place() == ""
