"""Put what a benchmark found into the page that has a place for it: the README, or one of ``docs/``."""

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def put_into(name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``, on the one page that has these marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before, _, rest = page.read_text(encoding="utf-8").partition(begin)
        _, found, after = rest.partition(end)
        if found:
            page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
            return
    raise SystemExit(f"no page has {begin} ... {end} to put the table between")


def markdown_head(names: Sequence[str]) -> list[str]:
    """The first two lines of a table whose first column is words and whose others are numbers."""
    return ["| " + " | ".join(names) + " |", "| --- " + "| ---: " * (len(names) - 1) + "|"]
