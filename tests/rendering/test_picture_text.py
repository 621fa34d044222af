"""Words in a circuit's picture: legend, rows, caption, tooltips, the user's own text."""

from __future__ import annotations

import dataclasses

import pytest
from drawings import (
    DRAWINGS,
    EMPTY,
    INDUCTION,
    laid_out,
    measured,
    svg_text,
    visible_edges,
)
from picture_text import picture_text

from circuitfind.errors import CircuitError
from circuitfind.rendering import (
    CircuitDrawing,
    DrawnEdge,
    compose_caption,
    image,
    legend,
    picture,
    style,
    to_dot,
)


def test_the_legend_explains_signs_widths_ports_and_roles() -> None:
    drawing = DRAWINGS["4x8-45"]
    words = svg_text(drawing)
    assert len(drawing.drawn_roles) > 1
    for expected in ("helps (score > 0)", "hurts (score < 0)", "logit difference", "query"):
        assert expected in words
    for expected in drawing.drawn_roles.values():
        assert expected in words
    assert "Indirect objects" in words
    assert "random circuits of at least this size: 0.02" in " ".join(words.split())


def test_the_legend_explains_only_what_is_drawn() -> None:
    edges = [("input", "q", 3.0), ("input", "v", -1.0)]
    drawing = CircuitDrawing(1, 1, tuple(DrawnEdge(source, "a0.h0", port, score) for source, port, score in edges))
    both, strongest = (picture_text(to_dot(drawing, strongest=n)) for n in (2, 1))
    assert "helps (score > 0) hurts (score < 0)" in both
    assert "helps (score > 0)" in strongest
    assert "hurts" not in strongest
    assert "(grey: no line ends there)" in both
    every = dataclasses.replace(drawing, edges=(*drawing.edges, DrawnEdge("input", "a0.h0", "k", -1.0)))
    assert "grey" not in picture_text(to_dot(every))
    roles = {"a0.h0": "near", "a1.h0": "far"}
    far = CircuitDrawing(2, 1, (*drawing.edges, DrawnEdge("input", "a1.h0", "q", 0.1)), roles=roles)
    assert "far" not in picture_text(to_dot(far, strongest=2))
    assert "far" in picture_text(to_dot(far))


def test_the_legend_samples_are_true_to_the_scale() -> None:
    words = svg_text(INDUCTION).splitlines()
    scores = [abs(edge.score) for edge in INDUCTION.edges]
    samples = legend.samples_of((picture.picture_of(INDUCTION),))
    assert [samples[0][1], samples[-1][1]] == [min(scores), max(scores)]
    for width, value in samples:
        assert style.number(value) in words
        assert style.pen_width(value, max(scores)) == pytest.approx(width, abs=0.5)
    assert len({width for width, _ in samples}) == 3


def test_lines_that_are_all_alike_have_one_key() -> None:
    alike = CircuitDrawing(1, 1, (DrawnEdge("input", "a0.h0", "v", 2.0), DrawnEdge("a0.h0", "logits", None, -2.0)))
    assert legend.samples_of((picture.picture_of(alike),)) == [(style.THICKEST, 2.0)]


def test_rows_are_named_and_empty_layers_are_mentioned() -> None:
    drawing = CircuitDrawing(
        12,
        12,
        (
            DrawnEdge("input", "m2", None, 1.0),
            DrawnEdge("m2", "a7.h3", "v", 1.0),
            DrawnEdge("a7.h3", "a9.h1", "q", 1.0),
            DrawnEdge("a9.h1", "logits", None, 1.0),
        ),
    )
    words = svg_text(drawing)
    for expected in ("layer 2 MLP", "layer 7 attention", "layers 0–1: none", "layers 3–6: none", "layer 8: none"):
        assert expected in words
    assert "layers 10–11: none" in words


def test_an_empty_circuit_draws_input_logits_and_the_caption() -> None:
    words = svg_text(EMPTY)
    for expected in ("input", "logits", "layers 0–3: none", "no edge is kept", "Nothing was found."):
        assert expected in words


def test_user_text_is_escaped_and_shown_as_it_is() -> None:
    hostile = '<b>&"quotes"</b> \\N \\G é → 日本'
    drawing = dataclasses.replace(
        INDUCTION, caption=(hostile,), title=hostile, unit=hostile, roles={"a0.h3": "<i>&", "a1.h6": "\\N"}
    )
    words = svg_text(drawing)
    assert words.count(hostile) == 3
    assert words.splitlines().count("<i>&") == 2
    assert words.splitlines().count("\\N") == 2
    assert hostile in " ".join(edge["edgetooltip"] for edge in visible_edges(laid_out(drawing))).replace("\\\\", "\\")


