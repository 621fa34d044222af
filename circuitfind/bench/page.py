"""The leaderboard as files: tables (CSV, Markdown), pictures, and one self-contained HTML page that needs no network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.bench.leaderboard import BOARDS, MAIN, WHY_OR_GATES, Board, boards, leaderboard
from circuitfind.bench.pictures import INK, write_pictures
from circuitfind.bench.recorded import SETTING, Recorded, read
from circuitfind.bench.significance import neighbours

if TYPE_CHECKING:
    import pandas

TITLES = {
    "known": "Models whose circuit is known",
    "compiled": "Of these, compiled or wired by hand",
    "trained": "Of these, trained",
    "other-ablations": "The same under other ablations",
    "behaviour": "Behaviours of other models",
    "or-gate": "Redundant inputs",
    "cost": "Cost",
}
INTROS = {
    "known": "Areas under curves of each ranking of edges against the model's known circuit; more is better, 0.5 is chance for "
    "the edge, head and node AUC.",
    "compiled": "Exact circuits by construction.",
    "trained": "Circuits that training fixed edge by edge; nearest to what one meets in practice.",
    "other-ablations": "Not every algorithm is defined for these.",
    "behaviour": "How faithful circuits of growing size are to the whole model. cmd is the area between faithfulness and 1 "
    "(less is better), cpr the area under it (more is better, but a circuit that exaggerates gains too); -log is on a "
    "logarithmic axis, where small circuits count. Faithfulness is ranked by its distance from 1.",
    "or-gate": WHY_OR_GATES,
    "cost": "Medians over settings, with the range. One forward is a plain forward pass of all prompts.",
}
MARK = "†"
MARKED = "lacks some settings: ranked on those it has, against the entrants that have all"


def write_leaderboard(out: str | Path) -> Path:
    """Write ``leaderboard.csv``, ``leaderboard.md``, ``pictures/`` and ``index.html`` into a benchmark's folder.

    Returns:
        The page's path.

    Raises:
        OptionError: it is not the folder of a benchmark.
    """
    folder = Path(out)
    found = read(folder)
    table = leaderboard(found)
    table.to_csv(folder / "leaderboard.csv", index=False)
    made = boards(found)
    (folder / "leaderboard.md").write_text(markdown(found, table, made), encoding="utf-8")
    drawn = write_pictures(found, folder / "pictures")
    page = folder / "index.html"
    page.write_text(html_page(found, table, made, drawn), encoding="utf-8")
    return page


# ---------------------------------------------------------------- contents


def _sections(table: pandas.DataFrame, made: Sequence[Board]) -> Iterator[dict[str, Any]]:
    """One section for each board that has a value."""
    for name in BOARDS:
        own = [board for board in made if board.name == name]
        if own:
            leads = neighbours(own[0]) if name in MAIN else []
            yield {
                "id": name,
                "title": TITLES[name],
                "intro": INTROS[name],
                "quantities": [board.quantity.label for board in own],
                "rows": _rows(table[table.board == name], own),
                "matrix": _matrix(own[0]),
                "leads": [lead.sentence for lead in leads],
                "left_out": [" / ".join(filter(None, setting)) for setting in own[0].left_out],
            }


def _rows(table: pandas.DataFrame, own: Sequence[Board]) -> list[dict[str, Any]]:
    """One row for each entrant, in the order of the first quantity; entrants without it come last."""
    by_quantity: dict[str, dict[Any, Any]] = {}
    for row in table.to_dict("records"):
        key = (row["quantity"], None if np.isnan(row["at"]) else row["at"])
        by_quantity.setdefault(str(row["algorithm"]), {})[key] = row
    keys = [(board.quantity.name, None if np.isnan(board.quantity.at) else board.quantity.at) for board in own]
    out = []
    for name, found in by_quantity.items():
        first = found.get(keys[0])
        out.append(
            {
                "name": name,
                "complete": bool(first and first["complete"]),
                "rank": first["rank"] if first else float("nan"),
                "values": [_value(found.get(key)) for key in keys],
                "settings": first["settings"] if first else 0,
                "of": len(own[0].values),
                "cells": first["cells"] if first else 0,
            }
        )
    return sorted(out, key=lambda row: (np.isnan(row["rank"]), row["rank"], row["name"]))


def _value(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"sort": None, "text": "–", "interval": ""}
    interval = "" if np.isnan(row["low"]) else f"{number(row['low'])} to {number(row['high'])}"
    return {"sort": row["mean"], "text": number(row["mean"]), "interval": interval}


def _matrix(board: Board) -> dict[str, Any]:
    """The board's first quantity in every setting."""
    settings = [dict(zip(SETTING, map(str, setting), strict=True)) for setting in board.values.index]
    rows = []
    for name in board.ranks():
        values = board.values[name].tolist()
        cells = [{"sort": None, "text": "–"} if np.isnan(v) else {"sort": v, "text": number(v)} for v in values]
        complete = name in board.complete
        rows.append({"name": name, "complete": complete, "values": cells, "mean": number(float(np.nanmean(values)))})
    return {"label": board.quantity.label, "settings": settings, "rows": rows}


