"""A comparison of algorithms as text, as tables, as a picture, and as one self-contained HTML page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.bench.method_pictures import caption, draw_methods
from circuitfind.bench.method_values import Interval, Method, MethodComparison, SizePoint
from circuitfind.bench.page import inline, number, plain_words
from circuitfind.bench.pictures import to_svg
from circuitfind.run.folder import versions

CALLED = {"n_prompts": "train prompts", "n_held_out": "held-out prompts", "n_edges": "edges of the model"}
AGREE = (
    "Spearman's rank correlation of the scores of all edges; the Jaccard index of the circuits of {n:,} edges, and that of two "
    "random sets of these sizes."
)


def summary(found: MethodComparison) -> str:
    """What was compared, in a sentence."""
    about = found.about
    return (
        f"{about['task']} on {about['model']}: found on {about['n_prompts']} train prompts, measured on {about['n_held_out']} "
        f"held-out prompts in {about['metric']}, {about['ablation']} ablation. Each circuit is the best edges by "
        f"{about['ranked_by']}, of {about['n_edges']:,} edges in all."
    )


def verdict(found: MethodComparison) -> list[str]:
    """Which algorithm is nearest to the whole model at each size, in a sentence; none where nothing was measured."""
    at: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for lead in found.leads:
        at.setdefault((lead.algorithm, lead.ties), []).append(f"{lead.size:,}")
    parts = []
    for (best, ties), sizes in at.items():
        tied = f" (not to be told apart from {_and(ties)})" if ties else ""
        parts.append(f"at {_and(sizes)} edges {best}{tied}")
    test = "Told apart: the 95 % interval of the difference, on the same resampled prompts, excludes 0."
    return [f"Faithfulness nearest to 100 %: {'; '.join(parts)}. {test}"] if parts else []


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


# ---------------------------------------------------------------- text


def lines(found: MethodComparison) -> Iterator[str]:
    """The comparison as lines of text."""
    yield summary(found)
    yield from verdict(found)
    yield from found.notes
    yield from (f"left out: {name}: {reason}" for name, reason in found.left_out.items())
    width = 2 + max(len(name) for name in ("algorithm", *(method.name for method in found.methods)))
    yield ""
    yield f"{'edges':>7}  {'algorithm':{width}}{'faithfulness, %':26}KL(full || circuit), nats"
    for place, size in enumerate(found.sizes):
        for row, method in enumerate(found.methods):
            point = method.points[place]
            short = f"  {point.edges:,} alive" * (point.edges < size)
            yield f"{'' if row else f'{size:,}':>7}  {method.name:{width}}{_values_of(point)}{short}"
    for method in found.methods:
        for point in _own(method):
            yield f"{point.edges:>7,}  {method.name:{width}}{_values_of(point)}  its own circuit"
    yield "in brackets: 95 % bootstrap intervals over the held-out prompts"
    yield ""
    yield f"{'cost':{width}}{'seconds':>10}{'plain forward passes':>23}{'MB':>8}"
    for method in found.methods:
        yield f"{method.name:{width}}{method.seconds:>10,.2f}{method.forwards:>23,.0f}{method.megabytes:>8,.0f}"
    yield from _agreement_lines(found, width)


def _values_of(point: SizePoint) -> str:
    """Faithfulness and KL, each with its interval."""
    return f"{_cell(point, 'faithfulness'):26}{_cell(point, 'kl'):26}".rstrip()


def _cell(point: SizePoint, quantity: str) -> str:
    """A value with its interval: ``92.9 (90.1 to 95.2)``."""
    value, ends = getattr(point, quantity), getattr(point, f"{quantity}_95")
    return f"{_said(value, quantity)} ({_said(ends[0], quantity)} to {_said(ends[1], quantity)})"


def _said(value: float, quantity: str) -> str:
    """A faithfulness in %, or a KL with two digits."""
    if not np.isfinite(value):
        return "-"
    return f"{round(100 * value, 1) + 0.0:.1f}" if quantity == "faithfulness" else f"{value:.2g}"


def _own(method: Method) -> list[SizePoint]:
    """The circuit that the algorithm decided on, if it did."""
    return [point for point in method.points if point.asked is None]


def _agreement_lines(found: MethodComparison, width: int) -> Iterator[str]:
    if not found.agreement:
        return
    yield ""
    yield f"{'agreement':{2 * width}}{'Spearman':>10}{f'Jaccard at {found.agree_at:,} edges':>28}{'by chance':>11}"
    for pair in found.agreement:
        values = f"{_short(pair.spearman):>10}{_short(pair.jaccard):>28}{_short(pair.by_chance):>11}"
        yield f"{pair.a:{width}}{pair.b:{width}}{values}"


def _short(value: float | None) -> str:
    return "-" if value is None else number(value)


# ---------------------------------------------------------------- files


def write_methods(found: MethodComparison, folder: str | Path) -> list[Path]:
    """Write a comparison's files and return their paths; the page comes first.

    These are ``index.html``, ``curves.svg``, ``curves.png``, ``circuits.csv`` (one row for each circuit), ``agreement.csv``,
    ``comparison.json`` and ``comparison.txt``.
    """
    import pandas

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    figure = draw_methods(found)
    figure.savefig(out / "curves.png", dpi=150, facecolor="white", metadata={"Software": None})
    svg = to_svg(figure)
    found.to_frame().to_csv(out / "circuits.csv", index=False, lineterminator="\n")
    columns = ["a", "b", "spearman", "jaccard", "by_chance"]
    pairs = pandas.DataFrame([asdict(pair) for pair in found.agreement], columns=columns)
    pairs.assign(edges=found.agree_at).to_csv(out / "agreement.csv", index=False, lineterminator="\n")
    texts = {
        "index.html": methods_page(found, svg),
        "curves.svg": svg,
        "comparison.json": json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n",
        "comparison.txt": "\n".join(lines(found)) + "\n",
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in (*texts, "curves.png", "circuits.csv", "agreement.csv")]


# ---------------------------------------------------------------- page


def methods_page(found: MethodComparison, svg: str) -> str:
    """The page as text; all text from outside is escaped.

    Args:
        svg: the picture.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here, said = Path(__file__).parent, caption(found)
    words = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return words.get_template("methods.html.j2").render(
        title=f"Circuits of {found.about['task']} in {found.about['model']}: {len(found.methods)} algorithms",
        summary=summary(found),
        verdict=verdict(found),
        examples=found.examples,
        notes=found.notes,
        svg=Markup(inline(svg, "curves", said)),
        caption=said,
        sections=list(_sections(found)),
        left_out=found.left_out,
        facts=list(_facts(found)),
        style=Markup((here / "leaderboard.css").read_text(encoding="utf-8")),
        script=Markup((here / "leaderboard.js").read_text(encoding="utf-8")),
    )


