"""Models trained to a known circuit: the programs, the masked run, the training, and what is claimed of the shipped ones."""

import itertools

import numpy as np
import pytest
import torch
from conftest import small_model
from typer.testing import CliRunner

from circuitfind.errors import ModelError, UnknownNameError
from circuitfind.execution import Writes, run_masked
from circuitfind.task import is_held_out
from circuitfind.tasks.siit_ioi import NAMES
from circuitfind.transformer import Transformer, TransformerConfig, sender_outputs, weight_shapes
from circuitfind.truth import read_truths, truth_of
from circuitfind.truth.siit import folder, steps, training
from circuitfind.truth.siit.__main__ import app
from circuitfind.truth.siit.folder import write_folder
from circuitfind.truth.siit.high_level import NONE, HighLevel, Node, earlier, looked_up, number_alike
from circuitfind.truth.siit.masked import masked_run, softened, source_run
from circuitfind.truth.siit.measured import masked_logits, verify
from circuitfind.truth.siit.programs import PROGRAMS
from circuitfind.truth.siit.recipes import recipe_names, recipe_of
from circuitfind.truth.siit.steps import KnownEdges, draw_step
from circuitfind.truth.siit.training import Siit, model_weights, new_siit, one_step, step_loss, train
from circuitfind.zoo import card, open_zoo, zoo_config
from circuitfind.zoo.train import Schedule, TrainedTransformer

