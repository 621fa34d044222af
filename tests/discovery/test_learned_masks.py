"""Masks between 0 and 1: their gradients, and the algorithms that learn them."""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from builders import TIGHT, few_shapes, random_pairs, small_model

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.eap import eap
from circuitfind.discovery.search.hard_concrete import Gates, sampled, share_open
from circuitfind.discovery.search.mask_training import Adam, MaskLoss, in_canonical_order, uniform
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation
from circuitfind.execution.batches import with_clean_logits
from circuitfind.execution.gradients.by_masks import MaskedRun, masked_numbers
from circuitfind.execution.memory import memory_limit
from circuitfind.progress import Checkpoint
from circuitfind.run.estimate import estimate
from circuitfind.scores import EdgeScores, between
from circuitfind.selection import best_edges
from circuitfind.task.metrics import METRICS, Targets


def one_batch(model, pairs, metric="kl"):
    (batch,) = make_batches(model, pairs, len(pairs))
    return with_clean_logits(model, batch, (METRICS[metric],))


def prompt(pairs, row, side="clean"):
    return torch.from_numpy(getattr(pairs, side)[row, : pairs.length[row]])


def random_mask(model, *leading, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*leading, model.graph.n_edges, generator=generator, dtype=torch.float64)


def naive_gradients(model, pairs, batch, ablation, masks, metric):
    """Values (prompts,) and gradients (prompts, edges) by autograd through the plain loop, one prompt after the other."""
    corrupted = [prompt(pairs, row, "corrupted") for row in range(len(pairs))]
    ablated, names = naive.ablated_values(model, ablation, corrupted), model.graph.edge_names()
    values, gradients = [], []
    for place, row in enumerate(batch.rows):
        leaf = masks[place].clone().requires_grad_()
        logits = naive.circuit_logits(model, prompt(pairs, row), ablated[row], dict(zip(names, leaf, strict=True)))
        t = batch.targets
        targets = Targets(t.correct[place, None], t.incorrect[place, None], t.clean_logits[place, None])
        value = metric(logits[-1:], targets).sum()
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    return torch.stack(values), torch.stack(gradients)


# --- gradients by masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["corrupted", "mean-positional"])
def test_gradients_by_masks_are_those_of_autograd_through_the_plain_loop(model, ablation):
    pairs, metric = random_pairs(model, 3), METRICS["kl"]
    batch, mask = one_batch(model, pairs), random_mask(model, 3)
    ablated = prepare_ablation(ablation, model, [batch]).writes(batch)
    expected = naive_gradients(model, pairs, batch, ablation, mask, metric)
    for recompute in (False, True):
        run = MaskedRun(model, batch, ablated, mask, recompute=recompute)
        found = run.backward(lambda logits: metric(logits, batch.targets))
        torch.testing.assert_close(found, expected, **TIGHT)


@few_shapes
def test_one_mask_for_all_prompts_sums_their_gradients_or_keeps_them_apart(model):
    pairs, metric = random_pairs(model, 3), METRICS["prob-diff"]
    batch, mask = one_batch(model, pairs), random_mask(model)
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    each = mask.expand(len(pairs), -1).contiguous()
    values, gradients = MaskedRun(model, batch, ablated, each).backward(lambda x: metric(x, batch.targets))
    for per_prompt in (False, True):
        run = MaskedRun(model, batch, ablated, mask)
        found = run.backward(lambda x: metric(x, batch.targets), per_prompt=per_prompt)
        torch.testing.assert_close(found, (values, gradients if per_prompt else gradients.sum(0)), **TIGHT)


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
def test_with_all_edges_kept_the_gradient_is_eap(model, pairs, ablation):
    metric = METRICS["logit-diff"]
    batch = one_batch(model, pairs)
    run = MaskedRun(
        model, batch, prepare_ablation(ablation, model, [batch]).writes(batch), torch.ones(model.graph.n_edges)
    )
    torch.testing.assert_close(run.logits, model.logits(batch.clean, batch.answer), **TIGHT)
    _, gradient = run.backward(lambda logits: metric(logits, batch.targets))
    scores = eap(Problem(model, pairs, metric, ablation)).values
    np.testing.assert_allclose(gradient.numpy() / len(pairs), scores, **TIGHT)


def test_a_mask_has_no_gradient_of_an_objective_that_counts():
    model = small_model()
    batch = one_batch(model, random_pairs(model))
    run = MaskedRun(model, batch, prepare_ablation("zero", model, [batch]).writes(batch), random_mask(model))
    with pytest.raises(OptionError, match=r"has no gradient .* so masks cannot be learned with it"):
        run.backward(lambda logits: METRICS["top1"](logits, batch.targets))


