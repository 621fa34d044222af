"""What every format owes, whichever it is: a new file in ``circuitfind/formats`` is tested here at once."""

import json
from dataclasses import replace

import numpy as np
import pytest

import circuitfind as cf
from circuitfind import formats
from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.formats import FORMATS, Contents, Format, Importances, OnDisk, load_circuit, read, write
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import best_edges

GRAPHS = {
    "plain": ComputationGraph(2, 3),
    "attention only": ComputationGraph(2, 3, has_mlp=False),
    "parallel": ComputationGraph(2, 3, parallel=True),
    "groups": ComputationGraph(2, 4, n_kv_groups=2),
    "whole attention": ComputationGraph(3, 1, whole_attention=True),
}
GIVEN = {"d_model": 8, "n_heads": 3, "pair": "ioi_small", "circuits": None, "level": "edge", "force": False}
SPLIT = {"eap-ig", "mib", "autocircuit"}
"""Formats that have a node for each head and a port for each of its q, k and v."""
every = pytest.mark.parametrize("format_", list(FORMATS), ids=lambda one: one.name)
written = pytest.mark.parametrize(
    "format_", [one for one in FORMATS if one.write and one.read], ids=lambda one: one.name
)


def some_scores(graph: ComputationGraph, seed: int = 0) -> EdgeScores:
    known = Provenance(task="ioi", model="small", metric="nll", ablation="corrupted", algorithm="eap", seed=seed)
    return EdgeScores(graph, np.random.default_rng(seed).normal(size=graph.n_edges), known)


def full(graph: ComputationGraph) -> Contents:
    """A circuit and the scores that it was chosen by."""
    scores = some_scores(graph)
    return replace(Contents.of(scores), circuit=best_edges(scores, graph.n_edges // 5))


def file_of(format_: Format, folder, what=None, **changes):
    """A file, or a folder, of that format."""
    given = {name: GIVEN[name] for name in (*format_.needs, *format_.options)}
    path = folder / f"file{next(iter(format_.suffixes), '')}"
    return write(what or full(GRAPHS["plain"]), path, format_.name, **given | changes)


def file_or_refusal(format_: Format, folder, what: Contents):
    """The file, or what the format says of contents that it cannot hold."""
    try:
        return file_of(format_, folder, what), ""
    except OptionError as error:
        return None, str(error)


def run_folder(folder):
    """What a run leaves."""
    found = full(GRAPHS["plain"])
    folder.mkdir()
    found.circuit.save(folder / "circuit.json")
    found.importances.scores.save(folder / "scores.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": "small", "task": "ioi"}))
    return folder


# --- what it is -------------------------------------------------------------------------------------------------------


@every
def test_the_name_is_the_file_stem_with_dashes_and_it_says_what_it_is(format_):
    function = format_.read or format_.write
    assert function.__module__ == f"{formats.__name__}.{format_.name.replace('-', '_')}"
    assert format_.description
    assert (format_.sniff is None) == (format_.read is None)
    assert all(suffix.startswith(".") for suffix in format_.suffixes)


# --- what is written is recognised and read ---------------------------------------------------------------------------


@written
def test_what_is_written_is_recognised_by_its_own_format_alone(format_, tmp_path):
    place = OnDisk(file_of(format_, tmp_path))
    assert [one.name for one in FORMATS if one.sniff and one.sniff(place)] == [format_.name]


@written
@pytest.mark.parametrize("shape", GRAPHS)
def test_the_same_edges_and_scores_are_read_back(format_, shape, tmp_path):
    graph = GRAPHS[shape]
    what = full(graph)
    n_heads = {"n_heads": graph.n_heads * (3 if graph.whole_attention else 1)} if "n_heads" in format_.needs else {}
    again = read(file_of(format_, tmp_path, what, **n_heads))
    assert again.circuit is not None or again.importances is not None
    if format_.name in SPLIT and shape in ("groups", "whole attention"):
        assert again.graph == replace(graph, n_kv_groups=0, whole_attention=False, n_heads=n_heads["n_heads"])
        return
    if again.circuit is not None:
        assert again.circuit.graph == graph
        assert (again.circuit.kept == what.circuit.kept).all()
        at = again.circuit.kept
        assert (again.circuit.scores[at] == what.circuit.scores[at]).all()
    if again.importances is not None:
        assert again.importances.scores.graph == graph
        assert again.importances.scores.values.tobytes() == what.importances.scores.values.tobytes()
        assert not again.importances.unscored.any()


