"""A comparison of two, or of more, as text, as tables and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.rendering import difference_dot, render, rows_by_head
from circuitfind.rendering.drawing import CircuitDrawing, DrawnEdge
from circuitfind.run.comparison import Comparison, Comparisons
from circuitfind.run.overlap import Agreement, Overlap
from circuitfind.run.sides import Side, letter_of, share

LISTED = 20
"""Number of differing edges that are printed."""
MATRICES = {
    "jaccard": "Jaccard index of the circuits' edges",
    "by_chance": "the same of two random sets of these sizes",
    "spearman": "Spearman's rank correlation of the scores of all edges",
}
OVER = {
    "all": "all edges",
    "union": "edges in either",
    "shared": "edges in both",
}


def lines(found: Comparison | Comparisons) -> Iterator[str]:
    """The result of a comparison as lines of text."""
    if isinstance(found, Comparisons):
        yield from _lines_of_many(found)
        return
    yield f"A: {found.a.name}{_about(found.a)}"
    yield f"B: {found.b.name}{_about(found.b)}"
    yield from found.differences
    yield ""
    if found.edges is not None and found.nodes is not None:
        yield f"{'':8}{'in both':>10}{'only A':>10}{'only B':>10}{'Jaccard':>10}{'by chance':>12}{'overlap':>10}"
        yield _overlap_line("edges", found.edges)
        yield _overlap_line("nodes", found.nodes)
        yield "by chance: the mean of two random sets of these sizes. overlap: shared / the smaller one."
        yield ""
    if found.agreement:
        yield f"{'scores over':18}{'edges':>12}{'Spearman':>11}{'Kendall':>11}{'same sign':>12}"
        yield from (_agreement_line(OVER[name], agreement) for name, agreement in found.agreement.items())
        yield ""
    if found.edges is not None:
        yield from _listed(found)


def _about(side: Side) -> str:
    """The size and the measured faithfulness of a side."""
    said = [] if side.kept is None else [f"{np.count_nonzero(side.kept):,} edges"]
    value, ends = side.measured.get("faithfulness"), side.measured.get("faithfulness_95_interval")
    if value is not None and ends and None not in ends:
        metric = side.measured.get("metric", {}).get("name", "")
        said.append(
            f"faithfulness {value:.1%} ({ends[0]:.1%} to {ends[1]:.1%}) in {metric}, {side.measured.get('split')}"
        )
    return "".join(f", {part}" for part in said)


def _lines_of_many(found: Comparisons) -> Iterator[str]:
    """Every side, then a matrix for each quantity that is known."""
    letters = [letter_of(number) for number in range(len(found.sides))]
    yield from (f"{letter}: {side.name}{_about(side)}" for letter, side in zip(letters, found.sides, strict=True))
    yield from found.differences
    for quantity, title in MATRICES.items():
        matrix = found.matrix(quantity)
        if not np.isfinite(matrix[~np.eye(len(matrix), dtype=bool)]).any():
            continue
        yield ""
        yield title
        yield "    " + "".join(f"{letter:>8}" for letter in letters)
        for letter, row in zip(letters, matrix.tolist(), strict=True):
            yield f"{letter:4}" + "".join(f"{_short(value if np.isfinite(value) else None):>8}" for value in row)


def _overlap_line(name: str, part: Overlap) -> str:
    counts = f"{part.both:>10,}{part.only_a:>10,}{part.only_b:>10,}"
    return f"{name:8}{counts}{_short(part.jaccard):>10}{_short(part.by_chance):>12}{_short(part.overlap):>10}"


def _agreement_line(name: str, part: Agreement) -> str:
    same = "-" if part.same_sign is None else f"{part.same_sign:.0%}"
    return f"{name:18}{part.n:>12,}{_short(part.spearman):>11}{_short(part.kendall):>11}{same:>12}"


def _listed(found: Comparison) -> Iterator[str]:
    rows = found.to_frame()
    if not len(rows):
        yield "No edge differs."
        return
    yield "edges in one only, the strongest first:"
    yield f"  {'in':7} {'score in A':>11} {'score in B':>11}  edge"
    for name, where, a, b in rows.head(LISTED).itertuples(index=False):
        yield f"  {where:7} {_score(a):>11} {_score(b):>11}  {name}"
    if len(rows) > LISTED:
        yield f"  ... {len(rows) - LISTED:,} more"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _score(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.4g}"


def comparison_dot(found: Comparison, *, detail: str = "auto") -> str:
    """DOT text of the edges in both circuits and in only one.

    Raises:
        OptionError: one side is not a circuit.
    """
    if found.edges is None:
        raise OptionError("one side holds scores and no circuit; give top=, the size of both, to draw the difference")
    graph, classes = found.a.graph, found.classes()
    sizes = np.stack([share(side) for side in (found.a, found.b)])
    given = np.isfinite(sizes).any(0)
    sizes = np.where(given, np.nan_to_num(sizes).max(0), 1.0)
    every = np.flatnonzero(classes >= 0)
    columns = graph.edge_columns(every.tolist())
    rows = [
        {"source": source, "target": target, "port": port, "edge": edge}
        for edge, source, target, port in zip(
            every.tolist(), columns["source"], columns["target"], columns["port"], strict=True
        )
    ]
    sets: list[list[DrawnEdge]] = [[], [], []]
    notes = {}
    for row in rows_by_head(graph, rows):
        drawn = DrawnEdge(row["source"], row["target"], row["port"], float(sizes[row["edge"]]))
        sets[classes[row["edge"]]].append(drawn)
        notes[drawn.name] = _note(found, row["edge"])
    drawings = [CircuitDrawing(graph.n_layers, graph.n_heads, tuple(edges)) for edges in sets]
    names = (f"A, {found.a.name}", f"B, {found.b.name}")
    return difference_dot(drawings, names, caption=_caption(found), title="Two circuits", notes=notes, detail=detail)


def _note(found: Comparison, edge: int) -> str:
    """The two scores of an edge."""
    scores = {
        name: side.scores[edge]
        for name, side in (("A", found.a), ("B", found.b))
        if side.scores is not None and side.known[edge]
    }
    return "(" + ", ".join(f"{name} {score:+.4g}" for name, score in scores.items()) + ")" if scores else ""


def _caption(found: Comparison) -> list[str]:
    assert found.edges is not None
    assert found.nodes is not None
    return [
        f"{word} Jaccard {_short(part.jaccard)} (two random sets of these sizes: {_short(part.by_chance)}), overlap "
        f"{_short(part.overlap)}."
        for word, part in (("Edges:", found.edges), ("Nodes:", found.nodes))
    ]


def write_comparison(found: Comparison | Comparisons, folder: Path, *, detail: str = "auto") -> list[Path]:
    """Write the files of a comparison and return their paths.

    These are ``comparison.json`` and ``comparison.txt``. For more than two sides there is also ``pairs.csv``. For two circuits
    there are also ``difference.csv`` (the edges in only one, with both scores), ``difference.dot``, ``.svg`` and ``.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    (folder / "comparison.txt").write_text("\n".join(lines(found)) + "\n", encoding="utf-8")
    written = [folder / "comparison.json", folder / "comparison.txt"]
    if isinstance(found, Comparisons):
        found.to_frame().to_csv(folder / "pairs.csv", index=False)
        return [*written, folder / "pairs.csv"]
    if found.edges is None:
        return written
    found.to_frame().to_csv(folder / "difference.csv", index=False)
    drawn = comparison_dot(found, detail=detail)
    pictures = [render(drawn, folder / f"difference.{suffix}") for suffix in ("dot", "svg", "png")]
    return [*written, folder / "difference.csv", *pictures]
