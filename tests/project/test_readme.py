"""The examples of the README and of the manual run as they stand."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import ARCHITECTURES
from typer.main import get_command

from circuitfind.cli import app
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.evaluation.other_prompts.stability import STABLE

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
PAGES = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in FILES}
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\s*)?^```(?P<language>[\w-]*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
LANGUAGES = {"python", "py", "pycon", "sh", "bash", "shell", "console", "csv", "json"}
"""Languages of blocks that a test must run or read, or that say why none does."""

MARKS = ("example: ", "example file: ", "not run: ", "pairs: ", "refused: ")


def example(name: str) -> str:
    """The code block after ``<!-- NAME -->``."""
    found = [
        match[1]
        for text in PAGES.values()
        for match in re.finditer(rf"<!-- {re.escape(name)} -->\s*```\w+\n(.*?)```", text, re.DOTALL)
    ]
    assert len(found) == 1, f"{len(found)} pages have an example {name!r}"
    return found[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the README's CSV."""
    (tmp_path / "pairs.csv").write_text(example("example file: pairs.csv"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


BY_THEMSELVES = {
    "shell", "acdc", "truth", "evidence", "exchange", "python", "parts", "patching", "own model", "own model in the shell",
    "quick start", "sizes", "compare-algorithms",
}  # fmt: skip
"""Examples of which a test below looks at more than that they run."""

FEWER = {
    "hypotheses": ("--random", "20", "--prompts", "32"),
    "compare-algorithms": ("--prompts", "8", "--held-out", "8"),
}
"""What makes the longest commands of the manual short."""


def run_all(name: str, command_line) -> list[str]:
    """What each command of an example prints. They run in this process, which has imported everything once."""
    said = []
    for words in filter(None, (shlex.split(line, comments=True) for line in example(name).splitlines())):
        assert words[0] == "circuitfind"
        code, out, err = command_line(*words[1:], *FEWER.get(words[1], ()))
        assert code == 0, out + err
        said.append(out)
    return said


def test_shell_example_finds_measures_and_draws(folder, command_line):
    run_all("example: shell", command_line)
    for name in ("circuit.json", "evaluation.json", "circuit.svg", "edges.csv", "heads.pdf"):
        assert (folder / "runs/mine" / name).stat().st_size > 100


def test_acdc_example_decides_and_replays(folder, command_line):
    *_, out = run_all("example: acdc", command_line)
    assert (folder / "runs/acdc/decisions.csv").stat().st_size > 100_000
    assert "decisions agree (40 tests made again" in out


def test_compare_algorithms_example_writes_a_page(folder, command_line):
    first, second = run_all("example: compare-algorithms", command_line)
    for out, task in ((first, "pairs"), (second, "ioi")):
        assert out.splitlines()[-1] == f"results/{task}/tasks-4l/compare-algorithms/index.html"
        assert (folder / out.splitlines()[-1]).stat().st_size > 10_000


def test_truth_example_verifies_and_draws(folder, command_line):
    verified, _ = run_all("example: truth", command_line)
    assert "FAIL" not in verified
    assert verified.count("  ok\n") >= 4
    assert (folder / "runs/sort/circuit.svg").stat().st_size > 100


def test_evidence_example_tests_and_certifies(folder, command_line):
    _, tested, stable, certain = run_all("example: evidence", command_line)
    assert "hypothesis tests" in tested
    assert "mean Jaccard" in stable
    assert "certified in" in certain


def test_exchange_example_compares_writes_and_reads(folder, command_line):
    *_, compared, _, measured = run_all("example: exchange", command_line)
    assert "Jaccard" in compared
    assert (folder / "runs/difference/difference.svg").stat().st_size > 100
    assert "50 of 1519 edges" in measured


def test_python_example_finds_measures_and_draws(folder):
    out = run([sys.executable, "-c", example("example: python")], folder)
    assert "Circuit(" in out
    assert "</svg>" in (folder / "circuit.svg").read_text(encoding="utf-8")


def test_parts_example_finds_measures_and_draws(folder):
    out = run([sys.executable, "-c", example("example: parts")], folder)
    assert re.search(r"Circuit\(\d+ of [\d,]+ edges in 5 parts \(rest, IO, S1, S2, END\), .*\) [\d.]+", out)
    assert "</svg>" in (folder / "ioi-by-span.svg").read_text(encoding="utf-8")


def test_sizes_example_says_shows_and_draws(folder):
    out = run([sys.executable, "-c", example("example: sizes")], folder)
    assert re.search(
        r"\d+ (to \d+ )?edges of this ranking reach 85\.0% of faithfulness, depending on the prompts drawn", out
    )
    assert "faithfulness_low" in out
    assert "target 85%" in (folder / "curve.svg").read_text(encoding="utf-8")


def test_patching_example_patches_maps_ablates_and_prints_a_tree(folder):
    out = run([sys.executable, "-c", example("example: patching")], folder)
    assert re.search(r"effect \+[\d.]+ \(95 % interval", out)
    assert re.search(r"k: a0\.h5 .*previous token", out)
    for name in ("into-the-key.svg", "heads.svg"):
        assert "</svg>" in (folder / name).read_text(encoding="utf-8")


def test_own_model_example_finds_saves_and_opens(folder, command_line):
    (folder / "ids.csv").write_text(example("example file: ids.csv"), encoding="utf-8")
    assert "addition mod 13 on addition" in run([sys.executable, "-c", example("example: own model")], folder)
    found, _ = run_all("example: own model in the shell", command_line)
    assert "strongest edges" in found
    assert (folder / "runs/mine/circuit.svg").stat().st_size > 100


def test_the_table_of_algorithms_names_every_algorithm_and_no_other():
    table = PAGES["docs/algorithms.md"].partition("<!-- algorithms -->")[2].partition("<!-- end of algorithms -->")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == [algorithm.name for algorithm in ALGORITHMS]


def test_the_table_of_architectures_names_every_checkpoint_of_the_tests():
    table = PAGES["docs/models.md"].partition("| family | checkpoints")[2].partition("**Will it fit?**")[0]
    assert [name for name in ARCHITECTURES if f"`{name}`" not in table] == []


def test_every_command_of_the_manual_exists():
    said = {name for text in PAGES.values() for name in re.findall(r"`(?:\$ )?circuitfind ([a-z][\w-]*)", text)}
    said |= {
        name for _, _, _, text in marked() for name in re.findall(r"^circuitfind ([a-z][\w-]*)", text, re.MULTILINE)
    }
    assert len(said) > 15
    assert said - get_command(app).commands.keys() == set()


def marked() -> list[tuple[str, str, str, str]]:
    """Page, mark, language and text of every block of code of the README and of the manual."""
    return [
        (page, found["mark"] or "", found["language"], found["text"])
        for page, text in PAGES.items()
        for found in BLOCK.finditer(text)
    ]


def test_every_block_is_run_or_says_why_not():
    blocks = [block for block in marked() if block[2] in LANGUAGES]
    assert len(blocks) > 20
    assert [block for block in blocks if not block[1].startswith(MARKS)] == []
    assert [block for block in blocks if block[1].startswith("not run: ") and len(block[1].split()) < 5] == []


def test_no_command_hides_in_an_indented_block():
    words = re.compile(r"^ {4}(?:\$ )?(?:circuitfind|pip|python|make) .*", re.MULTILINE)
    assert {page: found for page, text in PAGES.items() if (found := words.findall(text))} == {}


OTHERS = [
    block
    for block in marked()
    if (name := block[1].removeprefix("example: ")) != block[1] and name not in BY_THEMSELVES
]


@pytest.mark.parametrize(("page", "mark", "language", "text"), OTHERS, ids=[block[1][9:] for block in OTHERS])
def test_an_example_runs(page, mark, language, text, folder, command_line, capsys):
    for name, body in re.findall(r"<!-- example file: (\S+) -->\s*```\w+\n(.*?)```", PAGES[page], re.DOTALL):
        (folder / name).write_text(body, encoding="utf-8")
    if language == "python":
        exec(compile(text, f"{page}: {mark}", "exec"), {"__name__": "example"})
        assert capsys.readouterr().out.strip()
    else:
        said = run_all(mark, command_line)
        assert all(out.strip() for out in said)


def test_the_quick_start_says_what_the_commands_say(folder, command_line):
    found, *_ = run_all("example: quick start", command_line)
    for page, place in (("docs/quick-start.md", "first result"), ("docs/reading-a-result.md", "a result")):
        quoted = PAGES[page].partition(f"<!-- {place} -->")[2].partition(f"<!-- end of {place} -->")[0]
        lines = [re.sub(r"\d[\d.]*", "#", line) for line in quoted.splitlines() if "->" in line or "edges" in line]
        assert len(lines) >= 2
        assert [line for line in lines if line not in re.sub(r"\d[\d.]*", "#", found)] == []


def test_the_page_about_results_has_the_numbers_of_the_code():
    page, verdict = PAGES["docs/reading-a-result.md"], importlib.import_module("circuitfind.evaluation.verdict")
    assert f"fewer than {verdict.FEW_PROMPTS} prompts" in page
    assert f"by more than {verdict.FEWER_RIGHT * 100:.0f} points" in page
    assert f"more than {verdict.TOO_FAITHFUL * 100:.0f} %" in page
    assert f"mean Jaccard index of {STABLE} or less" in page


def test_the_page_about_results_quotes_lines_that_exist():
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("circuitfind/**/*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", sources).lower()  # strings that go on in the next line
    table = PAGES["docs/reading-a-result.md"].partition("| the line says")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    quotes = [part.strip() for row in rows for part in re.split(r"\bN\b[^;]*;?|\d.*|\.\.\.", row)]
    assert len(quotes) > 10
    assert [quote for quote in quotes if quote.lower() not in said] == []


@pytest.mark.parametrize("page", FILES, ids=list(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_is_short_and_the_first_page_leads_to_every_other():
    assert len(PAGES["README.md"].splitlines()) <= 150
    pages = [page.name for page in ROOT.glob("docs/*.md") if page.name != "index.md"]
    assert [name for name in pages if f"({name}" not in PAGES["docs/index.md"]] == []
