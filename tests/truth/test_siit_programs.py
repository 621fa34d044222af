"""The programs that models are trained to: by hand, and every edge of their circuits matters."""

import itertools

import numpy as np
import pytest

from circuitfind.task import is_held_out
from circuitfind.tasks.siit_ioi import NAMES
from circuitfind.truth.siit.high_level import NONE, HighLevel, Node, earlier, looked_up, number_alike
from circuitfind.truth.siit.programs import PROGRAMS
from circuitfind.truth.siit.steps import KnownEdges
from circuitfind.truth.siit.trained import recipe_of

every_program = pytest.mark.parametrize("name", PROGRAMS)


def answer(name: str, base: str, source: str, *cut: str) -> str:
    program = PROGRAMS[name]
    tokens, other = (np.array([program.tokenizer.encode(text)]) for text in (base, source))
    found = program.high_level.answers(tokens, other, cut)
    return "none" if found[0] == NONE else program.tokenizer.decode(found)


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ((), "g"),  # b stands before g
        (("input->a1.h2<q>",), "b"),  # h is looked for instead, and stands before b
        (("input->a1.h2<v>",), "d"),  # found at the fifth place, where the source has d
        (("a0.h1->a1.h2<k>",), "a"),  # the source has b before the second place, where the base has a
        (("input->a0.h1<v>",), "a"),  # which is what that edge carries
        (("input->a1.h2<q>", "a0.h1->a1.h2<k>"), "h"),  # the source has h before the third place
        (("a1.h2->logits",), "e"),  # the source's answer
        (("input->m0", "a0.h3->a1.h2<q>"), "g"),  # no edges of the program
    ],
)
def test_induction_by_hand(cut, wanted):
    assert answer("siit-induction", "d a h b g c f e b", "b h e f d g c a h", *cut) == wanted


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ((), "good"),
        (("a0.h0->m1",), "open"),  # the source leaves a round bracket open
        (("a0.h2->m1",), "good"),  # and no square one
        (("input->a0.h0<v>",), "open"),
        (("a0.h2->m0",), "early"),  # but closes a square one early
        (("m0->a1.h1<v>",), "early"),
        (("a1.h1->m1",), "early"),
        (("input->a0.h2<v>", "a1.h1->m1"), "early"),
        (("a0.h0->m0",), "good"),
    ],
)
def test_balance_by_hand(cut, wanted):
    assert answer("siit-balance", "( [ ) ] ( ) [ ]", "( ( ) ] [ [ ] (", *cut) == wanted


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ((), "b"),  # a leads to c, c to b
        (("input->a1.h2<q>",), "f"),  # from e: e leads to d, d to f
        (("a1.h2->a2.h0<q>",), "a"),  # the source's first step, from e, leads to f, from which the base goes to a
        (("input->a2.h0<v>",), "d"),  # c is before the eighth place, where the source has d
        (("a0.h1->a2.h0<k>",), "d"),  # the source has c before the second place, where the base has d
        (("a2.h0->logits",), "b"),  # e leads to f, f to b
    ],
)
def test_two_hop_by_hand(cut, wanted):
    assert answer("siit-two-hop", "e d a c f a c b d f b e a", "c a d c a e b d e f f b e", *cut) == wanted


def test_counting_and_adding_by_hand():
    base, source = "count cat red dog box hat pig blue cow dog", "count red box hat cup red cat blue green car"
    assert answer("siit-hist", base, source) == "5"
    assert answer("siit-hist", base, source, "m0->a1.h1<q>") == "2"  # box and hat in the base
    assert answer("siit-hist", base, source, "m0->a1.h1<k>") == "1"  # one cat in the source
    base, source = "a 3 c 1 d 0 b 4 c + a", "b 2 a 4 c 3 d 1 d + b"
    assert answer("siit-add", base, source) == "4"
    assert answer("siit-add", base, source, "a1.h3->m1") == "3"  # 1 + 2
    assert answer("siit-add", base, source, "a0.h2->a1.h0<q>") == "3"  # d is 0 in the base
    assert answer("siit-add", base, source, "input->a1.h3<v>") == "3"  # a is first in the base, where the source has 2
    assert answer("siit-sum-tree", "4 0 3 4 1 3", "0 0 1 2 2 2", "m0->a1.h3<v>") == "1"  # 3 and 4
    assert answer("siit-xproportion", "a x c x b b x a", "x x x x x x x x", "m0->a1.h2<v>") == "8"


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ((), "John"),  # Mary comes twice
        (("input->m0",), "Emily"),  # all names are the source's
        (("m0->a1.h1<q>",), "Mary"),  # nothing is said twice, so it is the first name
        (("m0->a1.h1<k>",), "Mary"),
        (("m0->a1.h1<q>", "m0->a1.h1<k>"), "Mary"),  # twice at the ninth word, where the base has no name
        (("a1.h1->a2.h1<k>",), "Mary"),
        (("m0->a2.h1<v>",), "Mary"),  # the source has no name at the tenth word
        (("a1.h1->a2.h1<k>", "m0->a2.h1<v>"), "Mary"),  # Susan, who is not in the base
        (("a2.h1->a4.h1<q>",), "Mary"),
        (("a2.h1->a4.h1<q>", "m0->a4.h1<k>"), "John"),  # the source's other name comes second too
        (("m0->a4.h1<k>",), "Mary"),  # none of the source's names is Mary
        (("m0->a4.h1<v>",), "Emily"),
        (("m0->a1.h1<k>", "m0->a4.h1<v>"), "Susan"),
        (("a4.h1->logits",), "Emily"),
    ],
)
def test_names_by_hand(cut, wanted):
    base = "When Mary and John went to the store , Mary gave the book to"
    source = "After Susan and Emily left the park , Susan later gave the ring to"
    assert answer("siit-ioi", base, source, *cut) == wanted