# --- random masks -----------------------------------------------------------------------------------------------------


def log_alphas(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hard_concrete_masks_are_those_of_louizos_et_al():
    """Equations 10 and 12 with their limits and temperature, written out."""
    for alpha in (-3.0, 0.0, 2.5):
        for u in (0.001, 0.4, 0.7, 0.999):
            s = 1 / (1 + ((1 - u) / u) ** 1.5 * np.exp(-1.5 * alpha))
            mask, slope = sampled(torch.tensor(alpha, dtype=torch.float64), torch.tensor(u, dtype=torch.float64))
            assert float(mask) == pytest.approx(min(1, max(0, 1.2 * s - 0.1)))
            assert float(slope) == pytest.approx(1.8 * s * (1 - s) if 0 < 1.2 * s - 0.1 < 1 else 0)
    draws = torch.linspace(0.5e-5, 1 - 0.5e-5, 10**5, dtype=torch.float64)
    for alpha in (-3.0, 0.0, 2.5):
        alphas = torch.full_like(draws, alpha)
        assert float((sampled(alphas, draws)[0] > 0).double().mean()) == pytest.approx(
            float(share_open(alphas[0])), abs=1e-4
        )


@pytest.mark.parametrize(("edges", "nodes"), [(True, False), (False, True), (True, True)])
def test_what_edges_keep_and_its_gradient_are_those_of_autograd(edges, nodes):
    graph = small_model(n_heads=4, n_kv_heads=2, kv_ports="group").graph
    gates = Gates(graph, edges=edges, nodes=nodes)
    values, gradient = log_alphas(2, len(gates)).requires_grad_(), log_alphas(2, graph.n_edges, seed=1)
    kept = gates.combined(values)
    for edge in range(graph.n_edges):
        sender = graph.n_edges * edges + graph.edge_sender[edge]
        expected = (values[:, edge] if edges else 1) * (values[:, sender] if nodes else 1)
        torch.testing.assert_close(kept[:, edge], expected)
    (expected,) = torch.autograd.grad(kept, values, gradient)
    torch.testing.assert_close(gates.pulled_back(values.detach(), gradient), expected)


def test_adam_is_that_of_torch():
    state, other = torch.zeros(3, 7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64, requires_grad=True)
    ours, theirs = Adam(state), torch.optim.Adam([other], lr=0.3, betas=(0.9, 0.99), eps=1e-12)
    for step in range(5):
        other.grad = log_alphas(7, seed=step)
        ours.descend(step, other.grad, 0.3)
        theirs.step()
    torch.testing.assert_close(state[0], other.detach())


def mask_loss(model, pairs, gates, ablation="corrupted", batch_size=2, group=3):
    problem = Problem(model, pairs, METRICS["kl"], ablation, seed=3, batch_size=batch_size)
    return MaskLoss(in_canonical_order(problem), gates, group=group)


@few_shapes
def test_the_loss_under_random_masks_and_its_gradient_are_a_numerical_derivative(model):
    gates = Gates(model.graph, nodes=True)
    loss, alphas = mask_loss(model, random_pairs(model, 7), gates), log_alphas(len(gates))
    with torch.no_grad():
        for step in range(3):
            _, gradient = loss(step, alphas)
            way = log_alphas(len(gates), seed=9)
            far, near = (loss(step, alphas + size * way)[0] for size in (1e-6, -1e-6))
            assert float(gradient @ way) == pytest.approx((far - near) / 2e-6, rel=1e-5)


def test_all_prompts_take_part_and_draw_masks_of_their_own():
    model = small_model()
    loss = mask_loss(model, random_pairs(model, 7), Gates(model.graph))
    assert sorted(np.concatenate(loss._groups)) == list(range(7))
    assert {len(group) for group in loss._groups} <= {3, 4}
    draws = [uniform(3, step, prompt, 50) for step in range(3) for prompt in range(3)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 9
    assert all(((draw > 0) & (draw < 1)).all() for draw in draws)
    assert float(torch.cat(draws).mean()) == pytest.approx(0.5, abs=0.05)


def test_the_canonical_order_does_not_depend_on_the_order_given():
    model = small_model()
    pairs = random_pairs(model, 9)
    shuffled = pairs.take(np.random.default_rng(0).permutation(9))
    one, two = (in_canonical_order(Problem(model, p, METRICS["kl"])).pairs for p in (pairs, shuffled))
    for name in ("clean", "corrupted", "length", "answer_position", "correct", "incorrect"):
        assert (getattr(one, name) == getattr(two, name)).all()


# --- edge pruning -----------------------------------------------------------------------------------------------------

PRUNE, PROBE = ALGORITHMS["edge-pruning"], ALGORITHMS["subnetwork-probing"]
MODEL = small_model(n_layers=3)
PAIRS = random_pairs(MODEL, 6)
PROBLEM = Problem(MODEL, PAIRS, METRICS["kl"])
learners = pytest.mark.parametrize("algorithm", [PRUNE, PROBE], ids=lambda algorithm: algorithm.name)


def losses(masks, problem=PROBLEM):
    ablation = problem.prepared_ablation(problem.batches())
    return measure_circuits(problem.model, problem.pairs, np.stack(masks), [problem.metric], ablation)["kl"].mean(1)


def random_circuits(n_edges, n=50):
    rng = np.random.default_rng(0)
    drawn = (EdgeScores(MODEL.graph, rng.random(MODEL.graph.n_edges), PROBLEM.provenance) for _ in range(n))
    return [best_edges(scores, n_edges).kept for scores in drawn]


def test_learned_circuits_beat_all_random_ones_and_eap_at_equal_size():
    n = MODEL.graph.n_edges // 4
    learned = PRUNE(PROBLEM, edges=n, steps=60).chosen
    by_eap = ALGORITHMS["eap-ig-inputs"](PROBLEM).best(n, absolute=True)
    found, attributed, *others = losses([learned, by_eap, *random_circuits(n)])
    assert found < attributed
    assert found < min(others)


@pytest.mark.parametrize(
    "options", [{}, {"nodes": True}, {"multiplier": "ascent"}, {"warm_start": "eap-ig-inputs"}], ids=str
)
def test_the_circuit_has_the_size_asked_for_and_holds_the_likeliest_edges(options):
    for size, expected in (({"edges": 17}, 17), ({"sparsity": 0.9}, round(0.1 * MODEL.graph.n_edges))):
        scores = PRUNE(PROBLEM, steps=20, **size, **options)
        assert np.count_nonzero(scores.chosen) == expected
        assert (MODEL.graph.prune(scores.chosen, from_input=True) == scores.chosen).all()
        assert ((scores.values > 0) & (scores.values < 1)).all()
        likeliest = scores.best(expected, absolute=False)
        alive = MODEL.graph.prune(likeliest, from_input=True)
        assert (scores.chosen >= alive).all()
        assert (scores.nodes is not None) == bool(options.get("nodes"))


def test_as_many_edges_are_kept_in_expectation_as_asked_for():
    for size in (9, 40):
        assert PRUNE(PROBLEM, edges=size, steps=40).values.sum() == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("multiplier", ["solved", "ascent"])
@pytest.mark.parametrize("sparsity", [0.94, 0.99, 0.9999])
def test_at_a_high_sparsity_the_circuit_is_finite_and_not_empty(sparsity, multiplier):
    """Edge Pruning's own code has given NaN or an empty circuit at 94 %."""
    scores = PRUNE(PROBLEM, sparsity=sparsity, steps=30, learning_rate=3.0, multiplier=multiplier)
    assert np.isfinite(scores.values).all()
    assert np.count_nonzero(scores.chosen) == max(1, round((1 - sparsity) * MODEL.graph.n_edges))
    assert MODEL.graph.prune(scores.chosen, from_input=True).any()


def test_a_warm_start_is_used_and_nearer_to_its_ranking():
    ranked = ALGORITHMS["eap-ig-inputs"](PROBLEM)
    best = ranked.best(20, absolute=True)
    cold, warm = (PRUNE(PROBLEM, edges=20, steps=2, warm_start=name) for name in ("", "eap-ig-inputs"))
    assert np.count_nonzero(cold.chosen & best) < np.count_nonzero(warm.chosen & best)
    longer = PRUNE(PROBLEM, edges=20, steps=30, warm_start="eap-ig-inputs").chosen
    assert losses([longer])[0] < losses([best])[0]


def test_any_metric_with_a_gradient_is_a_loss_and_its_sign_is_heeded():
    for name in ("logit-diff", "nll"):
        problem = replace(PROBLEM, metric=METRICS[name])
        learned = PRUNE(problem, edges=30, steps=60).chosen
        ablation = problem.prepared_ablation([])
        found, *others = measure_circuits(
            MODEL, PAIRS, np.stack([learned, *random_circuits(30, 20)]), [problem.metric], ablation
        )[name].mean(1)
        assert problem.metric.sign * found > max(problem.metric.sign * np.array(others))
    with pytest.raises(OptionError, match="has no gradient"):
        PRUNE(replace(PROBLEM, metric=METRICS["top1"]), steps=2)


# --- subnetwork probing -----------------------------------------------------------------------------------------------


def test_a_larger_penalty_keeps_fewer_nodes_and_a_learned_set_beats_random_ones():
    few, many = (PROBE(PROBLEM, penalty=penalty, steps=80) for penalty in (10.0, 0.1))
    assert (few.nodes > 0.5).sum() < (many.nodes > 0.5).sum()
    kept = few.nodes > 0.5
    assert kept[0]
    assert (few.chosen == (between(MODEL.graph, kept.astype(float)) > 0.5)).all()
    rng = np.random.default_rng(0)
    others = [np.concatenate(([True], rng.permutation(kept[1:]))).astype(float) for _ in range(20)]
    found, *random = losses([few.chosen, *(between(MODEL.graph, other) > 0.5 for other in others)])
    assert found <= min(random)


def test_probing_scores_edges_between_nodes():
    scores = PROBE(PROBLEM, steps=5)
    assert (scores.values == between(MODEL.graph, scores.nodes)).all()
    assert scores.nodes[0] == 1
    assert ((scores.nodes[1:] > 0) & (scores.nodes[1:] < 1)).all()


# --- both -------------------------------------------------------------------------------------------------------------


@learners
def test_an_interrupted_run_goes_on_and_gives_the_same_bits(algorithm, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    expected = algorithm(PROBLEM, steps=9)
    place, original, saves = tmp_path / "checkpoint.safetensors", Checkpoint.save, []

    def interrupted(self, *arguments, **more):
        original(self, *arguments, **more)
        saves.append(arguments[1])
        if len(saves) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            algorithm(replace(PROBLEM, checkpoint=Checkpoint(place, "run")), steps=9)
        resumed = algorithm(replace(PROBLEM, checkpoint=Checkpoint(place, "run")), steps=9)
    assert saves == list(range(1, 10))
    assert (resumed.values == expected.values).all()
    assert (resumed.chosen == expected.chosen).all()
    assert not place.exists()


@learners
def test_little_memory_means_smaller_batches_and_nothing_kept_but_the_same_masks(algorithm):
    expected = algorithm(PROBLEM, steps=8).values
    with memory_limit(200_000):
        np.testing.assert_allclose(algorithm(PROBLEM, steps=8).values, expected, **TIGHT)
        assert max(map(len, PROBLEM.batches(masked_numbers(MODEL)))) < len(PAIRS)


@learners
def test_half_precision_learns_too(algorithm):
    problem = replace(PROBLEM, model=MODEL.to(dtype=torch.bfloat16))
    assert np.corrcoef(algorithm(problem, steps=40).values, algorithm(PROBLEM, steps=40).values)[0, 1] > 0.8


@learners
def test_the_seed_decides(algorithm):
    one, two, other = (algorithm(replace(PROBLEM, seed=seed), steps=5).values for seed in (0, 0, 1))
    assert (one == two).all()
    assert (one != other).any()


NO_SENSE = {
    PRUNE: [("edges", -1), ("edges", 10**6), ("sparsity", 1.0), ("multiplier", "none"), ("learning_rate", 0.0)],
    PROBE: [("penalty", -1.0), ("learning_rate", 0.0)],
}


@learners
def test_options_that_make_no_sense_are_refused(algorithm):
    for option, value in [("steps", 0), ("batch", 0), *NO_SENSE[algorithm]]:
        with pytest.raises(OptionError, match=f"{option}="):
            algorithm(PROBLEM, **{option: value})


def test_an_unknown_warm_start_is_refused_before_anything_runs():
    with pytest.raises(UnknownNameError, match="'eep'"):
        PRUNE.resolve({"warm_start": "eep"})


@learners
def test_the_estimate_counts_the_prompts_that_are_drawn(algorithm):
    line = estimate(cf.Setting("ioi", MODEL, pairs=PAIRS), algorithm.name, {"steps": 50, "batch": 4})
    assert "about 8 forward passes for each of 200 prompts drawn, 1 micro-batch;" in line
    assert "for each of 300 prompts drawn" in estimate(
        cf.Setting("ioi", MODEL, pairs=PAIRS), algorithm.name, {"steps": 50, "batch": 100}
    )
