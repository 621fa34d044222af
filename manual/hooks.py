"""What mkdocs calls: pages made from code, files from outside ``docs/``, and every page as plain text beside itself."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s#]+)((?:#[\w.-]+)?\))")
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
"""Pages of the site that stand elsewhere in the repository."""

WORDS = r"\1"
"""Of a link, the words."""

REPOSITORY = "https://github.com/circuitfind/circuitfind/blob/main/"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages made from code, the notebooks, and whatever a page links to outside ``docs/``."""
    from mkdocs.structure.files import File

    def add(uri: str, **what: Any) -> None:
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, **what))

    for uri, text in _made().items():
        add(uri, content=text)
    for uri in PAGES:
        add(uri, content=(ROOT / uri).read_text(encoding="utf-8"))
    waiting = [(file.src_uri, file.content_string) for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page, text = waiting.pop()
        for target in {_outside(page, link[2]) for link in LINK.finditer(text)} - {None, "README.md"}:
            path = ROOT / str(target)
            if not path.is_file() or files.get_file_from_path(str(target)) is not None:
                continue
            if path.suffix == ".md":
                waiting.append((str(target), path.read_text(encoding="utf-8")))
                add(str(target), content=waiting[-1][1], inclusion=_not_in_nav())
            elif path.suffix in (".png", ".svg", ".csv", ".html", ".ipynb"):
                add(str(target), abs_src_path=str(path))
    return files


def _not_in_nav() -> Any:
    from mkdocs.structure.files import InclusionLevel

    return InclusionLevel.NOT_IN_NAV


def _made() -> dict[str, str]:
    """Pages that are made from code, by where they stand on the site."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from manual import commands, notebooks, python

    return {
        "reference/commands.md": commands.page(),
        "reference/python.md": python.page(),
        **{f"examples/{path.stem}.md": notebooks.page(path) for path in sorted((ROOT / "examples").glob("*.ipynb"))},
    }


def _outside(page: str, link: str) -> str | None:
    """Where a link of a page leads, from the top of the repository, if that is not below ``docs/``.

    Pages of ``docs/`` stand at the top of the site, the others where they stand in the repository.
    """
    if (ROOT / page).is_file():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    else:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith(("docs/", "..")) else target


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside ``docs/`` into links within the site, or to the repository where it has no such file."""
    here = page.file.src_uri
    outside_docs = (ROOT / here).is_file()

    def rewritten(found: re.Match[str]) -> str:
        link = found[2]
        target = _outside(here, link)
        if target is None:
            if not outside_docs:
                return found[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link)).removeprefix("docs/")
        if target == "README.md":
            target = "index.md"
        if files.get_file_from_path(target) is None:
            return f"{found[1]}{REPOSITORY}{target}{found[3]}" if (ROOT / target).exists() else found[0]
        return f"{found[1]}{posixpath.relpath(target, posixpath.dirname(here) or '.')}{found[3]}"

    return LINK.sub(rewritten, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Link every page to its plain text."""
    name = posixpath.basename(page.file.src_uri)
    return f'{html}\n<p class="plain"><a href="{name}">This page as plain text</a></p>'


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Write the page's Markdown beside it."""
    path = Path(config.site_dir) / page.file.src_uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.markdown or "", encoding="utf-8")
    return output


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Keep the order of the pages for the index of plain texts."""
    config.extra["in_order"] = list(nav.pages)
    return nav


def on_post_build(config: Any) -> None:
    """Write ``llms.txt``: a line for each page, with where its plain text is and what it begins with."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    lines += [f"- [{page.title}]({page.file.src_uri}): {_begins(page.markdown)}" for page in config.extra["in_order"]]
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _begins(markdown: str) -> str:
    """The first sentence of a page, in plain words."""
    prose = re.sub(r"<!--.*?-->|^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    blocks = [block.strip() for block in prose.split("\n\n")]
    first = next(" ".join(block.split()) for block in blocks if re.match(r"[A-Z`]", block))
    words = re.sub(r"\[(.*?)\]\(.*?\)", WORDS, first).replace("**", "")
    return re.split(r"(?<=[.?:])(?<!et al\.)\s", words)[0].rstrip(":")
