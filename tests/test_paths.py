"""Path patching is what its definition says, along paths, sets of paths and wildcards; many senders are the same one by one."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FEW_SHAPES, SHAPES, few_shapes, random_pairs, small_model
from naive import ablated_values, circuit_logits, members, owners, senders
from naive_paths import order, patched_logits, ports_of, written_out

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, OptionError, RenderError, UnknownNameError
from circuitfind.evaluation import head_roles
from circuitfind.execution import ABLATIONS, make_batches, prepare_ablation
from circuitfind.execution.recompute.paths import agenda_of, read_route
from circuitfind.execution.recompute.paths.top_down import PathVisit
from circuitfind.graph import ComputationGraph
from circuitfind.progress import Checkpoint
from circuitfind.task.metrics import METRICS, Metric, Targets

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
TASK = cf.Task("words", "", "", "", "", "logit-diff", propose=lambda rng: None)
METRIC = METRICS["logit-diff"]


def short_pairs(model, n=2, alike=0, **kwargs):
    """A few short prompts; the first tokens of the two prompts of a pair may be the same."""
    pairs = random_pairs(model, n, **{"seed": 1, "longest": 4} | kwargs)
    pairs.corrupted[:, :alike] = pairs.clean[:, :alike]
    return pairs


def random_path(model, rng) -> str:
    """A path with a stop or two, ports, groups and wildcards, chosen at random."""
    nodes = order(model)[:-1]
    if model.graph.n_kv_groups:
        layers = range(model.config.n_layers)
        nodes += [(owner, 2 * layer) for layer in layers for owner in owners(model.config, layer, "k")]
    words, at = [], None
    for name, stage in sorted(rng.sample(nodes, min(len(nodes), rng.randint(1, 3))), key=lambda node: node[1]):
        if at is None:
            words.append(members(model.config, name)[0])
        elif stage > at:
            ports = ("k", "v") if ".kv" in name else ports_of(name)
            port = rng.choice((*ports, ""))
            words.append(f"{name}<{port}>" if port else name)
        else:
            continue
        at = stage
        words += rng.choice(([], ["*"], ["mlps"]))
    return " -> ".join([*words, "logits"])


def runs_of(model, pairs, ablation):
    """Clean tokens, clean outputs and ablated outputs of every prompt, by plain loops."""
    tokens = [torch.from_numpy(row[:stop]) for row, stop in zip(pairs.clean, pairs.length, strict=True)]
    corrupted = [torch.from_numpy(row[:stop]) for row, stop in zip(pairs.corrupted, pairs.length, strict=True)]
    clean = [senders(model, row)[0] for row in tokens]
    if ablation == "optimal":  # which constants these are is tested with the ablation
        constants = prepare_ablation(ablation, model, make_batches(model, pairs)).means[:, 0, 0]
        by_name = dict(zip(model.graph.sender_names, constants, strict=True))
        return tokens, clean, [{sender: row.expand(len(run), -1) for sender, row in by_name.items()} for run in tokens]
    return tokens, clean, ablated_values(model, ablation, corrupted)


def measured(pairs, row, logits, metric=METRIC) -> float:
    targets = Targets(torch.from_numpy(pairs.correct[[row]]), torch.from_numpy(pairs.incorrect[[row]]))
    return float(metric(logits[-1:], targets))


def naive_values(model, pairs, paths, ablation="corrupted", direction="noising"):
    """The logit difference of every prompt with some written-out paths patched."""
    _, clean, ablated = runs_of(model, pairs, ablation)
    pick = (
        (lambda row: (clean[row], ablated[row])) if direction == "noising" else lambda row: (ablated[row], clean[row])
    )
    return np.array([measured(pairs, row, patched_logits(model, paths, *pick(row))) for row in range(len(pairs))])


# --- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_set_of_paths_is_patched_as_defined(shape):
    rng = random.Random(shape)
    model, moved = small_model(**SHAPES[shape]), 0
    for number, ablation in enumerate(("corrupted", "corrupted", *ABLATIONS)):
        pairs = short_pairs(model, alike=number % 3)
        paths = [random_path(model, rng) for _ in range(1 + number % 3)]
        direction = ("noising", "denoising")[number % 2]
        found = cf.path_patch(model, TASK, paths, ablation=ablation, direction=direction, pairs=pairs)
        chosen = set().union(*(written_out(model, path) for path in paths))
        expected = naive_values(model, pairs, chosen, ablation, direction)
        np.testing.assert_allclose(found.patched, expected, **TIGHT, err_msg=f"{paths} {ablation} {direction}")
        moved += bool((abs(found.effect) > 1e-6).any())
    assert moved >= 3


def test_paths_of_a_set_do_not_mix():
    """A->B->D->logits and E->B->logits do not make E->B->D, and what is replaced stays replaced."""
    model = small_model(n_layers=3, n_heads=2)
    for paths in (
        ["a0.h0 -> a1.h0<v> -> a2.h0<v> -> logits", "a0.h1 -> a1.h0<v> -> logits"],
        ["a0.h0 -> a1.h0<v> -> logits", "a1.h0 -> logits"],
        ["a0.h0 -> * -> a2.h1<k> -> logits", "m0 -> mlps -> logits", "a0.h0 -> m2 -> logits"],
    ):
        pairs = short_pairs(model)
        chosen = set().union(*(written_out(model, path) for path in paths))
        found = cf.path_patch(model, TASK, paths, pairs=pairs)
        np.testing.assert_allclose(found.patched, naive_values(model, pairs, chosen), **TIGHT)
    together = cf.path_patch(model, TASK, "a0.h0 -> * -> logits", pairs=pairs)
    assert abs(together.patched - found.patched).max() > 1e-3


@pytest.mark.parametrize("model", FEW_SHAPES, indirect=True)
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_every_way_from_a_sender_is_activation_patching(model, ablation):
    """Everything after the sender is computed again with its output replaced."""
    pairs = short_pairs(model)
    tokens, _, ablated = runs_of(model, pairs, ablation)
    for sender in (0, 1, model.graph.n_senders - 1):
        name = model.graph.sender_names[sender]
        kept = {edge for edge in model.graph.edge_names() if not edge.startswith(f"{name}->")}
        logits = [circuit_logits(model, row, off, kept) for row, off in zip(tokens, ablated, strict=True)]
        found = cf.path_patch(model, TASK, f"{name} -> * -> logits", ablation=ablation, pairs=pairs)
        np.testing.assert_allclose(found.patched, [measured(pairs, *row) for row in enumerate(logits)], **TIGHT)


def test_every_way_from_the_input_is_the_corrupted_run(model, pairs):
    found = cf.path_patch(model, TASK, "input -> * -> logits", pairs=pairs)
    np.testing.assert_allclose(found.patched, found.ablated, **TIGHT)
    assert found.share == pytest.approx(1)
    back = cf.path_patch(model, TASK, "input -> * -> logits", direction="denoising", pairs=pairs)
    np.testing.assert_allclose(back.patched, found.clean, **TIGHT)
    np.testing.assert_allclose(back.effect, found.effect, **TIGHT)


def test_one_edge_and_every_way_on_is_the_exact_effect_of_the_edge(model, pairs):
    problem = Problem(model, pairs, METRIC)
    exact = ALGORITHMS["exact"](problem).values
    for edge in np.random.default_rng(0).permutation(model.graph.n_edges)[:6].tolist():
        sender, receiver = model.graph.edge_name(edge).split("->")
        onward = "" if receiver == "logits" else " -> * -> logits"
        found = cf.path_patch(model, TASK, f"{sender} -> {receiver}{onward}", pairs=pairs)
        assert found.mean == pytest.approx(exact[edge], rel=1e-9, abs=1e-9)


def test_in_a_linear_model_the_paths_through_an_edge_add_up_to_its_effect():
    """Without norms and MLPs, and with attention that looks everywhere alike, logits are linear in the embedding."""
    model = small_model(n_layers=3, n_heads=2, d_mlp=0, norm="none")
    even = {key: part * 0 if key[-3:] in ("W_Q", "W_K", "b_Q", "b_K") else part for key, part in model.weights.items()}
    model = model.with_weights(even)
    pairs = random_pairs(model, 3)
    exact = ALGORITHMS["exact"](Problem(model, pairs, METRIC)).values
    for edge in ("a0.h1->a1.h0<v>", "input->a0.h0<v>"):
        paths = written_out(model, f"{edge.replace('->', ' -> ')} -> * -> logits")
        texts = [" -> ".join([first, *(f"{n}<{p}>" if p else n for n, p in tail)]) for first, tail in sorted(paths)]
        effects = [cf.path_patch(model, TASK, text, pairs=pairs).mean for text in texts]
        assert len(texts) > 5
        assert sum(effects) == pytest.approx(exact[model.graph.edge_index(edge)], rel=1e-9)
        assert sum(effect != 0 for effect in effects) > 2


@few_shapes
def test_the_batch_size_and_prompts_that_begin_alike_change_nothing(model):
    pairs = random_pairs(model, 5)
    pairs.corrupted[:, :2] = pairs.clean[:, :2]
    path = ["a0.h0 -> * -> logits" if model.graph.n_heads > 1 else "a0 -> * -> logits", "input -> logits"]
    whole = cf.path_patch(model, TASK, path, pairs=pairs)
    shuffled = cf.path_patch(model, TASK, path, pairs=pairs.take([4, 2, 0, 1, 3]))
    np.testing.assert_allclose(shuffled.effect, whole.effect[[4, 2, 0, 1, 3]], **TIGHT)
    for size in (1, 2):
        np.testing.assert_allclose(
            cf.path_patch(model, TASK, path, pairs=pairs, batch_size=size).effect, whole.effect, **TIGHT
        )


def test_every_way_costs_one_value_for_each_block_and_only_the_answer_where_that_is_enough():
    graph = ComputationGraph(12, 12)
    agenda = agenda_of(graph, [read_route(graph, "a0.h3 -> * -> logits")])
    assert len(agenda.stages) == 1 + 2 * 11
    assert all(len(stage.heads) in (0, 12) for stage in agenda.stages)
    last = [stage for stage in agenda.stages if stage.at_answer]
    assert [(stage.layer, len(stage.heads)) for stage in last] == [(11, 12), (11, 0)]
    assert not last[0].reads_answer_only("k")
    both = agenda_of(graph, [read_route(graph, "a0.h3 -> * -> a9.h9<q> -> * -> logits")])
    assert sum(stage.heads == (9,) for stage in both.stages) == 1
    assert len(both.stages) < 2 * len(agenda.stages)


# --- metrics, directions, results -------------------------------------------------------------------------------------


def test_the_sign_of_an_effect_is_that_of_what_helps(model, pairs):
    path = f"{model.graph.sender_names[1]} -> * -> logits"
    own = Metric("spread", "", lambda logits, targets: logits.std(-1), larger_is_better=False)
    for metric in ("kl", "nll", "prob-diff", own):
        found = cf.path_patch(model, TASK, path, metric=metric, pairs=pairs)
        sign = 1 if found.larger_is_better else -1
        np.testing.assert_allclose(found.effect, sign * (found.clean - found.patched), **TIGHT)
        assert found.larger_is_better == (metric == "prob-diff")
    assert (cf.path_patch(model, TASK, path, metric="kl", pairs=pairs).effect >= -1e-12).all()


def test_answers_alone_give_the_same_difference(model, pairs):
    """The logit difference as a metric of one's own sees all logits."""
    full = Metric("own", "", METRIC.function)
    path = f"{model.graph.sender_names[1]} -> * -> logits"
    values = [cf.path_patch(model, TASK, path, metric=metric, pairs=pairs).patched for metric in (METRIC, full)]
    np.testing.assert_allclose(*values, **TIGHT)


