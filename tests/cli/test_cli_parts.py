"""Runs by parts of the prompt on the command line."""

import html
import json
import re
from dataclasses import replace

import pytest
from command_lines import FEW, TOP
from picture_text import picture_text
from runs import FILES

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.task.write_pairs import write_pairs


@pytest.fixture(scope="module")
def by_span(tmp_path_factory):
    """A finished run folder with a circuit of (part, edge)."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 12, "n_held_out": 6, "n_random": 2, "rule": "top", "value": 60, "parts": "span"}
    return make(config, tmp_path_factory.mktemp("cli") / "by-span").folder


POSITIONAL_FILES = {f"positional.{suffix}" for suffix in ("json", "dot", "svg", "png")} | {"positional_evaluation.json"}


def test_a_run_by_span_also_has_the_circuit_that_says_where(by_span):
    assert {path.name for path in by_span.iterdir()} == FILES | POSITIONAL_FILES
    circuit = Circuit.load(by_span / "positional.json")
    assert circuit.selection["n"] == 60
    assert circuit.layout.labels == ("rest", "IO", "S1", "S2", "END")
    measured = json.loads((by_span / "positional_evaluation.json").read_text())
    assert (measured["n_edges"], measured["n_edges_total"]) == (circuit.n_edges, 5 * 1519)
    plain = Circuit.load(by_span / "circuit.json").n_edges
    expected = (
        f"By span: {circuit.n_edges} of 7,595 (edge, part) pairs (0.{round(circuit.n_edges / 7.595)}%) are kept; "
    )
    there = f"the circuit without parts keeps {plain} edges at all 5 parts, {5 * plain} pairs."
    assert expected + there in (by_span / "summary.txt").read_text()


def test_the_command_says_what_is_kept_by_part(run, tmp_path):
    words = ("induction", "--model", "induction-2l", "-a", "eap", "--edges", "30", *FEW, "--parts", "span")
    code, out, err = run("discover", *words, "--out", "found")
    assert (code, err) == (0, "")
    assert re.search(r"By span: \d+ of 1,028 \(edge, part\) pairs \(\d\.\d%\) are kept; the circuit without parts", out)
    assert "positional.svg, positional.json" in out


def test_evaluate_and_render_take_the_positional_file(run, by_span, tmp_path):
    stored = json.loads((by_span / "positional_evaluation.json").read_text())
    code, out, _ = run("evaluate", by_span / "positional.json", "--prompts", "6", "--random", "2", "--json")
    assert code == 0
    assert json.loads(out) == stored
    assert run("render", by_span / "positional.json", "one.dot")[0] == 0
    text = html.unescape((tmp_path / "one.dot").read_text())
    assert f"{stored['n_edges']} of 7,595 edges at 5 parts of the prompt" in text
    assert "Faithfulness" in text
    assert run("render", by_span / "positional.json", "few.dot", "--top", "5")[0] == 0
    few = picture_text((tmp_path / "few.dot").read_text())
    assert f"{stored['n_edges'] - 5} weaker edges of {stored['n_edges']} are not drawn" in few


def test_a_run_with_parts_is_drawn_by_parts_unless_the_plain_circuit_is_asked_for(run, refused, by_span, tmp_path):
    found = {name: Circuit.load(by_span / name).n_edges for name in ("circuit.json", "positional.json")}
    code, out, _ = run("render", by_span, "parts.dot")
    assert code == 0
    said = f"the circuit by parts of the prompt, {found['positional.json']} edges; --no-parts draws the plain one"
    assert out.splitlines() == [said, "parts.dot"]
    assert "at 5 parts of the prompt" in picture_text((tmp_path / "parts.dot").read_text())
    code, out, _ = run("render", by_span, "plain.dot", "--no-parts")
    assert f"the plain circuit, {found['circuit.json']} edges" in out
    assert "parts of the prompt" not in picture_text((tmp_path / "plain.dot").read_text())
    _, out, _ = run("render", by_span, "plain.dot", "--edges", "20", "--json")
    assert json.loads(out) == {"picture": "plain.dot", "circuit": str(by_span / "circuit.json")}
    assert "20 of 1,519 edges" in picture_text((tmp_path / "plain.dot").read_text())
    assert "holds a circuit by parts" in refused("render", by_span / "positional.json", "--no-parts")


def test_what_a_circuit_with_parts_cannot_be_is_refused(refused, by_span):
    assert "give circuit.json or the run folder" in refused("export", by_span / "positional.json", "graph.json")
    message = refused("discover", *FEW, "-a", "eap", "--parts", "span", "--greedy", "5", "--out", "x")
    assert "--greedy grows circuits without parts" in message


def test_labels_of_ones_own_pairs_serve_a_run_by_span_and_are_measured_again(run, refused, tmp_path):
    write_pairs(cf.TASKS["ioi"].pairs(12), tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text().splitlines()[0] == "clean,corrupted,correct,incorrect,labels"
    assert run("discover", "--data", "mine.csv", *TOP, "--parts", "span", "--out", "mine")[0] == 0
    stored = json.loads((tmp_path / "mine" / "positional_evaluation.json").read_text())
    out = run("evaluate", "mine/positional.json", "--random", "2", "--json")[1]
    assert json.loads(out)["faithfulness"] == pytest.approx(stored["faithfulness"])
    unlabelled = [replace(pair, labels={}) for pair in cf.TASKS["ioi"].pairs(12)]
    write_pairs(cf.PromptPairs(tuple(unlabelled)), tmp_path / "bare.csv")
    assert "no labelled positions" in refused(
        "discover", "--data", "bare.csv", *TOP, "--parts", "span", "--out", "bare"
    )
