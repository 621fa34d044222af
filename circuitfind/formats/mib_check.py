"""Check a MIB submission before it is submitted: everything its loader requires, and what it silently ignores.

The rules are taken from the code of the benchmark's evaluator: it can load every file that passes here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.formats.eap_ig import graph_from
from circuitfind.formats.eap_ig_pt import read_graph
from circuitfind.formats.mib import ABSOLUTE, FRACTIONS, LEVELS, MODELS, PAIRS, largest
from circuitfind.formats.mib_walk import BOTH, CMD, CPR, Visited, folders_of, is_half
from circuitfind.graph import ComputationGraph, Floats

CFG = ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")
CIRCUIT_SUFFIXES = (".json", ".pt")
MEASURES = (CMD, CPR, BOTH)
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
        kinds: the kind of each pair's folder, by its place: ``importances``, ``circuits`` or ``nothing``.
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
        yield f"{len(self.kinds)} folders of pairs, {errors} errors, {warnings} warnings" + (
            "" if errors else ": it can be loaded"
        )


def check_submission(folder: Path, level: str = "edge") -> SubmissionCheck:
    """Check a submission's folder.

    Args:
        level: what the submission will be evaluated as: ``edge`` or ``node``.

    Raises:
        OptionError: it is not a folder, or there is no such level.
    """
    if level not in LEVELS:
        raise OptionError(f"level {level!r}: use one of {', '.join(LEVELS)}")
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder; give the one with a sub-folder for each pair")
    files: list[CheckedFile] = []
    findings: list[Finding] = []
    kinds: dict[str, str] = {}
    found = list(folders_of(folder))
    for one in found:
        where = str(one.path.relative_to(folder))
        if not one.pair:
            findings.append(Finding("error", where, _not_a_pair(one.path.name)))
        elif one.path.name != one.pair:
            findings.append(Finding("warning", where, f"this name is evaluated as {one.pair}"))
        kinds[where] = _check_pair(_Place(one.path, folder, one.pair or one.path.name, level), files, findings)
    findings += [*_of_measures(found, folder), *_of_all({one.pair for one in found if one.pair})]
    return SubmissionCheck(folder, kinds, files, findings)


@dataclass(frozen=True)
class _Place:
    """The folder of a pair, the submission it is in, the pair's name and the level that it is evaluated at."""

    path: Path
    root: Path
    pair: str
    level: str

    def name(self, path: Path) -> str:
        """A path as messages show it."""
        return str(path.relative_to(self.root))


