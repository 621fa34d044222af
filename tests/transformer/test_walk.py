"""There is one loop over the layers of the plain model, and everything that runs it is a collector of that loop."""

import ast
import itertools
from pathlib import Path

import pytest
import torch
from builders import FAMILIES, few_shapes, random_pairs, small_model

from circuitfind.evaluation.full_model.head_roles import head_roles
from circuitfind.execution import AttributionPass, Writes, make_batches, prepare_ablation
from circuitfind.execution.memory import Room
from circuitfind.execution.plain_run import PlainRun
from circuitfind.execution.recompute.cuts.state import State
from circuitfind.execution.recompute.single_edge import CleanRun
from circuitfind.transformer import attention_patterns, sender_outputs, walk
from circuitfind.transformer.walk import apart, walk_into
from circuitfind.truth.siit.masked import source_run

ROOM = Path(__file__).parents[2] / "circuitfind"

PROJECT = {"project_all", "project_each", "project_node"}
ATTEND = {"attend", "attend_at", "attend_at_inputs"}
WRITE = {"merge_nodes", "write_nodes", "node_writes", "write_node"}
MLP = {"mlp_block", "mlp_in", "mlp_port", "mlp_out"}

ATTENTION_OF_THEIR_OWN = {
    "transformer/walk.py": "the walk",
    "models/checks.py": "every node reads the stream of ablated senders, to see that it writes its ablated value",
    "execution/masks/dense.py": "every port has an input of its own",
    "execution/gradients/by_masks.py": "every port has an input of its own, differentiated block by block",
    "execution/recompute/single_edge.py": "one port of one node reads something else",
    "execution/recompute/cuts/state.py": "one node at a time, where a change reaches it",
    "execution/recompute/paths/changes.py": "some nodes at a time, where a change reaches them",
    "execution/recompute/patches.py": "patched runs, from the first changed position on",
}
"""Files that project, attend and write, and why the walk does not do it for them."""

LOOPS_OF_THEIR_OWN = {
    "models/checks.py": "no block reads what the blocks before it wrote",
    "execution/masks/dense.py": "under a mask the blocks share no stream",
    "execution/masks/sparse.py": "under a mask the blocks share no stream",
    "truth/siit/masked.py": "under a mask the blocks share no stream",
    "execution/optimal.py": "at every block further runs branch off and go on beside the others",
}
"""Files that go over layers or blocks and run nodes there, and why this is not a plain run."""


