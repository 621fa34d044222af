"""Training to a known circuit: the masked run, its gradients, the steps, the command line."""

import numpy as np
import pytest
import torch
from builders import small_model
from typer.testing import CliRunner

from circuitfind.errors import ModelError
from circuitfind.execution import Writes, run_masked
from circuitfind.transformer import Transformer, TransformerConfig, sender_outputs, weight_shapes
from circuitfind.truth import read_truths
from circuitfind.truth.siit import model_folder as folder
from circuitfind.truth.siit import steps, training
from circuitfind.truth.siit.__main__ import app
from circuitfind.truth.siit.masked import masked_run, softened, source_run
from circuitfind.truth.siit.model_folder import write_folder
from circuitfind.truth.siit.programs import PROGRAMS
from circuitfind.truth.siit.steps import KnownEdges, draw_step
from circuitfind.truth.siit.trained import recipe_of
from circuitfind.truth.siit.training import Siit, model_weights, new_siit, one_step, step_loss, train
from circuitfind.zoo import open_zoo
from circuitfind.zoo.train import TrainedTransformer, TrainingPlan


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


TINY = TransformerConfig(2, 4, 16, 8, 32, len(PROGRAMS["siit-induction"].tokenizer), 9, activation="gelu")


PROGRAM = PROGRAMS["siit-induction"]


BRIEF = Siit(TrainingPlan(steps=12, rate=1e-2, warm_up=2), groups=4, pairs_per_group=4)


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
    recipe = Siit(TrainingPlan(steps=1000), circuit_only=0.3, guided=0.6)
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