every_program = pytest.mark.parametrize("name", PROGRAMS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- programs, by hand


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


# ---------------------------------------------------------------- programs and their tasks


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


def test_there_are_sixteen_models_or_more_and_all_of_them_have_a_recipe():
    assert len(recipe_names()) >= 16
    for name in recipe_names():
        config = recipe_of(name).config
        assert all(config.graph().edge_index(edge) >= 0 for edge in recipe_of(name).program.high_level.edges)
    with pytest.raises(UnknownNameError, match="siit-hist-large"):
        recipe_of("siit-hist-larg")


# ---------------------------------------------------------------- the masked run


@pytest.fixture(params=[False, True], ids=["one after the other", "parallel"])
def pieces(request):
    """A random model in float64, ids of base and source prompts, and three masks; its MLPs after or beside the attention."""
    model = small_model(activation="gelu", parallel=request.param)
    generator = torch.Generator().manual_seed(0)
    tokens, source = torch.randint(0, 17, (2, 12, 9), generator=generator)
    masks = (torch.rand((3, model.graph.n_edges), generator=generator) < 0.6).double()
    return model, tokens, source, masks


def test_the_masked_run_is_the_dense_engines(pieces):
    model, tokens, source, masks = pieces
    logits, written = masked_run(model, tokens, source_run(model, source), masks)
    groups = zip(tokens.chunk(3), source.chunk(3), masks, strict=True)
    last = torch.full((4,), 8)
    dense = [run_masked(model, base, Writes.run(model, other), mask[None], last)[0] for base, other, mask in groups]
    torch.testing.assert_close(logits, torch.cat(dense), rtol=1e-10, atol=1e-10)
    assert written.shape == (model.graph.n_senders, 12, 9, 12)


def test_with_nothing_cut_it_is_the_plain_run(pieces):
    model, tokens, source, masks = pieces
    run = source_run(model, source)
    logits, written = masked_run(model, tokens, run, torch.ones_like(masks))
    torch.testing.assert_close(logits, model.logits(tokens)[:, -1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(written, sender_outputs(model, tokens), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run.dense, sender_outputs(model, source), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.unembed(run.streams[-1]), model.logits(source), rtol=1e-10, atol=1e-10)


def test_a_softened_run_goes_from_the_mean_to_itself(pieces):
    model, _, source, _ = pieces
    run = source_run(model, source)
    half, none = softened(run, 0.5), softened(run, 0.0)
    torch.testing.assert_close(none.dense, run.dense.mean(1, keepdim=True).expand_as(run.dense))
    torch.testing.assert_close(half.dense, (run.dense + none.dense) / 2)
    torch.testing.assert_close(half.streams[-1], (run.streams[-1] + none.streams[-1]) / 2)
    assert softened(run, 1.0) is run


def test_gradients_reach_every_weight_through_both_runs(pieces):
    model, tokens, source, masks = pieces
    trained = TrainedTransformer(
        model.config, {name: tensor.float().requires_grad_() for name, tensor in model.weights.items()}
    )
    logits, _ = masked_run(trained, tokens, source_run(trained, source), masks.float())
    logits.square().sum().backward()
    flat = {"layers.0.b_K", "layers.1.b_K"}  # a key's bias changes nothing
    assert {name for name, t in trained.weights.items() if t.grad is not None and t.grad.abs().max() > 1e-4} >= (
        set(trained.weights) - flat
    )


# ---------------------------------------------------------------- masks and steps

TINY = TransformerConfig(2, 4, 16, 8, 32, len(PROGRAMS["siit-induction"].tokenizer), 9, activation="gelu")
PROGRAM = PROGRAMS["siit-induction"]
BRIEF = Siit(Schedule(steps=12, rate=1e-2, warm_up=2), groups=4, pairs_per_group=4)


def test_masks_cut_what_they_should():
    known, rng = KnownEdges.of(PROGRAM, TINY.graph()), np.random.default_rng(0)
    strict = known.draw_mask(rng, circuit_only=True)
    assert (np.flatnonzero(strict) == known.inside).all()
    masks = np.stack([known.draw_mask(rng, circuit_only=False) for _ in range(400)])
    inside, outside = (~masks[:, known.inside]).sum(1), (~masks[:, known.outside]).mean(1)
    assert 0.4 < (inside == 0).mean() < 0.6
    assert set(inside.tolist()) == set(range(len(known.inside) + 1))
    assert (outside == 1).sum() > 100
    assert ((outside > 0) & (outside < 1)).sum() > 100
    assert ((outside == 0) & (inside > 0)).sum() > 30


def test_a_step_holds_the_programs_answers_under_its_masks():
    known = KnownEdges.of(PROGRAM, TINY.graph())
    step = draw_step(known, PROGRAM.training_pairs(50, 0), 6, 5, np.random.default_rng(1), circuit_only=False)
    for group, (mask, base, source) in enumerate(
        zip(step.masks, step.base.split(5), step.source.split(5), strict=True)
    ):
        cut = [e for e in PROGRAM.high_level.edges if not mask[known.graph.edge_index(e)]]
        wanted = PROGRAM.high_level.answers(base.numpy(), source.numpy(), cut)
        assert step.answers[5 * group : 5 * group + 5].tolist() == wanted.tolist()
    assert set(step.values) == {"a0.h1", "a1.h2"}
    assert step.source_answers.tolist() == PROGRAM.high_level.answers(step.source.numpy()).tolist()


# ---------------------------------------------------------------- training


@pytest.fixture
def few_pairs(monkeypatch):
    """Making prompts takes longer than a few steps on them."""
    monkeypatch.setattr(training, "N_PAIRS", 100)
    monkeypatch.setattr(steps, "N_FOR_TRUTH", 100)
    monkeypatch.setattr(folder, "N_VERIFIED", 50)


def test_steps_lower_the_loss():
    known, state = KnownEdges.of(PROGRAM, TINY.graph()), new_siit(PROGRAM, TINY, BRIEF.schedule, 0)
    model, rng = TrainedTransformer(TINY, model_weights(state)), np.random.default_rng(0)
    step = draw_step(known, PROGRAM.training_pairs(50, 0), 4, 8, rng, circuit_only=True)
    first = step_loss(model, state, step, BRIEF).item()
    for _ in range(6):
        state.step = 2  # one and the same step of the schedule
        one_step(model, state, step, BRIEF)
    state.step = 2
    assert step_loss(model, state, step, BRIEF).item() < first - 0.2


def test_the_aids_come_to_an_end():
    recipe = Siit(Schedule(steps=1000), circuit_only=0.3, guided=0.6)
    assert [recipe.difference_at(step) for step in (0, 150, 225, 300, 999)] == [0, 0, 0.5, 1, 1]
    assert [recipe.guidance_at(step) for step in (0, 300, 600, 999)] == [1, 0.5, 0, 0]


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, few_pairs):
    state = tmp_path / "state.safetensors"
    whole = train(PROGRAM, TINY, BRIEF, seed=1)
    train(PROGRAM, TINY, BRIEF, seed=1, state=state, until=5)
    resumed = train(PROGRAM, TINY, BRIEF, seed=1, state=state)
    assert resumed.step == whole.step == 12
    assert all(torch.equal(resumed.parameters[name], tensor) for name, tensor in whole.parameters.items())
    assert set(model_weights(whole)) == set(weight_shapes(TINY))
    with pytest.raises(ModelError, match="another training"):
        train(PROGRAM, TINY, BRIEF, seed=2, state=state)


def test_a_folder_holds_a_zoo_model_and_its_truth(tmp_path, few_pairs):
    recipe = recipe_of("siit-xproportion").with_steps(2)
    begun = new_siit(recipe.program, recipe.config, recipe.siit.schedule, 0)
    verified = write_folder(Transformer(recipe.config, model_weights(begun)), recipe, begun, 0, tmp_path)
    model = open_zoo("siit-xproportion", tmp_path)
    task, truths = read_truths(tmp_path, model.graph)
    assert task == "siit-xproportion"
    assert truths["corrupted"].names == list(recipe.program.high_level.edges)
    assert truths["corrupted"].verified == verified
    text = (tmp_path / "CARD.md").read_text()
    assert "`python -m circuitfind.truth.siit train siit-xproportion --seed 0`" in text
    assert f"| {verified['largest_outside']} |" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name one model"),
        (("--all",), "--out"),
        (("siit-hist-large",), "not shipped"),
        (("siit-hits", "--out", "x"), "siit-hist"),
    ],
)
def test_the_command_line_says_what_is_missing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the shipped models


