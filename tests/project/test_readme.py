"""The examples of the README and of the manual run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import ARCHITECTURES

from circuitfind.discovery.contract import ALGORITHMS

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}


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
    table = PAGES["algorithms.md"].partition("<!-- algorithms -->")[2].partition("<!-- end of algorithms -->")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == [algorithm.name for algorithm in ALGORITHMS]


def test_the_table_of_architectures_names_every_checkpoint_of_the_tests():
    table = PAGES["models.md"].partition("| family | checkpoints")[2].partition("**Will it fit?**")[0]
    assert [name for name in ARCHITECTURES if f"`{name}`" not in table] == []


def test_every_command_of_the_manual_exists():
    listed = re.search(r"Further commands: (.*?);", PAGES["your-prompts.md"], re.DOTALL)
    assert listed
    names = re.findall(r"`([\w-]+)`", listed[1])
    out = run([sys.executable, "-m", "circuitfind", "--help"], ROOT)
    assert [name for name in names if name not in out] == []
    assert len(names) > 5


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page_of_the_manual():
    assert len((ROOT / "README.md").read_bytes()) < 14_000
    assert [name for page in ROOT.glob("docs/*.md") if f"docs/{(name := page.name)}" not in PAGES["README.md"]] == []