def test_what_a_cut_edge_carries_was_made_with_nothing_cut():
    """And a kept one what its sender gives in the run at hand, which other cuts have changed."""
    chain = HighLevel(
        (
            Node("double", "m0", "token", lambda x: 2 * x),
            Node("sum", "m1", "token double", lambda x, y: x + y),
            Node("answer", "logits", "sum double", lambda x, y: 100 * x + y),
        )
    )
    base, source = np.array([[1]]), np.array([[5]])
    assert chain.answers(base) == 302
    assert chain.answers(base, source, ["input->m0"]) == 1110  # double is 10 everywhere
    assert chain.answers(base, source, ["m0->m1"]) == 1102  # 1 + 10, and 2
    assert chain.answers(base, source, ["m1->logits", "input->m1"]) == 1502  # the source's own sum
    assert chain.sensitivity(base, source)["m0->logits"] == 1.0


def test_what_heads_compute_by_hand():
    tokens, keys = np.array([[3, 5, 3, 3]]), np.array([[3, 3, 5, 9]])
    assert earlier(tokens, 2).tolist() == [[NONE, NONE, 3, 5]]
    assert looked_up(tokens, keys, np.array([[10, 11, 12, 13]])).tolist() == [[10, NONE, 10, 10]]
    assert looked_up(np.array([[NONE, NONE]]), np.array([[NONE, 1]]), np.array([[7, 7]])).tolist() == [[NONE, NONE]]
    assert number_alike(tokens, keys).tolist() == [[1, 0, 2, 2]]


@every_program
def test_a_program_gives_the_tasks_answers_for_both_prompts(name):
    program = PROGRAMS[name]
    pairs = program.pairs(300)
    assert (program.high_level.answers(pairs.clean) == pairs.correct[:, 0]).all()
    assert (program.high_level.answers(pairs.corrupted) == pairs.incorrect[:, 0]).all()
    everything = program.high_level.answers(pairs.clean, pairs.corrupted, program.high_level.edges)
    assert (everything == pairs.incorrect[:, 0]).all()


@every_program
def test_every_edge_of_a_program_matters_and_no_cuts_make_up_for_each_other(name):
    """So the circuit is the only one: whichever of its edges are cut together, many answers change."""
    recipe = recipe_of(name)
    graph, program, pairs = recipe.config.graph(), recipe.program.high_level, recipe.program.pairs(100)
    known = KnownEdges.of(recipe.program, graph)
    assert graph.edge_names(known.inside.tolist()) == sorted(program.edges, key=graph.edge_index)
    assert sorted([*known.inside, *known.outside]) == list(range(graph.n_edges))
    values, last = program.run(pairs.corrupted), program.nodes[-1].name
    for n in range(1, len(program.edges) + 1):
        for cut in itertools.combinations(program.edges, n):
            answers = program.run(pairs.clean, values, cut)[last][:, -1]
            assert (answers != pairs.correct[:, 0]).mean() > 0.15, cut


def test_an_edge_that_no_answer_depends_on_is_not_in_the_circuit():
    program = PROGRAMS["siit-xproportion"]
    idle = Node("idle", "a0.h0", "token<v>", lambda token: token)
    steps = (idle, *program.high_level.nodes[:-1], Node("answer", "logits", "count idle", lambda count, _: count))
    pairs = program.pairs(20)
    needed = HighLevel(steps).needed(pairs.clean, pairs.corrupted)
    assert "a0.h0->logits" not in needed
    assert "m1->logits" in needed


@every_program
def test_no_training_pair_is_held_out(name):
    program = PROGRAMS[name]
    pairs = program.training_pairs(200, seed=3)
    assert pairs.text is not None
    assert not any(is_held_out(pair.combination) for pair in pairs.text)
    for pair in pairs.text:
        words = tuple(pair.corrupted.split())
        names = tuple(sorted(set(words) & set(NAMES)))  # what is held out of siit-ioi is two names
        assert not is_held_out(names or words)