@written
def test_a_circuit_without_scores_is_held_or_refused(format_, tmp_path):
    kept = full(GRAPHS["plain"]).circuit.kept
    bare = Contents.of(Circuit(GRAPHS["plain"], kept))
    path, refusal = file_or_refusal(format_, tmp_path, bare)
    if path is None:
        assert "scores of all edges" in refusal
        return
    again = read(path)
    assert (again.circuit.kept == kept).all()
    assert again.importances is None


@written
def test_edges_without_a_score_stay_so_or_are_refused(format_, tmp_path):
    scores = some_scores(GRAPHS["plain"])
    unscored = np.arange(GRAPHS["plain"].n_edges) % 7 == 3
    marked = Importances(replace(scores, values=np.where(unscored, 0.0, scores.values)), unscored)
    path, refusal = file_or_refusal(format_, tmp_path, Contents.of(marked))
    if path is None:
        assert any(word in refusal for word in ("a score for every edge", "only scores"))
        return
    again = read(path).importances
    assert (again.unscored == unscored).all()
    assert (again.scores.values == marked.scores.values).all()


@written
def test_parts_of_prompts_are_held_or_refused(format_, tmp_path):
    layout = Layout(("subject", "rest"), np.array([[True, False], [True, True]]), np.array([False, True]))
    scores = np.random.default_rng(0).normal(size=(2, GRAPHS["plain"].n_edges))
    parted = Circuit(GRAPHS["plain"], scores > 1, np.where(scores > 1, scores, 0), layout=layout)
    path, refusal = file_or_refusal(format_, tmp_path, Contents.of(parted))
    if path is None:
        assert any(word in refusal for word in ("without parts of prompts", "scores of all edges"))
        return
    again = load_circuit(path)
    assert again.layout.labels == layout.labels
    assert (again.kept == parted.kept).all()
    assert (again.scores == parted.scores).all()


@pytest.mark.parametrize("format_", [one for one in FORMATS if one.write and not one.read], ids=lambda one: one.name)
def test_what_cannot_be_read_back_is_written_and_refused_as_input(format_, tmp_path):
    path = file_of(format_, tmp_path)
    assert path.stat().st_size > 100
    with pytest.raises(CircuitError, match=path.name):
        read(path)


# --- what is broken ---------------------------------------------------------------------------------------------------


@written
@pytest.mark.parametrize("damage", ["empty", "half", "missing"])
def test_a_damaged_file_is_refused_by_name(format_, damage, tmp_path):
    path = file_of(format_, tmp_path)
    files = [path] if path.is_file() else [inside for inside in path.rglob("*") if inside.is_file()]
    for file in files:
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(CircuitError, match=path.name):
        read(path)


# --- ours and theirs --------------------------------------------------------------------------------------------------


def test_a_run_folder_and_each_file_in_it_hold_the_same_and_the_runs_settings(tmp_path):
    folder = run_folder(tmp_path / "run")
    for path in (folder, folder / "circuit.json", folder / "scores.safetensors"):
        found = read(path)
        assert found.importances.scores.values.tobytes() == some_scores(GRAPHS["plain"]).values.tobytes()
        assert found.settings == {"model": "small", "task": "ioi"}
        assert (found.circuit is None) == (path.name == "scores.safetensors")
    (folder / "pairs.jsonl").write_text("")
    assert read(folder).settings["task"] == str(folder / "pairs.jsonl")


def test_autocircuits_tensors_have_the_shapes_and_names_of_its_patch_masks(tmp_path):
    """Held against the rules of its own source: masks are (heads, earlier senders), counted as it counts layers."""
    from safetensors.numpy import load_file, save_file

    graph = GRAPHS["plain"]
    tensors = load_file(file_of(FORMATS["autocircuit"], tmp_path))
    senders = ["input", "a0.h0", "a0.h1", "a0.h2", "m0", "a1.h0", "a1.h1", "a1.h2", "m1"]
    values = some_scores(graph).values
    for layer in range(2):
        for port in "qkv":
            mask = tensors[f"blocks.{layer}.hook_{port}_input"]
            assert mask.shape == (3, 1 + 4 * layer)
            for head in range(3):
                names = [f"{sender}->a{layer}.h{head}<{port}>" for sender in senders[: mask.shape[1]]]
                assert mask[head].tolist() == [values[graph.edge_index(name)] for name in names]
        mlp = tensors[f"blocks.{layer}.hook_mlp_in"]
        assert mlp.tolist() == [values[graph.edge_index(f"{s}->m{layer}")] for s in senders[: 4 + 4 * layer]]
    assert tensors["blocks.1.hook_resid_post"].shape == (9,)
    for name, change, message in (
        ("blocks.0.hook_q_input", lambda mask: mask[None], "positions of tokens"),
        ("blocks.1.hook_mlp_in", lambda mask: mask[:-1], "blocks.1.hook_mlp_in is missing, or of another shape"),
        ("blocks.0.hook_mlp_in", lambda mask: mask * np.nan, "NaN"),
    ):
        save_file({**tensors, name: np.ascontiguousarray(change(tensors[name]))}, tmp_path / "changed.safetensors")
        with pytest.raises(CircuitError, match=message):
            read(tmp_path / "changed.safetensors")
    joint = {name.replace("q_input", "attn_in"): mask for name, mask in tensors.items()}
    save_file(joint, tmp_path / "joint.safetensors")
    with pytest.raises(CircuitError, match="separate_qkv=True"):
        read(tmp_path / "joint.safetensors")