def test_a_result_says_what_was_measured():
    model = cf.load_model("induction-2l")
    found = cf.path_patch(model, "induction", "a0.h5 -> a1.h6<k> -> logits", n=8, split="held-out", seed=2)
    values = json.loads(json.dumps(found.to_json()))
    assert values["paths"] == ["a0.h5 -> a1.h6<k> -> logits"]
    assert values["effect"] == pytest.approx(np.mean(values["per_example"]["effect"]))
    assert values["share"] == pytest.approx(found.effect.sum() / (found.clean - found.ablated).sum())
    low, high = values["effect_95_interval"]
    assert low < values["effect"] < high
    p = found.provenance
    assert (p.model, p.task, p.split, p.n_prompts, p.seed, p.ablation) == (
        "induction-2l",
        "induction",
        "held-out",
        8,
        2,
        "corrupted",
    )
    assert "on 8 held-out prompts" in str(found)
    assert f"effect {found.mean:+.4g}" in str(found)


def test_half_precision_is_near():
    model = cf.load_model("tasks-4l")
    paths = ["a0.h6 -> m0 -> * -> logits", "a1.h0 -> a3.h7<v> -> logits"]
    wide = cf.path_patch(model, "ioi", paths, n=8)
    half = cf.path_patch(model.to(dtype=torch.bfloat16), "ioi", paths, n=8)
    assert half.mean == pytest.approx(wide.mean, rel=0.1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("a0.h1", OptionError, "write nodes with arrows between"),
        ("a0.h1 -> ", OptionError, "write nodes with arrows between"),
        ("a0.h1 -> m1", OptionError, r"ends in 'm1', but every path ends in 'logits'; write '\.\.\. -> m1 -> logits'"),
        ("a0.h1 -> *", OptionError, "every path ends in 'logits'"),
        ("a0.h1 -> logit", UnknownNameError, "Did you mean 'logits'"),
        ("* -> m1 -> logits", OptionError, r"begins with '\*'; begin with the node"),
        ("a0.h1<q> -> logits", OptionError, "what is replaced is a node's output, so begin with 'a0.h1'"),
        ("a0.h1 -> * -> mlps -> logits", OptionError, "follow each other"),
        ("a0.h9 -> logits", UnknownNameError, "Did you mean 'a0.h2'"),
        ("a0.h1 -> a1.h1<w> -> logits", UnknownNameError, "Did you mean 'a1.h1<"),
        ("a0.h1 -> m1<q> -> logits", UnknownNameError, "unknown receiver in path"),
        ("a0.h1 -> a1.kv0<k> -> logits", UnknownNameError, "unknown receiver in path"),
        ("a0.h1 -> input -> logits", CircuitError, "'input' reads nothing"),
        ("m1 -> a1.h0<q> -> logits", CircuitError, "m1 comes after a1.h0<q>.*no edge m1->a1.h0<q>"),
        ("a1.h0 -> * -> m0 -> logits", CircuitError, "a1.h0 comes after m0"),
        ("a0.h1 -> logits -> logits", CircuitError, "logits comes after logits"),
    ],
)
def test_a_path_that_cannot_be_is_refused(path, kind, message):
    model = small_model()
    with pytest.raises(kind, match=message):
        cf.path_patch(model, TASK, path, pairs=random_pairs(model))


