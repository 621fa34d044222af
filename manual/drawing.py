"""The drawing of the rooms, ``docs/assets/architecture.svg``: ``python -m manual.drawing`` writes it from the table below."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

OUT = Path(__file__).parents[1] / "docs/assets/architecture.svg"

BANDS = (
    ("you call", (("cli", "commands"), ("run", "public calls, run folder"), ("bench", "compares algorithms"))),
    ("by hand", (("patching", "paths, knock-outs"), ("truth", "known circuits"), ("formats", "files of other tools"))),
    (
        "a run",
        (
            ("setting", "model + task"),
            ("discovery", "the algorithms"),
            ("scores", "a number per edge"),
            ("selection", "size of the circuit"),
            ("circuit", "the kept edges"),
            ("evaluation", "held out, random"),
            ("rendering", "picture"),
        ),
    ),
    ("engines", (("execution", "run with cut edges; cut one edge; cut in turn; gradients at every receiver"),)),
    (
        "data",
        (("task", "prompt pairs, metrics"), ("tasks", "behaviours"), ("graph", "senders, receivers, edges")),
    ),
    ("models", (("models", "checkpoint to tensors"), ("zoo", "shipped models"), ("transformer", "weights, forward"))),
    (
        "ground",
        (
            ("kernels", "compiled loops"),
            ("statistics", "intervals"),
            ("registry", "names to objects"),
            ("progress", "bars, checkpoints"),
            ("errors", "messages"),
        ),
    ),
)
"""Bands from the top down: what a band is, and its rooms, each with what it is about."""

FLOW = "a run"
WIDTH, LEFT, BAND, BOX, GAP = 1180, 100, 92, 62, 22
STYLE = (
    "text{font-family:system-ui,Helvetica,Arial,sans-serif;fill:#1c2333}.room{font-size:16px;font-weight:600}"
    ".about{font-size:12.5px;fill:#4a5568}.band{font-size:13px;fill:#4a5568}rect.box{fill:#fff;stroke:#5c6bc0;stroke-width:1.4}"
    "rect.flow{fill:#e8eaf6}path{stroke:#5c6bc0;stroke-width:1.8;fill:none;marker-end:url(#tip)}"
)


def drawing() -> str:
    """The drawing as the text of an SVG."""
    height = BAND * len(BANDS) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The rooms">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#5c6bc0;stroke:none;marker-end:none"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for row, (name, rooms) in enumerate(BANDS):
        parts += _band(name, rooms, 15 + row * BAND)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _band(name: str, rooms: tuple[tuple[str, str], ...], top: int) -> list[str]:
    width = (WIDTH - LEFT - 15 - GAP * (len(rooms) - 1)) / len(rooms)
    parts = [f'<text class="band" x="15" y="{top + BOX / 2 + 5}">{escape(name)}</text>']
    for column, (room, about) in enumerate(rooms):
        x, kind = LEFT + column * (width + GAP), "box flow" if name == FLOW else "box"
        middle = x + width / 2
        parts += [
            f'<rect class="{kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BOX}" rx="6"/>',
            f'<text class="room" x="{middle:.1f}" y="{top + 26}" text-anchor="middle">{escape(room)}</text>',
            f'<text class="about" x="{middle:.1f}" y="{top + 46}" text-anchor="middle">{escape(about)}</text>',
        ]
        if name == FLOW and column:
            parts.append(f'<path d="M{x - GAP + 1:.1f} {top + BOX / 2}H{x - 1:.1f}"/>')
    return parts


if __name__ == "__main__":
    OUT.write_text(drawing(), encoding="utf-8")
