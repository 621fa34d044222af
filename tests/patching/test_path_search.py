"""The search by path patching, roles of heads, trees, and the command line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import FEW_SHAPES, SHAPES, TIGHT, random_pairs, small_model
from naive import members
from naive_paths import patched_logits
from short_paths import METRIC, measured, runs_of, short_pairs

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.evaluation import head_roles
from circuitfind.execution.recompute.paths.top_down import PathVisit
from circuitfind.graph import ComputationGraph
from circuitfind.progress import Checkpoint

TASK = cf.Task("words", "", "", "", "", "logit-diff", propose=lambda rng: None)


def naive_search(model, pairs, least, ablation):
    """Kept edges and the effect of every measured one: each by a run of its own along the written-out kept paths."""
    graph = model.graph
    _, clean, ablated = runs_of(model, pairs, ablation)
    before = np.array([measured(pairs, row, patched_logits(model, set(), clean[row], {})) for row in range(len(pairs))])
    above = {"logits": [()]}  # kept ways from a node to the logits, as tails
    kept, effects = set(), {}
    for block in reversed(graph.blocks):
        found = {}
        for receiver in graph.receiver_names[block.first_receiver : block.first_receiver + block.n_receivers]:
            owner, _, port = receiver.rstrip(">").partition("<")
            ways = [((node, port), *tail) for node in members(model.config, owner) for tail in above.get(node, [])]
            for sender in graph.sender_names[: block.n_senders] if ways else ():
                paths = {(sender, way) for way in ways}
                runs = [patched_logits(model, paths, *row) for row in zip(clean, ablated, strict=True)]
                effect = (before - [measured(pairs, *row) for row in enumerate(runs)]).mean()
                effects[f"{sender}->{receiver}"] = effect
                if abs(effect) >= least:
                    kept.add(f"{sender}->{receiver}")
                    found.setdefault(sender, []).extend(ways)
        for sender, ways in found.items():
            above.setdefault(sender, []).extend(ways)
    return kept, effects


@pytest.mark.parametrize("shape", [*FEW_SHAPES, "llama-groups", "bare-blocks"])
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_the_search_is_the_plain_search(shape, ablation):
    model = small_model(**SHAPES[shape])
    pairs, least = short_pairs(model, longest=3), 0.15
    problem = Problem(model, pairs, METRIC, ablation)
    scores = ALGORITHMS["path-patching"](problem, threshold=least)
    kept, effects = naive_search(model, pairs, least, ablation)
    names = model.graph.edge_names()
    assert {name for name, chosen in zip(names, scores.chosen, strict=True) if chosen} == kept
    np.testing.assert_allclose(scores.values, [effects.get(name, 0.0) for name in names], **TIGHT)
    assert 0 < len(kept) < len(effects)


def test_a_share_is_of_the_whole_difference():
    model = small_model()
    pairs = random_pairs(model)
    run = ALGORITHMS["path-patching"]
    total = cf.path_patch(model, TASK, "input -> * -> logits", pairs=pairs).mean
    by_share = run(Problem(model, pairs, METRIC), share=0.1)
    by_size = run(Problem(model, pairs, METRIC), threshold=0.1 * abs(total))
    assert (by_share.chosen == by_size.chosen).all()
    assert (by_share.values == by_size.values).all()
    alike = replace(pairs, corrupted=pairs.clean)
    with pytest.raises(OptionError, match="same mean logit-diff"):
        run(Problem(model, alike, METRIC))
    for options in ({"share": -1}, {"threshold": float("nan")}, {"share": 0}):
        with pytest.raises(OptionError):
            run.resolve(options)


def test_an_interrupted_search_goes_on_where_it_was(tmp_path, monkeypatch):
    model = small_model()
    problem = Problem(model, random_pairs(model), METRIC, batch_size=2)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    whole, done, original = ALGORITHMS["path-patching"](problem), [], PathVisit.summed_effects

    def counted(visit, batch, stop=None):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(batch)
        return original(visit, batch)

    checkpoint = Checkpoint(tmp_path / "sums.safetensors", "this run")
    monkeypatch.setattr(PathVisit, "summed_effects", lambda visit, batch: counted(visit, batch, 5))
    with pytest.raises(KeyboardInterrupt):
        ALGORITHMS["path-patching"](replace(problem, checkpoint=checkpoint))
    done.clear()
    monkeypatch.setattr(PathVisit, "summed_effects", counted)
    resumed = ALGORITHMS["path-patching"](replace(problem, checkpoint=checkpoint))
    assert len(done) == 3 * len(model.graph.blocks) - 5
    assert (resumed.values == whole.values).all()
    assert (resumed.chosen == whole.chosen).all()
    assert not checkpoint.path.exists()


def test_it_finds_that_a_previous_token_head_feeds_the_keys_of_induction_heads(induction):
    roles = induction.roles.by_head()
    assert "previous token" in [role.label for role in roles["a0.h5"].attention]
    keys = [row for row in induction.circuit.edges if row["source"] == "a0.h5"]
    assert len(keys) >= 3
    assert all(row["port"] == "k" and row["score"] > 0 for row in keys)
    assert all("induction" in [role.label for role in roles[row["target"]].attention] for row in keys)
    assert "a0.h5->a1.h6<k>" in induction.circuit


def test_roles_are_means_of_attention(induction):
    """Summed place by place, prompt by prompt."""
    from circuitfind.transformer import attention_patterns

    model, pairs = induction.model, induction.pairs.take(range(6))
    roles = head_roles(model, pairs, batch_size=4, threshold=0)
    sums = {label: [] for label in ("previous token", "duplicate token", "induction", "END -> B1")}
    even = []
    for row, stop in enumerate(pairs.length.tolist()):
        tokens = pairs.clean[row, :stop].tolist()
        seen = torch.stack(list(attention_patterns(model, torch.tensor([tokens]))))[:, :, 0]
        labels = pairs.text[row].labels
        place = {name: len(model.tokenizer.encode(pairs.text[row].clean[:end])) - 1 for name, end in labels.items()}
        sums["END -> B1"].append(seen[:, :, place["END"], place["B1"]])
        for query in range(1, stop):
            sums["previous token"].append(seen[:, :, query, query - 1])
            earlier = [key for key in range(query) if tokens[key] == tokens[query]]
            if earlier:
                sums["duplicate token"].append(sum(seen[:, :, query, key] for key in earlier))
            if after := [key + 1 for key in earlier if key + 1 < query]:
                sums["induction"].append(sum(seen[:, :, query, key] for key in after))
        even += [1 / (query + 1) for query in range(1, stop)]
    assert roles.even[0] == pytest.approx(np.mean(even))
    assert (roles.least == 2 * roles.even).all()
    for label, rows in sums.items():
        found = roles.shares[roles.labels.index(label)]
        np.testing.assert_allclose(found, torch.stack(rows).mean(0), atol=1e-6)


@pytest.mark.parametrize("shape", ["gemma2", "qwen3", "bloom"])
def test_roles_need_no_labels_and_no_separate_heads(shape):
    model = small_model(**SHAPES[shape])
    roles = head_roles(model, random_pairs(model, 6, longest=9), threshold=0)
    assert roles.labels[0] == "previous token"
    assert set(roles.labels) <= {"previous token", "duplicate token", "induction"}
    assert roles.shares.shape[1:] == (model.config.n_layers, model.config.n_heads)
    assert ((roles.shares >= 0) & (roles.shares <= 1 + 1e-9)).all()
    with pytest.raises(OptionError, match="threshold 2"):
        head_roles(model, random_pairs(model), threshold=2)


def test_a_head_below_the_threshold_has_no_role(induction):
    def classed(roles):
        return {name for name, head in roles.by_head().items() if head.attention}

    assert set() < classed(replace(induction.roles, threshold=0.9999)) < classed(induction.roles)
    none = replace(induction.roles, threshold=1.0)
    assert classed(none) == set()
    assert all(text.startswith("no class; copying ") for text in none.texts().values())
    assert "a1.h6" in none.texts()  # without it the task is lost
    assert replace(none, effects=np.full_like(none.effects, np.nan)).by_head() == {}
    assert induction.roles.texts(1)["a0.h5"].startswith("previous token head: previous token 0.9")


def test_a_tree_lists_every_edge_once_and_the_strongest_first(induction):
    circuit = induction.circuit
    lines = cf.tree_text(circuit, {"a0.h5": "looks back"}).splitlines()
    assert lines[0] == f"logits  ({circuit.n_edges} edges)"
    assert len(lines) == 1 + circuit.n_edges
    first = max((row for row in circuit.edges if row["target"] == "logits"), key=lambda row: abs(row["score"]))
    assert lines[1] == f"├─ {first['source']}  {first['score']:+.4g}"
    a0h5 = [line for line in lines if "k: a0.h5" in line]
    assert all("looks back" in line for line in a0h5)
    assert ["(above)" in line for line in a0h5] == [False] + [True] * (len(a0h5) - 1)
    assert not any("(above)" in line for line in lines if line.endswith("input"))


def test_a_tree_of_groups_lists_a_shared_port_once():
    graph = ComputationGraph(2, 4, n_kv_groups=2)
    names = ["a1.h0->logits", "a1.h1->logits", "a0.h0->a1.kv0<k>", "input->a1.h1<q>", "input->a0.h0<q>"]
    circuit = cf.Circuit(graph, graph.mask(names))
    assert cf.tree_text(circuit).splitlines() == [
        "logits  (5 edges)",
        "├─ a1.h0",
        "│  └─ k of a1.kv0: a0.h0",
        "│     └─ q: input",
        "└─ a1.h1",
        "   ├─ q: input",
        "   └─ k of a1.kv0: (above)",
    ]
    assert cf.tree_text(cf.Circuit(graph, graph.mask([]))) == "logits  (0 edges)\n"


def test_a_run_of_path_patching_has_its_tree(tmp_path, induction):
    from runs import run

    config = {
        "task": "induction",
        "model": "induction-2l",
        "algorithm": "path-patching",
        "n": 32,
        "n_held_out": 8,
        "n_random": 1,
    }
    done = run(dict(config, options={"share": 0.05}), tmp_path / "run")
    text = (tmp_path / "run" / "tree.txt").read_text(encoding="utf-8")
    assert (done.circuit.kept == induction.circuit.kept).all()
    assert text == cf.tree_text(done.circuit, induction.roles.texts())


def test_the_command_line_prints_paths_maps_trees_and_roles(command_line, tmp_path, induction):
    induction.circuit.save(tmp_path / "circuit.json")
    few = ("--model", "induction-2l", "--prompts", "8")
    code, out, _ = command_line("path-patch", "induction", "a0.h5 -> a1.h6<k> -> logits", "a0.h6 -> logits", *few)
    assert code == 0
    assert out.splitlines()[:2] == ["a0.h5 -> a1.h6<k> -> logits", "a0.h6 -> logits"]
    code, out, _ = command_line("path-map", "induction", "a1.h6<k>", *few, "--out", tmp_path / "map.svg", "--top", "3")
    assert code == 0
    assert "a0.h5" in out.splitlines()[2]
    assert len(out.splitlines()) == 6
    assert (tmp_path / "map.svg").exists()
    code, out, _ = command_line("tree", tmp_path / "circuit.json", "--prompts", "32")
    assert (code, out) == (
        0,
        cf.tree_text(induction.circuit, induction.roles.texts()) + "roles: on 32 train prompts\n",
    )
    code, out, _ = command_line("roles", "induction", *few)
    assert code == 0
    heads = [line.split() for line in out.splitlines() if line.startswith("a")]
    sizes = [abs(float(words[-1])) for words in heads]
    assert (sizes[0], sizes) == (max(sizes), sorted(sizes, reverse=True))
    assert "\na0.h5      previous token head: previous token 0.9" in "\n" + out
    assert " heads, on 8 train prompts; a class needs a share of attention of previous token 0.41, duplicate" in out
    assert "no token of these prompts has a name" not in out
    code, _, err = command_line("path-patch", "induction", "a0.h5 -> a1.h6<k>", *few)
    assert code == 2
    assert "every path ends in 'logits'" in err