def test_options_that_make_no_sense_are_refused():
    model = small_model()
    given = {"pairs": random_pairs(model)}
    with pytest.raises(OptionError, match="give at least one path"):
        cf.path_patch(model, TASK, [], **given)
    for call in (cf.path_patch, cf.path_heat_map):
        with pytest.raises(OptionError, match="use noising or denoising"):
            call(model, TASK, "logits", direction="up", **given)
    with pytest.raises(OptionError, match="through='heads': use direct or mlps"):
        cf.path_heat_map(model, TASK, "m1", through="heads", **given)
    with pytest.raises(UnknownNameError, match=r"receiver in path 'a9\.h0'"):
        cf.path_heat_map(model, TASK, "a9.h0", **given)
    with pytest.raises(UnknownNameError, match="ablation"):
        cf.path_patch(model, TASK, "m0 -> logits", ablation="none", **given)


def test_nan_in_the_model_is_located():
    model = small_model()
    model.weights["layers.1.W_V"][0, 0] = torch.nan
    with pytest.raises(cf.CircuitfindError, match="after layer 1, on the clean prompt"):
        cf.path_patch(model, TASK, "m0 -> logits", pairs=random_pairs(model))


# --- heat maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_heat_map_is_its_paths_one_by_one(shape):
    rng, model = random.Random(shape), small_model(**SHAPES[shape])
    names = dict.fromkeys((*model.graph.receiver_names, *model.graph.sender_names[1:]))
    for through, direction in (("direct", "noising"), ("mlps", "noising"), ("mlps", "denoising")):
        pairs, receiver = random_pairs(model, 3), rng.choice(list(names))
        found = cf.path_heat_map(
            model, TASK, receiver, through=through, direction=direction, per_example=True, pairs=pairs
        )
        words = [*(["mlps"] if through == "mlps" else []), receiver, *([] if receiver == "logits" else ["*", "logits"])]
        for sender, name in enumerate(model.graph.sender_names):
            try:
                path = cf.path_patch(model, TASK, " -> ".join([name, *words]), direction=direction, pairs=pairs)
            except CircuitError:
                assert np.isnan(found.effects[sender])
                continue
            np.testing.assert_allclose(found.per_example[sender], path.effect, **TIGHT, err_msg=f"{name} {words}")
            assert found.effects[sender] == pytest.approx(path.mean, rel=1e-9, abs=1e-9)
        assert found.total == pytest.approx(
            (path.clean - path.ablated).mean() if direction == "noising" else found.total
        )


