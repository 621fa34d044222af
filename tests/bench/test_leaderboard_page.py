"""The page of a benchmark: whole, escaped, silent towards the network, sorted and filtered in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from circuitfind.bench.leaderboard import boards, leaderboard
from circuitfind.bench.page import number
from circuitfind.bench.recorded import read


class Page(HTMLParser):
    """Tags that are opened and closed, ids, and references."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.words, self.scripts = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(benchmark) -> str:
    return (benchmark / "index.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_the_network_for_nothing(benchmark):
    page = Page(page_of(benchmark))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", page_of(benchmark))


def test_words_of_the_benchmark_are_escaped(benchmark):
    page = Page(page_of(benchmark))
    assert page.scripts == 1
    words = "".join(page.words)
    assert "eap<script>alert(1)</script>" in words
    assert '<b>NaN</b> in layer 1 & "more"' in words
    assert "no <zero> ablation" in words
    assert "<b>NaN" not in page_of(benchmark)
    assert "circuitfind leaderboard '" in words
    for name in ("torch 2.13.0", "circuitfind bench --quick", "x86_64, 2 cores"):
        assert name in words


def test_the_page_says_what_failed_and_why_redundant_models_stand_apart(benchmark):
    words = " ".join("".join(Page(page_of(benchmark)).words).split())
    assert "12 failed, 1 skipped" in words
    assert "one of two redundant inputs is enough" in words
    assert "lacks some settings" in words
    assert "after Holm's correction" in words


def test_tables_for_people_and_programs_say_the_same(benchmark):
    found = pd.read_csv(benchmark / "leaderboard.csv")
    text = (benchmark / "leaderboard.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    best = found[(found.board == "known") & (found.quantity == "edge-auc")].iloc[0]
    assert (
        f"| {number(best['rank'])} | {best.algorithm} | {number(best['mean'])} ({number(best.low)} to {number(best.high)}) |"
        in text
    )
    assert "gim †" in text


def test_numbers_are_short():
    shown = [number(value) for value in (0.0, 0.5, 0.12345, 4.5, 12.345, 12345.6, 1e-5, 3e7, -0.25, float("nan"))]
    assert shown == ["0", "0.500", "0.123", "4.5", "12.3", "12,346", "1.0e-05", "3.0e+07", "-0.250", "–"]


def test_the_command_writes_the_page(command_line, small, tmp_path):
    for name in ("table.parquet", "costs.csv"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    code, out, _ = command_line("leaderboard", tmp_path, "--json")
    found = json.loads(out)
    assert (code, found["page"]) == (0, str(tmp_path / "index.html"))
    assert len(found["leaderboard"]) == len(leaderboard(small))
    code, _, err = command_line("leaderboard", tmp_path / "nowhere")
    assert (code, "no table.parquet" in err) == (2, True)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")


ACT = """
const said = {};
const names = (table) => [...table.tBodies[0].rows].map((row) => row.querySelector("th").textContent.trim());
const table = document.querySelector("#known table");
const button = [...table.tHead.rows[0].cells][2].querySelector("button");
said.before = names(table);
button.click();
said.up = names(table);
said.sorted = button.parentElement.getAttribute("aria-sort");
button.focus();
said.focused = document.activeElement === button;
button.click();
said.down = names(table);
const select = document.querySelector('select[name="model"]');
select.value = "siit-2";
select.dispatchEvent(new Event("change", { bubbles: true }));
const matrix = document.querySelector("#known .matrix");
said.columns = [...matrix.tHead.rows[0].cells].filter((cell) => !cell.hidden).length;
const mean = (row) => row.querySelector(".mean").textContent;
said.means = [...matrix.tBodies[0].rows].map((row) => [row.querySelector("th").textContent.trim(), mean(row)]);
said.failures = [...document.querySelectorAll("#failures tbody tr")].filter((row) => !row.hidden).length;
said.note = document.getElementById("shown").textContent;
said.wider = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
"""


def browse(page: Path, benchmark: Path, width: int = 500) -> tuple[str, str]:
    """The page's DOM after its scripts, and what the browser's console says."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --enable-logging=stderr --dump-dom".split()
    flags += [f"--user-data-dir={benchmark / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=2000"]
    done = subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@in_a_browser
def test_tables_are_sorted_and_filtered_in_a_browser_without_a_word_on_its_console(benchmark, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(page_of(benchmark).replace("</body>", f"<script>{ACT}</script></body>"), encoding="utf-8")
    dom, console = browse(page, tmp_path)
    assert console == ""
    said = json.loads(
        re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)[1]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    found = leaderboard(benchmark)
    known = found[(found.board == "known") & (found.quantity == "edge-auc")]
    marked = [name if complete else f"{name} †" for name, complete in zip(known.algorithm, known.complete, strict=True)]
    by_mean = [name for _, name in sorted(zip(known["mean"], marked, strict=True))]
    assert said["before"] == marked
    assert said["up"] == by_mean
    assert said["down"] == by_mean[::-1]
    assert (said["sorted"], said["focused"], said["wider"]) == ("ascending", True, False)
    board = boards(read(benchmark))[0]
    shown = board.values.xs("siit-2", level="model")
    assert said["columns"] == 2 + len(shown)
    for name, mean in said["means"]:
        assert mean == number(shown[name.removesuffix(" †")].mean())
    assert said["failures"] == 4
    assert said["note"].startswith("2 settings")