def calls(tree) -> set[str]:
    return {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def loops(tree):
    """Loops over layers or blocks, comprehensions too."""
    for node in ast.walk(tree):
        over = [node.iter] if isinstance(node, ast.For) else [part.iter for part in getattr(node, "generators", ())]
        if any("n_layers" in (text := ast.unparse(one)) or "graph.blocks" in text for one in over):
            yield node


def sources():
    for path in sorted(ROOM.rglob("*.py")):
        yield path.relative_to(ROOM).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_only_the_walk_projects_attends_and_writes():
    found = {name for name, tree in sources() if all(calls(tree) & part for part in (PROJECT, ATTEND, WRITE))}
    assert found == set(ATTENTION_OF_THEIR_OWN)


def test_only_the_walk_runs_layer_after_layer():
    nodes = ATTEND | WRITE | MLP | {"layer_range"}
    found = {name for name, tree in sources() if any(calls(loop) & nodes for loop in loops(tree))}
    assert found == set(LOOPS_OF_THEIR_OWN)


# ---------------------------------------------------------------- the walk


@pytest.fixture
def batch(model, pairs):
    return make_batches(model, pairs, len(pairs))[0]


@pytest.fixture
def blocks(model, batch):
    return list(walk(model, model.embed(batch.clean)))


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_it_comes_to_every_block_in_order(model, batch, blocks):
    assert tuple(at.block for at in blocks) == model.graph.blocks
    for before, at in itertools.pairwise(blocks):
        beside = model.config.parallel and at.block.kind == "mlp"
        equal(at.stream, before.stream if beside else before.after)
        if before.block.kind == "attention" or not model.config.parallel:
            equal(before.after, before.stream + before.written)
    equal(model.unembed(blocks[-1].stream), model.logits(batch.clean))


def test_from_any_block_on_it_is_the_same_walk(model, blocks):
    for number, first in enumerate(blocks):
        if first.block.kind == "mlp" and model.config.parallel:
            with pytest.raises(ValueError, match="beside the attention"):
                next(walk(model, first.stream, first.block))
            continue
        again = list(walk(model, first.stream, first.block))
        assert len(again) == len(blocks) - number
        for ours, theirs in zip(again, blocks[number:], strict=True):
            for part in ("stream", "after", "written", "mixed", "ports"):
                equal(getattr(ours, part), getattr(theirs, part))
        for last in range(number, len(blocks)):
            assert len(list(walk(model, first.stream, first.block, blocks[last].block))) == last - number


def test_every_way_to_add_writes_gives_the_same_run(model, batch, blocks):
    entry = model.embed(batch.clean)
    room = entry.new_empty((model.graph.n_senders, *entry.shape))
    for at, each, filled in zip(blocks, walk(model, entry, add=apart), walk_into(room, model, entry), strict=True):
        close(each.after, at.after)
        close(filled.after, at.after)
        if at.block.kind == "attention":
            close(room[model.graph.heads(at.block.layer)], each.written)


def test_an_mlps_port_gives_what_it_writes(model, batch, blocks):
    for at, plain in zip(walk(model, model.embed(batch.clean), mlp_ports=True), blocks, strict=True):
        close(at.written, plain.written)
        if at.block.kind == "mlp":
            assert not plain.ports
            close(model.mlp_out(at.block.layer, model.mlp_core(at.block.layer, at.ports[0])), at.written)


def test_what_is_kept_of_a_port_is_what_is_used(model, batch):
    for at in walk(model, model.embed(batch.clean), keep=torch.zeros_like):
        if at.block.kind == "attention":
            assert not any(port.any() for port in at.ports)
            assert not at.mixed.any()


# ---------------------------------------------------------------- its collectors


def of_kind(blocks, kind):
    return [at for at in blocks if at.block.kind == kind]


def test_layers_in_a_row_are_a_walk(model, blocks):
    starts = [at for at in blocks if at.block.kind != "mlp"]
    for first, below in enumerate(starts):
        for last, above in enumerate(starts[first:], first):
            equal(model.layer_range(below.stream, first, last), above.stream)


def test_the_writes_of_a_run(model, batch, blocks):
    writes, run = Writes.run(model, batch.clean), PlainRun.of(model, batch.clean)
    for found in (writes, run.writes):
        mixed = [at.written[None] if model.config.post_norm else at.mixed for at in of_kind(blocks, "attention")]
        equal(found.mixed, mixed)
        equal(found.mlps, [at.written for at in of_kind(blocks, "mlp")])
    equal(run.writes.streams, [at.stream for at in blocks])
    equal(run.keys, [at.ports[1] for at in of_kind(blocks, "attention")])
    equal(run.values, [at.ports[2] for at in of_kind(blocks, "attention")])


def test_the_runs_in_the_streams_own_space(model, batch, blocks):
    ablated = prepare_ablation("corrupted", model, [batch])
    clean = CleanRun.of(model, batch, ablated.writes(batch))
    state = State(model, batch, ablated.writes(batch), Room())
    close(clean.streams, [at.stream for at in blocks])
    close(clean.writes, Writes.run(model, batch.clean).dense)
    close(clean.writes, sender_outputs(model, batch.clean))
    close(state.delta, clean.delta)
    for at, ports, held in zip(of_kind(blocks, "attention"), clean.ports, state.ports, strict=True):
        for port, mine, theirs in zip(at.ports, ports, held.values(), strict=True):
            close(mine, model.per_node(port))
            close(mine, theirs)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_pass_of_attribution_from_any_block_on(model, batch, blocks, recompute):
    for number, first in enumerate(blocks[:-1]):
        if first.block.kind == "mlp" and model.config.parallel:
            continue
        run = AttributionPass(model, batch, first.stream, start=first.block, recompute=recompute, keep_writes=True)
        close(run.final, batch.at_answer(blocks[-1].stream))
        for at in blocks[number:-1]:
            state, layer = run.layers[at.block.layer], at.block.layer
            if at.block.kind == "mlp":
                close(state.mlp_stream, at.stream)
                assert (state.pre is None) == recompute
            else:
                close(state.attention_stream, at.stream)
                assert (state.ports is None) == recompute
                close(run.writes.mixed[layer - model.graph.n_layers], Writes.run(model, batch.clean).mixed[layer])


def test_the_source_run_of_training_and_its_gradients(model, batch, blocks):
    model = model.with_neurons(())  # training leaves MLPs whole
    run = source_run(model, batch.clean)
    close(run.streams, tuple(at.stream for at in blocks))
    close(run.dense, sender_outputs(model, batch.clean))
    trained = type(model)(model.config, model.weights)
    for name, tensor in trained.weights.items():
        trained.weights[name] = tensor.clone().requires_grad_()
    source_run(trained, batch.clean).streams[-1].square().sum().backward()
    assert trained.weights["layers.0.W_Q"].grad.isfinite().all()


def test_attention_patterns(model, batch, blocks):
    attention = of_kind(blocks, "attention")
    for pattern, at in zip(attention_patterns(model, batch.clean), attention, strict=True):
        close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        if model.config.heads_per_node == 1:
            close(pattern @ model.per_node(at.ports[2]), at.mixed)


@few_shapes
def test_roles_of_heads_are_shares_of_the_patterns(model):
    pairs = random_pairs(model, n=3, shortest=7)
    first = next(attention_patterns(model, torch.from_numpy(pairs.clean)))
    share = first.diagonal(-1, -2, -1).mean((-1, -2))
    roles = head_roles(model, pairs)
    close(torch.from_numpy(roles.shares[roles.labels.index("previous token"), 0]), share)


PARALLEL = [name for name, changes in FAMILIES.items() if changes.get("parallel")]


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_models_can_be_walked_from_their_attention_alone(name):
    model = small_model(**FAMILIES[name])
    tokens = torch.from_numpy(random_pairs(model).clean)
    last = list(walk(model, model.embed(tokens)))[-3]
    assert last.block.kind == "attention"
    (*_, end) = walk(model, last.stream, last.block)
    equal(model.unembed(end.stream), model.logits(tokens))