def test_a_heat_map_is_a_table_and_a_picture(tmp_path):
    model = cf.load_model("tasks-4l")
    found = cf.path_heat_map(model, "ioi", "a2.h1<q>", n=8, batch_size=4)
    assert found.values.shape == (4, 8)
    assert (np.isnan(found.values).all(1) == [False, False, True, True]).all()
    assert found.mlps.shape == (4,)
    (name, best), *_ = found.top(3)
    assert len(found.top(3)) == 3
    assert best == found.effects[model.graph.sender_names.index(name)]
    assert abs(best) == np.nanmax(abs(found.effects))
    frame = found.to_frame()
    assert list(frame.columns) == ["sender", "effect", "share"]
    assert len(frame) == 1 + 2 * 9
    assert frame.share[0] == pytest.approx(found.input / found.total)
    assert json.loads(json.dumps(found.to_json()))["effects"]["input"] == found.input
    assert str(found).splitlines()[0] == "sender -> a2.h1<q> -> * -> logits"
    assert found.per_example is None
    assert "</svg>" in found.render(tmp_path / "map.svg").read_text()
    with pytest.raises(RenderError):
        found.render(tmp_path / "map.jpeg")


def test_groups_of_senders_change_nothing(monkeypatch):
    from circuitfind.execution.recompute.paths import path_batch

    model = small_model(n_layers=3)
    pairs = random_pairs(model, 4)
    whole = cf.path_heat_map(model, TASK, "a2.h1", through="mlps", pairs=pairs).effects
    monkeypatch.setattr(path_batch, "TOKENS_OF_PATHS", {"cpu": 1})
    monkeypatch.setattr(path_batch, "LOGITS_OF_PATHS", {"cpu": 1})
    monkeypatch.setattr("circuitfind.execution.recompute.mlp_pieces.HIDDEN_BYTES", 1)
    np.testing.assert_allclose(
        cf.path_heat_map(model, TASK, "a2.h1", through="mlps", pairs=pairs).effects, whole, **TIGHT
    )