def test_scores_of_nodes_come_back_from_eap_ig(tmp_path):
    scores = some_scores(GRAPHS["plain"])
    nodes = np.arange(scores.graph.n_senders, dtype=float)
    path = file_of(FORMATS["eap-ig"], tmp_path, Contents.of(replace(scores, nodes=nodes)))
    again = read(path).importances
    assert again.nodes.tolist() == nodes.tolist()
    assert again.select("nodes", 3).nodes == ["input", "a1.h1", "a1.h2", "m1", "logits"]


@pytest.mark.parametrize("name", ["node-link", "graphml"])
def test_a_graph_edited_elsewhere_is_read_with_its_new_edges(name, tmp_path):
    import networkx

    graph = full(GRAPHS["groups"]).circuit.to_networkx()
    graph.remove_edges_from([edge for edge in graph.edges(keys=True) if edge[2] == "q"])
    before = Circuit.from_networkx(graph)
    path = write(before, tmp_path / "graph", name)
    if name == "graphml":
        again = networkx.read_graphml(path, force_multigraph=True)
        again.add_edge("input", "m1")
        networkx.write_graphml_xml(again, path)
    else:
        values = json.loads(path.read_text())
        values["edges"].append({"source": "input", "target": "m1", "key": ""})
        path.write_text(json.dumps(values))
    wanted = before.kept.copy()
    wanted[before.graph.edge_index("input->m1")] = True
    assert (load_circuit(path).kept == wanted).all()


def test_an_unknown_format_and_an_unknown_option_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown format 'graphlm'\. Did you mean 'graphml'"):
        write(full(GRAPHS["plain"]), tmp_path / "x", "graphlm")
    with pytest.raises(OptionError, match="format dot takes no d_model"):
        write(full(GRAPHS["plain"]), tmp_path / "x", "dot", d_model=8)
    with pytest.raises(OptionError, match="run-folder can be read but not written"):
        write(full(GRAPHS["plain"]), tmp_path / "x", "run-folder")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    """The command line beside a run folder of a shipped model."""
    from circuitfind.run.pipeline import RunConfig
    from circuitfind.run.pipeline import run as make

    monkeypatch.chdir(tmp_path)
    setting = cf.Setting("ioi", n=4, n_held_out=4)
    make(setting, RunConfig(algorithm="eap", n_random=1, rule="top", value=60), tmp_path / "run")
    return command_line


def test_a_run_is_exported_in_every_format_and_used_from_it_again(run, tmp_path):
    for one in FORMATS:
        if one.write is None or one.name == "mib":
            continue
        file = f"out-{one.name}{one.suffixes[0]}"
        code, out, err = run("export", "run", file, "--to", one.name, "--json")
        assert (code, json.loads(out)) == (0, {"file": file}), err
        if one.read is None:
            continue
        words = ("--edges", "60") if read(tmp_path / file).circuit is None else ()
        code, _, err = run("render", file, "picture.dot", *words)
        assert code == 0, err
        assert "60 of 1,519 edges" in (tmp_path / "picture.dot").read_text()
        if not words:
            assert json.loads(run("compare", "run", file, "--json")[1])["edges"]["jaccard"] == 1
    code, out, _ = run("formats", "--json")
    assert json.loads(out)["graphml"]["written"]
    assert "out-x" not in out
    code, _, err = run("export", "run/scores.safetensors", "x.graphml", "--to", "graphml")
    assert (code, "there are only scores here" in err) == (2, True)