def number(value: float) -> str:
    """A number with three decimals below 1 and three digits above; an exponent is used only for very small or large ones."""
    if value != value:
        return "–"
    if value and not 5e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _summary(found: Recorded) -> str:
    table = found.table
    counts = (
        table.cell.nunique(),
        table.entrant.nunique(),
        table.groupby(list(SETTING)).ngroups,
        table.model.nunique(),
    )
    cells, entrants, settings, models = counts
    return (
        f"{cells:,} cells: {entrants} entrants in {settings} settings (model, task, ablation) of {models} models; "
        f"{len(found.failures):,} failed, {len(found.skipped):,} skipped."
    )


def _facts(found: Recorded) -> list[tuple[str, str]]:
    """The contents of ``grid.json`` as rows of text."""
    return [("rebuild this page", f"circuitfind leaderboard {shlex.quote(str(found.folder))}")] + [
        (str(key).replace("_", " "), plain_words(value)) for key, value in found.grid.items()
    ]


def plain_words(value: Any) -> str:
    """A value of JSON as text for people."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain_words(part)}" for key, part in value.items())
    return ", ".join(map(plain_words, value)) if isinstance(value, list) else str(value)


# ---------------------------------------------------------------- Markdown


def markdown(found: Recorded, table: pandas.DataFrame, made: Sequence[Board]) -> str:
    """The tables for a README."""
    lines = ["# Leaderboard", "", _summary(found), ""]
    for section in _sections(table, made):
        lines += [f"## {section['title']}", "", section["intro"], ""]
        heads = ["mean rank", "algorithm", *section["quantities"], "settings", "cells"]
        lines += [_line(heads), "| ---: | --- |" + " ---: |" * (len(heads) - 2)]
        lines += [_line(_markdown_row(row)) for row in section["rows"]]
        if not all(row["complete"] for row in section["rows"]):
            lines += ["", f"{MARK} {MARKED}."]
        if section["left_out"]:
            lines += [
                "",
                f"Left out, since fewer than half of the entrants have them: {'; '.join(section['left_out'])}.",
            ]
        lines += ["", *(f"- {lead}" for lead in section["leads"]), ""]
    for name, frame in (("Failed", found.failures), ("Skipped", found.skipped)):
        lines += [f"## {name}", "", f"{len(frame):,} cells; see {name.lower().replace('failed', 'failures')}.csv.", ""]
    lines += ["## Made by", "", *(f"- {name}: {value}" for name, value in _facts(found)), ""]
    return "\n".join(lines)


def _markdown_row(row: Mapping[str, Any]) -> list[str]:
    values = [
        f"{value['text']} ({value['interval']})" if value["interval"] else value["text"] for value in row["values"]
    ]
    name = row["name"] + ("" if row["complete"] else f" {MARK}")
    return [number(row["rank"]), name, *values, f"{row['settings']} of {row['of']}", str(row["cells"])]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


# ---------------------------------------------------------------- HTML


def html_page(
    found: Recorded, table: pandas.DataFrame, made: Sequence[Board], drawn: Mapping[str, tuple[str, str]]
) -> str:
    """The page as text. All text from the benchmark is escaped.

    Args:
        drawn: SVG text and caption of each picture.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    words = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return words.get_template("leaderboard.html.j2").render(
        summary=_summary(found),
        sections=list(_sections(table, made)),
        pictures=[
            {"name": name, "svg": Markup(inline(svg, name, caption)), "caption": caption}
            for name, (svg, caption) in drawn.items()
        ],
        filters={name: sorted(value for value in found.table[name].unique() if value) for name in SETTING},
        missing=[
            _missing("failures", "Failed", found.failures, ("type", "message", "attempts")),
            _missing("skipped", "Skipped", found.skipped, ("reason",)),
        ],
        facts=_facts(found),
        mark=MARK,
        marked=MARKED,
        style=Markup((here / "leaderboard.css").read_text(encoding="utf-8")),
        script=Markup((here / "leaderboard.js").read_text(encoding="utf-8")),
    )


def _missing(name: str, title: str, frame: pandas.DataFrame, said: Sequence[str]) -> dict[str, Any]:
    """A table of cells without a result."""
    columns = [column for column in (*SETTING, "entrant", "seed", *said) if column in frame]
    rows = [
        {
            "setting": {part: str(row[part]) for part in SETTING},
            "values": [plain_words(row[column]) for column in columns],
        }
        for row in frame.to_dict("records")
    ]
    heads = ["algorithm" if column == "entrant" else column for column in columns]
    return {"id": name, "title": title, "heads": heads, "rows": rows}


def inline(svg: str, name: str, caption: str) -> str:
    """An SVG file's text as part of a page: with a label, unique ids, and the page's text colour as its ink."""
    import html

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)