@every_program
def test_a_shipped_models_circuit_is_its_programs(name):
    """On 200 held-out pairs that its card does not speak of."""
    model, program = open_zoo(name), PROGRAMS[name]
    found = verify(model, program, n=200, seed=2)
    assert found["accuracy"] >= 0.99
    assert found["circuit_accuracy"] >= 0.99
    assert found["faithfulness"] == pytest.approx(1, abs=0.03)
    assert found["interchange_accuracy"] >= 0.97
    assert found["smallest_inside"] > 5 * found["largest_outside"]
    assert found["smallest_inside_circuit"] > 5 * found["largest_outside"]
    pairs = program.pairs(200, seed=2)
    kept = KnownEdges.of(program, model.graph)
    mask = np.ones(model.graph.n_edges, dtype=bool)
    full = masked_logits(model, pairs, mask).argmax(-1)
    mask[kept.outside] = False
    assert (masked_logits(model, pairs, mask).argmax(-1) == full).float().mean() >= 0.99


@every_program
def test_a_shipped_truth_is_derived_from_the_program(name):
    model, program = open_zoo(name), PROGRAMS[name]
    truth = truth_of(model, program.task, "corrupted")
    assert truth is not None
    assert (np.flatnonzero(truth.edges) == KnownEdges.of(program, model.graph).inside).all()
    assert truth_of(model, program.task, "zero") is None
    assert truth.verified["pairs"] == 1000
    assert truth.verified["smallest_inside_circuit"] > 5 * truth.verified["largest_outside"]


@every_program
def test_a_shipped_folder_is_finished(name):
    config, recipe = zoo_config(name), recipe_of(name)
    assert TransformerConfig(**config["config"]) == recipe.config
    assert config["trained"]["steps"] == recipe.siit.schedule.steps
    assert config["accuracy"][name]["default"]["first"] >= 0.99
    assert all(f"`{edge}`" in card(name) for edge in truth_of(open_zoo(name), recipe.program.task, "corrupted").names)


def test_circuits_are_of_different_size_and_depth():
    sizes = [len(program.high_level.edges) for program in PROGRAMS.values()]
    assert min(sizes) == 4
    assert sum(size >= 7 for size in sizes) >= 4
    between_heads = {
        name
        for name, program in PROGRAMS.items()
        if any(edge[0] == "a" and "->a" in edge for edge in program.high_level.edges)
    }
    assert {"siit-induction", "siit-two-hop", "siit-add", "siit-ioi"} <= between_heads