def test_control_characters_and_lone_surrogates_do_not_break_the_svg() -> None:
    drawing = dataclasses.replace(INDUCTION, caption=("a\x00b\nc\ud800d",), unit="x\x07y", roles={"a0.h3": "p\x1bq"})
    assert "a b c d" in svg_text(drawing)


def test_a_long_model_name_is_wrapped_and_a_long_role_cut() -> None:
    name = "organisation/" + "-".join(["very-long-name"] * 20)
    caption = compose_caption(name, "ioi", "kl", "zero", "eap", 4, 1281)
    drawing = dataclasses.replace(INDUCTION, caption=caption, roles={"a1.h6": "w" * 500}, unit="u" * 500)
    width = float(laid_out(drawing)["bb"].split(",")[2])
    assert width / 72 < 10
    assert name in svg_text(drawing).replace("\n", "")


def test_each_edge_of_the_svg_has_an_id_and_a_tooltip() -> None:
    svg = image.draw(to_dot(INDUCTION), "svg").decode()
    assert 'id="edge_a0.h3_a1.h6_k"' in svg
    assert 'xlink:title="a0.h3&#45;&gt;a1.h6&lt;k&gt;: +0.9 logit difference"' in svg
    assert 'id="node_a1.h6"' in svg


def test_the_caption_has_the_evidence_for_and_against() -> None:
    lines = compose_caption(
        "gpt2",
        "ioi",
        "logit difference",
        "corrupted",
        "eap-ig",
        200,
        32491,
        measured(0.91, -0.001, 0.02),
        "absolute",
    )
    assert [line.replace("\xa0", " ") for line in lines] == [
        "Model gpt2, task ioi: 200 of 32,491 edges (0.6%).",
        "Found by eap-ig (absolute); metric: logit difference; ablation: corrupted.",
        "Faithfulness in logit-diff 0.91 (on 128 held-out prompts, 95 % interval 0.86 to 0.93); 20 random circuits of at least "
        "this size: 0.00 ± 0.02.",
        "Full model -> circuit: accuracy 100% -> 50%, KL 0.125 nats, logit-diff 3 -> 2.5.",
    ]


def test_a_caption_says_of_a_kl_run_what_becomes_of_the_task() -> None:
    found = measured(0.884)
    kl = {"name": "kl", "unit": "KL", "full": 0.0, "empty": 35.0, "circuit": 4.1}
    found |= {"metric": kl, "kl": 4.1, "accuracy": 0.2, "task_metric": {**found["task_metric"], "faithfulness": 0.31}}
    evidence, changed = compose_caption("m", "t", "kl", "corrupted", "refine", 3, 1519, found)[2:]
    assert evidence.startswith("Faithfulness in kl 0.88 (on 128")
    assert "accuracy 100% -> 20%, KL 4.1 nats" in changed
    assert "faithfulness in logit-diff 100% -> 31.0%" in changed
    older = {name: value for name, value in found.items() if name != "task_metric"}
    assert compose_caption("m", "t", "kl", "corrupted", "refine", 3, 1519, older)[-1].endswith("-> 20%, KL 4.1 nats.")


def test_a_caption_without_a_baseline_says_so_and_without_faithfulness_is_silent() -> None:
    alone = compose_caption("m", "t", "kl", "zero", "acdc", 0, 0, measured(0.5))
    assert alone[-2].endswith("; no random baseline was measured.")
    assert len(compose_caption("m", "t", "kl", "zero", "acdc", 0, 0)) == 2
    assert len(compose_caption("m", "t", "kl", "zero", "acdc", 0, 0, measured(None))) == 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("input", "a9.h0", "q", 1.0)], "not in a model of 2 layers"),
        ([("input", "head 3", None, 1.0)], "nodes are called"),
        ([("input", "a01.h1", "q", 1.0)], "nodes are called"),
        ([("m1", "a1.h0", "q", 1.0)], "does not go up"),
        ([("logits", "input", None, 1.0)], "does not go up"),
        ([("input", "m1", "q", 1.0)], "only heads have ports"),
        ([("input", "a1.h0", "o", 1.0)], "only heads have ports"),
        ([("input", "m1", None, float("nan"))], "must be finite"),
        ([("input", "m1", None, 1.0), ("input", "m1", None, 2.0)], "given twice"),
        ([("input", "a1.h0", "q", 1.0), ("input", "a1.h1", None, 2.0)], "one kind or the other"),
    ],
)
def test_edges_that_no_model_has_are_refused(edges: list[tuple[str, str, str | None, float]], message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        CircuitDrawing(2, 8, tuple(DrawnEdge(*edge) for edge in edges))