def _sections(found: MethodComparison) -> Iterator[dict[str, Any]]:
    sizes = [f"{size:,} edges" for size in found.sizes]
    own = any(map(_own, found.methods))
    for quantity, title, intro in (
        (
            "faithfulness",
            "Faithfulness",
            "In %: 0 is every edge cut, 100 the whole model; a circuit may exaggerate.",
        ),
        ("kl", "KL", "KL(full || circuit) in nats: 0 is the whole model's distribution, less is better."),
    ):
        rows = [[{"text": method.name}, *_values(method, quantity, own)] for method in found.methods]
        small = " Small: 95 % bootstrap interval over prompts."
        heads = ["algorithm", *sizes, *["own circuit"] * own]
        yield {"id": quantity, "title": title, "intro": intro + small, "heads": heads, "rows": rows}
    costs = ("seconds", "forwards", "megabytes")
    yield {
        "id": "cost",
        "title": "Cost",
        "intro": "What scoring all edges took. In one plain forward pass the model, with nothing cut, reads all train prompts "
        "once; the table has the time in such passes too. Memory is on top of the model's weights.",
        "heads": ["algorithm", "seconds", "plain forward passes", "MB"],
        "rows": [[{"text": one.name}, *(_number(getattr(one, name)) for name in costs)] for one in found.methods],
    }
    if found.agreement:
        yield {
            "id": "agreement",
            "title": "Agreement",
            "intro": AGREE.format(n=found.agree_at),
            "heads": ["algorithms", "Spearman", "Jaccard", "by chance"],
            "rows": [
                [{"text": f"{pair.a}, {pair.b}"}, *map(_number, (pair.spearman, pair.jaccard, pair.by_chance))]
                for pair in found.agreement
            ],
        }


def _values(method: Method, quantity: str, own: bool) -> Iterator[dict[str, Any]]:
    """A cell for each size, and one for the algorithm's own circuit."""
    for point in method.points:
        ends: Interval = getattr(point, f"{quantity}_95")
        small = " to ".join(_said(end, quantity) for end in ends)
        fewer = point.asked is None or point.edges < point.asked
        value = getattr(point, quantity)
        yield {**_number(value, small + f" ({point.edges:,} edges)" * fewer), "text": _said(value, quantity)}
    if own and not _own(method):
        yield _number(None)


def _number(value: float | None, interval: str = "") -> dict[str, Any]:
    if value is None or not np.isfinite(value):
        return {"sort": None, "text": "–", "interval": ""}
    return {"sort": value, "text": number(value), "interval": interval}


def _facts(found: MethodComparison) -> Iterator[tuple[str, str]]:
    """How the page was made."""
    yield "command", " ".join((Path(sys.argv[0]).name, *sys.argv[1:]))
    options = [f"{name}{_given(chosen)}" for name, chosen in found.about["options"].items()]
    for name, value in {**found.about, "options": options, **versions()}.items():
        if words := plain_words(value):
            yield CALLED.get(name, name.replace("_", " ")), words


def _given(options: Mapping[str, Any]) -> str:
    """An algorithm's options in brackets, such as ``(steps 5, points midpoint)``."""
    words = (
        f"{name} {plain_words(list(value) if isinstance(value, tuple) else value)}" for name, value in options.items()
    )
    return f" ({', '.join(words)})" if options else ""
