"""Check a MIB submission before it is submitted: everything its loader requires, and what it silently ignores.

The rules are taken from the code of the benchmark's evaluator: it can load every file that passes here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.formats.mib import FRACTIONS, MODELS, PAIRS, largest
from circuitfind.graph import ComputationGraph

CFG = ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")
CIRCUIT_SUFFIXES = (".json", ".pt")
SHOWN = 3
"""The number of edges named in a message; the others are only counted."""


@dataclass(frozen=True)
class Finding:
    """A problem (``error``) or something worth knowing (``warning``), and its place."""

    level: str
    where: str
    message: str


@dataclass(frozen=True)
class CheckedFile:
    """One file: the number of edges it lists, of those it keeps, and of the graph's; None if it could not be read."""

    path: str
    listed: int | None
    kept: int | None
    of: int | None


@dataclass(frozen=True)
class SubmissionCheck:
    """The result of checking a submission.

    Attributes:
        folder: the submission.
        kinds: the kind of each pair's folder: ``importances``, ``circuits``, ``mixed`` or ``nothing``.
        files: all files that were read.
        findings: errors and warnings.
    """

    folder: Path
    kinds: Mapping[str, str]
    files: Sequence[CheckedFile]
    findings: Sequence[Finding]

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "folder": str(self.folder),
            "passed": self.passed,
            "pairs": dict(self.kinds),
            "files": [vars(file) for file in self.files],
            "findings": [vars(finding) for finding in self.findings],
        }

    def lines(self) -> Iterator[str]:
        """The table of files, then the findings, as lines of text."""
        width = max((len(file.path) for file in self.files), default=4) + 2
        yield f"{'file':{width}}{'listed':>12}{'in circuit':>12}{'of':>12}"
        for file in self.files:
            cells = ("?" if number is None else f"{number:,}" for number in (file.listed, file.kept, file.of))
            yield f"{file.path:{width}}" + "".join(f"{cell:>12}" for cell in cells)
        yield ""
        for finding in self.findings:
            yield f"{finding.level:8} {finding.where}: {finding.message}"
        errors = sum(finding.level == "error" for finding in self.findings)
        warnings = len(self.findings) - errors
        yield f"{len(self.kinds)} pairs, {errors} errors, {warnings} warnings" + (
            "" if errors else ": it can be loaded"
        )


def check_submission(folder: Path) -> SubmissionCheck:
    """Check a submission's folder.

    Raises:
        OptionError: it is not a folder.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder; give the one with a sub-folder for each pair")
    files: list[CheckedFile] = []
    findings: list[Finding] = []
    kinds: dict[str, str] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name not in PAIRS:
            findings.append(Finding("error", place.name, _not_a_pair(place.name)))
        kinds[place.name] = _check_pair(place, folder, files, findings)
    findings += _of_all(kinds)
    return SubmissionCheck(folder, kinds, files, findings)


def _not_a_pair(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, PAIRS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"the benchmark has no such pair and passes over this folder{hint}; it has {', '.join(PAIRS)}"


def _of_all(kinds: Mapping[str, str]) -> Iterator[Finding]:
    known = [name.partition("_") for name in kinds if name in PAIRS]
    if not known:
        yield Finding("error", ".", "no folder is a pair of the benchmark, so nothing would be evaluated")
    for count, word in ((len({task for task, _, _ in known}), "task"), (len({m for _, _, m in known}), "model")):
        if count == 1:
            yield Finding("warning", ".", f"only 1 {word}; the leaderboard asks for at least 2")


def _check_pair(place: Path, root: Path, files: list[CheckedFile], findings: list[Finding]) -> str:
    """Check a pair's folder, including its sub-folders for CMD and CPR, and return its kind."""
    halves = [path for path in sorted(place.iterdir()) if path.is_dir() and _is_half(path.name)]
    others = [path for path in sorted(place.iterdir()) if path.is_dir() and path not in halves]
    unseen = "the evaluator does not look into this folder"
    findings += [Finding("warning", str(path.relative_to(root)), unseen) for path in others]
    if len(halves) == 1:
        findings.append(Finding("error", place.name, "one sub-folder of abs-true and abs-false; give both, or none"))
    kinds = [_check_files(path, place.name, root, files, findings) for path in halves or [place]]
    return kinds[0] if len(set(kinds)) == 1 else "mixed"


def _is_half(name: str) -> bool:
    return "abs" in name.lower() and any(word in name.lower() for word in ("true", "false"))


def _check_files(place: Path, pair: str, root: Path, files: list[CheckedFile], findings: list[Finding]) -> str:
    """Check the files of one folder, and return its kind."""
    where = str(place.relative_to(root))
    paths = [path for path in sorted(place.iterdir()) if path.is_file()]
    circuits = [path for path in paths if path.suffix in CIRCUIT_SUFFIXES]
    strange = [str(path.relative_to(root)) for path in paths if path not in circuits]
    findings += [Finding("warning", name, "neither .json nor .pt, so it is passed over") for name in strange]
    if not 1 <= len(circuits) <= 9:
        message = f"{len(circuits)} circuit files; give 1 (importances) or 2 to 9 (circuits)"
        findings.append(Finding("error", where, message))
    single = len(circuits) == 1
    read = [_check_file(path, pair, single, root, findings) for path in circuits]
    files += read
    if len(circuits) > 1:
        findings += _of_sizes(where, read)
    return "nothing" if not circuits else "importances" if single else "circuits"


