"""Components as people and other tools write them, wherever a component or an edge is given."""

import json

import pytest

import circuitfind as cf
from circuitfind.errors import UnknownNameError
from circuitfind.graph import in_our_spelling

GRAPH = cf.ComputationGraph(12, 12)


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (("L5H1", "l5h1", "5.1", "a5.1", "A5.1", "A5.H1", "L5.H1", "(5, 1)", "head 5.1", "a5.h1"), "a5.h1"),
        (("blocks.5.attn.hook_z.1", "blocks.5.attn.hook_z[1]", "blocks.5.attn.hook_result.1"), "a5.h1"),
        (("L5H1.q", "5.1<q>", "A5.1.Q", "5.1 q", "blocks.5.attn.hook_q.1", "blocks.5.hook_q_input[1]"), "a5.h1<q>"),
        (("MLP5", "mlp 5", "L5MLP", "M5", "blocks.5.hook_mlp_out", "blocks.5.mlp"), "m5"),
        (("attn5", "attn 5", "blocks.5.attn.hook_z", "blocks.5.hook_attn_out"), "a5"),
        (("L5N17", "m5.17", "mlp5.17", "blocks.5.mlp.hook_post.17"), "m5.n17"),
        (("embed", "hook_embed", "Resid Start"), "input"),
        (("unembed", "Resid End"), "logits"),
        (("blocks.5.hook_resid_pre",), "resid_pre.5"),
        (("a5.kv1",), "a5.kv1"),
        (("a5.kv1<k>",), "a5.kv1<k>"),
    ],
)
def test_a_name_is_understood_in_every_spelling(words, ours):
    assert {in_our_spelling(word) for word in words} == {ours}


@pytest.mark.parametrize("word", ["head", "node", "residual", "all", "5", "", "a5.h1<q>->x", "L5H", "ten.two"])
def test_what_is_no_component_is_left_as_it_is(word):
    assert in_our_spelling(word) == word


def test_every_name_of_a_graph_is_its_own_spelling():
    for graph in (GRAPH, cf.ComputationGraph(2, 4, n_kv_groups=2), cf.ComputationGraph(2, 1, whole_attention=True)):
        for name in (*graph.sender_names, *graph.receiver_names):
            assert graph.spelled(name) == in_our_spelling(name) == name


@pytest.mark.parametrize(
    ("written", "edge"),
    [
        ("L5H1->L9H6.q", "a5.h1->a9.h6<q>"),
        ("5.1 -> 9.6<q>", "a5.h1->a9.h6<q>"),
        ("blocks.5.attn.hook_z.1->blocks.9.attn.hook_q.6", "a5.h1->a9.h6<q>"),
        ("embed→MLP0", "input->m0"),
        ("blocks.0.hook_resid_pre->blocks.11.hook_resid_post", "input->logits"),
    ],
)
def test_edges_are_understood_too(written, edge):
    assert GRAPH.edge_name(GRAPH.edge_index(written)) == edge


def test_a_component_that_is_not_there_is_refused_by_our_name():
    with pytest.raises(UnknownNameError, match=r"unknown sender in edge 'L50H1->logits': 'a50\.h1'"):
        GRAPH.edge_index("L50H1->logits")


def test_patches_and_knock_outs_are_the_same_in_every_spelling():
    setting = cf.Setting("induction", model="induction-2l", n=4, n_held_out=4)
    ours = cf.ablate(setting, ["a0.h5", "a1"])
    theirs = cf.ablate(setting, ["L0H5", "blocks.1.attn.hook_z"])
    assert (theirs.names, theirs.effects.tolist()) == (ours.names, ours.effects.tolist())
    ours = cf.activation_patch(setting, ["a0.h5", "resid_pre.1"])
    theirs = cf.activation_patch(setting, ["0.5", "blocks.1.hook_resid_pre"])
    assert theirs.values.tolist() == ours.values.tolist()
    assert theirs.to_json()["provenance"]["task"] == ours.to_json()["provenance"]["task"]


def test_paths_are_the_same_in_every_spelling():
    setting = cf.Setting("induction", model="induction-2l", n=4)
    ours = cf.path_patch(setting, "a0.h5 -> a1.h6<k> -> logits")
    theirs = cf.path_patch(setting, "L0H5 -> 1.6.k → unembed")
    assert theirs.mean == ours.mean


def test_the_shell_takes_them(command_line):
    outs = [
        command_line("ablate", "induction", *names, "-m", "induction-2l", "--prompts", "4", "--json")
        for names in (["a0.h5"], ["L0H5"])
    ]
    assert [code for code, _, _ in outs] == [0, 0]
    ours, theirs = (json.loads(out) for _, out, _ in outs)
    assert (theirs["effects"], theirs["effects"][0]["component"]) == (ours["effects"], "a0.h5")
