"""Put what a benchmark found into the README."""

from collections.abc import Sequence
from pathlib import Path


def put_into(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no {begin} ... {end} to put the table between")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def markdown_head(names: Sequence[str]) -> list[str]:
    """The first two lines of a table whose first column is words and whose others are numbers."""
    return ["| " + " | ".join(names) + " |", "| --- " + "| ---: " * (len(names) - 1) + "|"]