def _of_sizes(where: str, read: Sequence[CheckedFile]) -> Iterator[Finding]:
    """Check the sizes: the evaluator sorts circuits by size and assigns the n-th to the n-th share, even if it is too large."""
    if len(read) < len(FRACTIONS):
        yield Finding(
            "warning",
            where,
            f"{len(read)} circuits: the evaluator puts them at the first {len(read)} of nine shares; give all nine",
        )
    known = sorted((file.kept, file.of, file.path) for file in read if file.kept is not None and file.of is not None)
    if len(known) < len(read):
        return
    for fraction, (kept, of, path) in zip(FRACTIONS, known, strict=False):
        if kept > largest(fraction, of):
            most = largest(fraction, of)
            yield Finding("error", path, f"{kept:,} edges; at {100 * fraction:g} % of {of:,} it may have {most:,}")


def _check_file(path: Path, pair: str, single: bool, root: Path, findings: list[Finding]) -> CheckedFile:
    """Check one circuit file."""
    where = str(path.relative_to(root))
    if path.suffix == ".pt":
        message = "a .pt file is pickled, which is not read here: it is not checked"
        findings.append(Finding("warning", where, message))
        return CheckedFile(where, None, None, None)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        graph = _graph_of(values, pair)
    except (OSError, ValueError, CircuitfindError) as error:
        findings.append(Finding("error", where, str(error)))
        return CheckedFile(where, None, None, None)
    edges = values["edges"]
    findings += [Finding("error", where, message) for message in _of_nodes(values["nodes"], graph)]
    findings += [Finding(level, where, message) for level, message in _of_edges(edges, graph, single)]
    kept = sum(1 for edge in edges.values() if isinstance(edge, Mapping) and edge.get("in_graph") is True)
    return CheckedFile(where, len(edges), kept, graph.n_edges)


def _graph_of(values: Any, pair: str) -> ComputationGraph:
    """The graph of a file.

    Raises:
        OptionError: keys are missing, or it is not the graph of the pair's model.
    """
    missing = [key for key in ("cfg", "nodes", "edges") if not isinstance(values, dict) or key not in values]
    if missing:
        raise OptionError(f"lacks {', '.join(missing)}")
    for key in ("cfg", "nodes", "edges"):
        if not isinstance(values[key], dict):
            raise OptionError(f"{key} is not an object of names")
    cfg = values["cfg"]
    if missing := [key for key in CFG if key not in cfg]:
        raise OptionError(f"cfg lacks {', '.join(missing)}")
    if not all(isinstance(cfg[key], int) and cfg[key] > 0 for key in ("n_layers", "n_heads", "d_model")):
        raise OptionError("cfg: n_layers, n_heads and d_model must be whole numbers above 0")
    model = MODELS.get(pair.partition("_")[2])
    wanted = model and (model.n_layers, model.n_heads, False, model.d_model)
    if wanted and tuple(cfg[key] for key in CFG) != wanted:
        raise OptionError(f"cfg is {dict(cfg)}, and the pair's model has {dict(zip(CFG, wanted, strict=True))}")
    return ComputationGraph(cfg["n_layers"], cfg["n_heads"], True, bool(cfg["parallel_attn_mlp"]))


def _of_nodes(nodes: Mapping[str, Any], graph: ComputationGraph) -> Iterator[str]:
    known = {graph.node_name(node) for node in range(graph.n_nodes)}
    if strange := [name for name in nodes if name not in known]:
        yield f"nodes that the model does not have: {_some(strange)}"
    if unmarked := [name for name, node in nodes.items() if not isinstance(node, Mapping) or "in_graph" not in node]:
        yield f"nodes without in_graph: {_some(unmarked)}"


def _of_edges(edges: Mapping[str, Any], graph: ComputationGraph, single: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with the edges; importances need a finite score for each."""
    strange, unmarked, unscored = [], [], []
    for name, edge in edges.items():
        try:
            graph.edge_index(name)
        except CircuitfindError:
            strange.append(name)
        if not isinstance(edge, Mapping) or not isinstance(edge.get("in_graph"), bool):
            unmarked.append(name)
        elif single and not _is_number(edge.get("score")):
            unscored.append(name)
    if strange:
        yield "error", f"edges that the model does not have: {_some(strange)}"
    if unmarked:
        yield "error", f"edges without in_graph: true or false: {_some(unmarked)}"
    if unscored:
        yield "error", f"edges without a finite score: {_some(unscored)}"
    if single and not strange and len(edges) < graph.n_edges:
        yield "warning", f"{graph.n_edges - len(edges):,} of {graph.n_edges:,} edges are not listed, and get score 0"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