# --- the search -------------------------------------------------------------------------------------------------------


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


# --- the known story --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def induction():
    model = cf.load_model("induction-2l")
    scores = cf.discover(model, "induction", algorithm="path-patching", n=32, share=0.05)
    pairs = cf.Setting("induction", model, n=32).train
    return SimpleNamespace(model=model, circuit=cf.select(scores), pairs=pairs, roles=head_roles(model, pairs))


def test_it_finds_that_a_previous_token_head_feeds_the_keys_of_induction_heads(induction):
    roles = induction.roles.by_head()
    assert "previous token" in [role.label for role in roles["a0.h5"]]
    keys = [row for row in induction.circuit.edges if row["source"] == "a0.h5"]
    assert len(keys) >= 3
    assert all(row["port"] == "k" and row["score"] > 0 for row in keys)
    assert all("induction" in [role.label for role in roles[row["target"]]] for row in keys)
    assert "a0.h5->a1.h6<k>" in induction.circuit


# --- roles ------------------------------------------------------------------------------------------------------------


def test_roles_are_means_of_attention(induction):
    """Summed place by place, prompt by prompt."""
    from circuitfind.transformer import attention_patterns

    model, pairs = induction.model, induction.pairs.take(range(6))
    roles = head_roles(model, pairs, batch_size=4, threshold=0)
    sums = {label: [] for label in ("previous token", "duplicate token", "induction", "END -> B1")}
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
    strict = replace(induction.roles, threshold=0.9999)
    assert set(strict.texts()) < set(induction.roles.texts())
    assert replace(induction.roles, threshold=1.0).by_head() == {}
    assert induction.roles.texts(1)["a0.h5"].startswith("previous token 0.9")


# --- trees ------------------------------------------------------------------------------------------------------------


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
    assert (code, out) == (0, cf.tree_text(induction.circuit, induction.roles.texts()))
    code, out, _ = command_line("roles", "induction", *few)
    assert code == 0
    assert out.startswith("a0.h5      previous token 0.9")
    code, _, err = command_line("path-patch", "induction", "a0.h5 -> a1.h6<k>", *few)
    assert code == 2
    assert "every path ends in 'logits'" in err
