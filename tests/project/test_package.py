"""The wheel and the source distribution hold what they must, and the wheel alone does the main work."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from house import ROOT

MOST_MEGABYTES = 45
NEEDED = ("circuitfind", "tasks", "docs", "examples", "manual")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, the wheel made from the source distribution."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in NEEDED:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_wheel_has_every_module_and_every_file_of_data(wheel, record_property):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"circuitfind/{'tasks/' if top == 'tasks' else ''}{path.relative_to(ROOT / top).as_posix()}"
        for top in ("circuitfind", "tasks")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"circuitfind/py.typed", "circuitfind/circuit/circuit.schema.json", "circuitfind/tasks/ioi.py"} <= expected
    assert sum(name.endswith(".safetensors") for name in expected) > 10
    assert expected - names == set()
    assert {name for name in names - expected if ".dist-info/" not in name} == set()
    size = wheel.stat().st_size / 1e6
    record_property("size of the wheel", f"{wheel.name}, {size:.1f} MB")
    assert size < MOST_MEGABYTES


def test_the_source_distribution_has_the_pages_and_the_packages(built):
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "mkdocs.yml", "docs/index.md", "setup.py"}
    assert needed | {"tasks/ioi.py", "circuitfind/py.typed", "examples/first_circuit.ipynb"} <= names


def test_its_description_says_what_it_needs_and_which_extras_there_are(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        text = archive.read(name).decode()
    assert {"docs", "ray", "tracr", "dev"} == set(re.findall(r"^Provides-Extra: (.*)", text, re.MULTILINE))
    assert "Description-Content-Type: text/markdown" in text


def without_extras() -> set[str]:
    """Every distribution that a plain installation brings: the dependencies, and theirs."""
    found, waiting = {"circuitfind"}, ["circuitfind"]
    while waiting:
        for requirement in metadata.requires(waiting.pop()) or ():
            name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
            if "extra ==" not in requirement and name not in found and installed(name):
                found.add(name)
                waiting.append(name)
    return found


def installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


SITE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_wheel_alone_finds_a_circuit_from_another_folder(wheel, tmp_path):
    there = without_extras()
    top = metadata.packages_distributions()
    absent = {name for name, owners in top.items() if not {owner.lower().replace("_", "-") for owner in owners} & there}
    assert {"pytest", "ray", "mkdocs", "hypothesis"} & top.keys() <= absent
    library, work = tmp_path / "library", tmp_path / "work"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(library)
    work.mkdir()
    (library / "sitecustomize.py").write_text(SITE.format(absent=absent), encoding="utf-8")
    command = "discover induction --model induction-2l --prompts 16 --held-out 16 --edges 40 --out run --json".split()
    environment = {**os.environ, "PYTHONPATH": str(library)}
    code = f"import circuitfind.cli; assert circuitfind.__file__.startswith({str(library)!r}); circuitfind.cli.main()"
    run = [sys.executable, "-c", code, *command]
    done = subprocess.run(run, cwd=work, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    assert "</svg>" in (work / "run/circuit.svg").read_text(encoding="utf-8")