def _not_a_pair(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, PAIRS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"the benchmark has no such pair and passes over this folder{hint}; it has {', '.join(PAIRS)}"


def _of_measures(found: Sequence[Visited], root: Path) -> Iterator[Finding]:
    """Each pair is evaluated once for each of the two measures."""
    for pair in sorted({one.pair for one in found if one.pair}):
        places = {
            measure: [one.path for one in found if (one.pair, one.measure) == (pair, measure)] for measure in MEASURES
        }
        for measure, other in ((CMD, CPR), (CPR, CMD)):
            named = [str(path.relative_to(root)) for path in (*places[measure], *places[BOTH])]
            if len(named) > 1:
                yield Finding("error", named[1], f"{pair} is evaluated for {measure} here and in {named[0]}; keep one")
            elif not named:
                half = ABSOLUTE[measure == CMD]
                yield Finding("error", pair, f"evaluated for {other} only; {half}/{pair} is missing")


def _of_all(pairs: Iterable[str]) -> Iterator[Finding]:
    known = [name.partition("_") for name in pairs]
    if not known:
        yield Finding("error", ".", "no folder is a pair of the benchmark, so nothing would be evaluated")
    for count, word in ((len({task for task, _, _ in known}), "task"), (len({m for _, _, m in known}), "model")):
        if count == 1:
            yield Finding("warning", ".", f"only 1 {word}; the leaderboard asks for at least 2")


def _check_pair(at: _Place, files: list[CheckedFile], findings: list[Finding]) -> str:
    """Check a pair's folder, and return its kind."""
    where = at.name(at.path)
    folders = sorted(path for path in at.path.iterdir() if path.is_dir())
    findings += [Finding(*_of_folder(at, path)) for path in folders]
    paths = [path for path in sorted(at.path.iterdir()) if path.is_file()]
    circuits = [path for path in paths if path.suffix in CIRCUIT_SUFFIXES]
    strange = [at.name(path) for path in paths if path not in circuits]
    findings += [Finding("warning", name, "neither .json nor .pt, so it is passed over") for name in strange]
    if not 1 <= len(circuits) <= 9:
        message = f"{len(circuits)} circuit files; give 1 (importances) or 2 to 9 (circuits)"
        findings.append(Finding("error", where, message))
    single = len(circuits) == 1
    read = [_check_file(path, at, single, findings) for path in circuits]
    files += read
    if len(circuits) > 1:
        findings += _of_sizes(where, read)
    return "nothing" if not circuits else "importances" if single else "circuits"


def _of_folder(at: _Place, path: Path) -> tuple[str, str, str]:
    """What is wrong with a folder inside a pair's: level, place and message."""
    if is_half(path.name):
        right = f"{path.name}/{at.path.name}"
        return (
            "error",
            at.name(path),
            f"the evaluator does not look into the folders of a pair: move this one to {right}",
        )
    if any(file.suffix in CIRCUIT_SUFFIXES for file in path.rglob("*")):
        return (
            "error",
            at.name(path),
            "the evaluator does not look into this folder, but counts it as a circuit; move it away",
        )
    return "warning", at.name(path), "the evaluator does not look into this folder"


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


def _check_file(path: Path, at: _Place, single: bool, findings: list[Finding]) -> CheckedFile:
    """Check one circuit file; one that cannot be read is an error."""
    where = at.name(path)
    try:
        if path.suffix == ".pt":
            checked, found = _check_pt(path, at, single)
        else:
            checked, found = _check_json(path, at, single)
    except (OSError, ValueError, CircuitfindError) as error:
        findings.append(Finding("error", where, str(error)))
        return CheckedFile(where, None, None, None)
    findings += [Finding(level, where, message) for level, message in found]
    return checked


def _check_json(path: Path, at: _Place, single: bool) -> tuple[CheckedFile, list[tuple[str, str]]]:
    values = json.loads(path.read_text(encoding="utf-8"))
    graph = _graph_of(values, at.pair)
    edges = values["edges"]
    found = [("error", message) for message in _of_nodes(values["nodes"], graph)]
    found += _of_edges(edges, graph, single and at.level == "edge", "score" if single else "")
    if single and not any(level == "error" for level, _ in found):
        read = graph_from(values)
        found += _of_level(read.nodes, bool(np.nan_to_num(read.scores).any()), at.level)
    kept = sum(1 for edge in edges.values() if isinstance(edge, Mapping) and edge.get("in_graph") is True)
    return CheckedFile(at.name(path), len(edges), kept, graph.n_edges), found


def _check_pt(path: Path, at: _Place, single: bool) -> tuple[CheckedFile, list[tuple[str, str]]]:
    read, values = read_graph(path)
    graph = _graph_of({"cfg": values["cfg"], "nodes": {}, "edges": {}}, at.pair)
    found: list[tuple[str, str]] = []
    if single and "edges_scores" not in values:
        found.append(("error", "lacks edges_scores, which importances need"))
    elif single:
        bad = np.flatnonzero(np.isnan(read.scores)).tolist() if at.level == "edge" else []
        if bad:
            found.append(("error", f"edges without a finite score: {_some(read.graph.edge_names(bad))}"))
        found += _of_level(read.nodes, bool(np.nan_to_num(read.scores).any()), at.level)
    return CheckedFile(at.name(path), graph.n_edges, int(read.kept.sum()), graph.n_edges), found


def _of_level(nodes: Floats | None, edges_scored: bool, level: str) -> Iterator[tuple[str, str]]:
    """Whether importances can be evaluated at a level."""
    if level == "edge" and nodes is not None and not edges_scored:
        yield (
            "error",
            "only nodes have scores, so it is evaluated at node level; hand it in so, and check it with --level node",
        )
    if level == "node" and nodes is None:
        yield "error", "no node has a score, so it cannot be evaluated at node level"
    if level == "node" and nodes is not None and (unscored := int(np.isnan(nodes).sum())):
        yield "warning", f"{unscored:,} nodes have no score, and are in every circuit"


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


def _of_edges(
    edges: Mapping[str, Any], graph: ComputationGraph, ranked: bool, needed: str
) -> Iterator[tuple[str, str]]:
    """What is wrong with the edges.

    Args:
        ranked: they are ranked, so each needs a finite score.
        needed: a key that every edge needs, whatever its value; "" for none.
    """
    strange, unmarked, unscored = [], [], []
    for name, edge in edges.items():
        try:
            graph.edge_index(name)
        except CircuitfindError:
            strange.append(name)
        if not isinstance(edge, Mapping) or not isinstance(edge.get("in_graph"), bool):
            unmarked.append(name)
        elif (ranked and not _is_number(edge.get("score"))) or (needed and needed not in edge):
            unscored.append(name)
    if strange:
        yield "error", f"edges that the model does not have: {_some(strange)}"
    if unmarked:
        yield "error", f"edges without in_graph: true or false: {_some(unmarked)}"
    if unscored:
        yield "error", f"edges without a {'finite ' if ranked else ''}score: {_some(unscored)}"
    if ranked and not strange and len(edges) < graph.n_edges:
        yield "warning", f"{graph.n_edges - len(edges):,} of {graph.n_edges:,} edges are not listed, and get score 0"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
