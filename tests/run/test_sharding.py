"""Prompts shared out over Ray workers: the same scores, whoever computes them, however many there are."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from attribution import MODEL
from builders import random_pairs
from crews import PAIRS, name, on, only, problem_for

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.run.sharding.shards import plan
from circuitfind.run.sharding.worker import pack, pack_weights, unpack, unpack_weights
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray, the extra [ray], is not installed"),
    pytest.mark.usefixtures("one_ray"),
]


MODELS = {torch.float64: MODEL, torch.float32: MODEL.to(dtype=torch.float32)}


EVERY = [
    (a, ablation, parts, dtype)
    for a in ALGORITHMS
    if a.additive
    for ablation in (a.ablations if a.name == "eap" else a.ablations[:1])  # means travel alike for every algorithm
    for parts in (("", "prompt", "position") if a.name == "eap" else ("",))  # and so do parts
    for dtype in (MODELS if a.name == "eap" else (torch.float64,))
]


@pytest.mark.parametrize(("algorithm", "ablation", "parts", "dtype"), EVERY, ids=name)
def test_workers_give_the_scores_of_one_process_and_any_number_of_them_the_same_bits(
    pool, algorithm, ablation, parts, dtype
):
    problem = problem_for(algorithm, model=MODELS[dtype], ablation=ablation, parts=parts)
    alone = algorithm(problem)
    with only(pool, 1):
        one = on(pool, algorithm)(problem)
    with only(pool, 2):
        two = on(pool, algorithm)(problem)
    three = on(pool, algorithm)(problem)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(one.values, alone.values, rtol=close, atol=close)
    assert one.provenance == alone.provenance
    assert one.parts_axis == alone.parts_axis == parts
    for other in (two, three):
        assert (other.values == one.values).all()
        assert (parts == "") == (other.parts is None)
        assert other.parts is None or (other.parts == one.parts).all()
    if parts:
        assert one.parts.dtype == np.float32
        np.testing.assert_allclose(one.parts, alone.parts, rtol=1e-5, atol=1e-5)


def test_parts_that_all_prompts_have_together_are_the_same_in_every_shard(pool):
    eap, model = ALGORITHMS["eap"], cf.load_model("tasks-4l")
    pairs = tokenized_pairs(model, cf.TASKS["ioi"], split="train", n=24)
    problem = problem_for(eap, model=model, pairs=pairs, ablation="mean", parts="span")
    alone, shared = eap(problem), on(pool, eap)(problem)
    assert len(alone.parts) > 2
    largest = np.abs(alone.parts).max()
    np.testing.assert_allclose(shared.parts / largest, alone.parts / largest, atol=1e-5)
    np.testing.assert_allclose(shared.values, alone.values, rtol=1e-4, atol=1e-5 * np.abs(alone.values).max())


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("ablation", ["corrupted", "mean-positional", "optimal"])
def test_a_batch_size_is_kept(pool, size, ablation):
    problem = problem_for(ALGORITHMS["eap"], batch_size=size, ablation=ablation, parts="prompt")
    alone, shared = ALGORITHMS["eap"](problem), on(pool, ALGORITHMS["eap"])(problem)
    np.testing.assert_allclose(shared.values, alone.values, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(shared.parts, alone.parts, rtol=1e-6, atol=1e-6)


def test_one_prompt_is_enough(pool):
    problem = problem_for(ALGORITHMS["exact"], pairs=PAIRS.take([3]), ablation="mean")
    np.testing.assert_allclose(
        on(pool, ALGORITHMS["exact"])(problem).values, ALGORITHMS["exact"](problem).values, rtol=1e-12, atol=1e-12
    )


def test_prompts_of_one_token_have_positional_means(pool):
    pairs = random_pairs(MODEL, 6, shortest=1, longest=2)
    problem = problem_for(ALGORITHMS["eap"], pairs=pairs, ablation="mean-positional", batch_size=2)
    np.testing.assert_allclose(
        on(pool, ALGORITHMS["eap"])(problem).values, ALGORITHMS["eap"](problem).values, rtol=1e-12, atol=1e-12
    )


def test_a_metric_that_compares_with_the_full_model_and_one_of_ones_own(pool):
    algorithm, weight = ALGORITHMS["eap-ig-inputs"], 3.0

    def own(logits, targets):
        return weight * logits[..., 2]

    for metric in (METRICS["kl"], Metric("own", "logits", own)):
        problem = problem_for(algorithm, metric=metric)
        shared = on(pool, algorithm)(problem, steps=2, points="left").values
        np.testing.assert_allclose(shared, algorithm(problem, steps=2, points="left").values, rtol=1e-12, atol=1e-12)


def test_bfloat16_reaches_the_workers(pool):
    problem = problem_for(ALGORITHMS["eap"], model=MODEL.to(dtype=torch.bfloat16), ablation="mean")
    shared = on(pool, ALGORITHMS["eap"])(problem).values
    alone = ALGORITHMS["eap"](problem).values
    assert np.corrcoef(shared, alone)[0, 1] > 0.99


def test_discover_takes_workers():
    model = cf.load_model("induction-2l")
    alone = cf.discover(model, "induction", algorithm="eap", n=20, ablation="mean")
    shared = cf.discover(model, "induction", algorithm="eap", n=20, ablation="mean", workers=2)
    np.testing.assert_allclose(shared.values, alone.values, rtol=1e-4, atol=1e-5 * np.abs(alone.values).max())
    assert shared.provenance == alone.provenance


def test_the_command_line_takes_workers(command_line, tmp_path):
    words = ("discover", "induction", "--model", "induction-2l", "--prompts", "16", "--held-out", "8", "--random", "2")
    found = {}
    for workers in (0, 2):
        place = tmp_path / str(workers)
        code, _, err = command_line(*words, "--algorithm", "eap", "--edges", "9", "--workers", workers, "--out", place)
        assert code == 0, err
        found[workers] = json.loads((place / "circuit.json").read_text())
        assert json.loads((place / "config.json").read_text())["workers"] == workers
    assert [edge["name"] for edge in found[2]["edges"]] == [edge["name"] for edge in found[0]["edges"]]
    code, _, err = command_line(*words, "--algorithm", "acdc", "--workers", "2", "--out", tmp_path / "refused")
    assert (code, "the scores of acdc are not a mean" in err) == (2, True)
    assert not list(tmp_path.glob("refused*"))


@pytest.mark.parametrize(
    ("n", "batch_size", "expected"),
    [
        (1, None, 1),
        (7, None, 7),
        (16, None, 16),
        (256, None, 32),
        (3000, None, 64),
        (256, 1, 32),
        (300, 30, 10),
        (9, 99, 1),
    ],
)
def test_shards_hold_every_prompt_once_by_length(n, batch_size, expected):
    pairs = random_pairs(MODEL, n)
    shards = plan(problem_for(ALGORITHMS["eap"], pairs=pairs, batch_size=batch_size))
    rows = np.concatenate(shards)
    assert sorted(rows) == list(range(n))
    assert (np.diff(pairs.length[rows]) >= 0).all()
    assert len(shards) == expected
    assert all(len(shard) % (batch_size or 1) == 0 for shard in shards[:-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_tensor_survives_the_way_to_a_worker_and_back_without_a_copy(dtype):
    import ray

    tensor = torch.randn(3, 4).to(dtype).T
    array, kind = ray.get(ray.put(pack(tensor)))
    back = unpack((array, kind))
    assert not array.flags.writeable
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    assert back.data_ptr() == array.ctypes.data


def test_a_tied_head_travels_once():
    weights = {**MODEL.weights, "W_U": MODEL.weights["W_E"].T}
    model = Transformer(MODEL.config, weights)
    packed = pack_weights(model)
    assert "W_U" not in packed
    again = unpack_weights(packed, "cpu")
    assert again["W_U"].data_ptr() == again["W_E"].data_ptr()
    assert all(torch.equal(again[key], tensor) for key, tensor in weights.items())
    assert unpack_weights(pack_weights(MODEL), "cpu").keys() == MODEL.weights.keys()
