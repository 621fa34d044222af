"""A run stays within the memory it is given, and nothing but rounding depends on how much that is."""

import os
import tempfile
import warnings

import numpy as np
import pytest
import torch
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.execution import AttributionPass, make_batches, measure_circuits, measuring, prepare_ablation
from circuitfind.execution.memory import Room, attribution_numbers, budget, parse_bytes, prompts_at_a_time
from circuitfind.execution.writes import Writes, tiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 2**30), ("500 MB", 500 * 2**20), ("1.5g", 3 * 2**29), ("64KiB", 2**16), (1000, 1000), ("2T", 2**41)],
)
def test_sizes_are_read_in_powers_of_1024(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "8 GBB", "GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(OptionError, match="is not a size; write 8GB, 500MB or a number of bytes"):
        parse_bytes(text)


def test_a_limit_holds_inside_and_is_gone_outside():
    before = budget(CPU)
    with cf.memory_limit("3MB"):
        assert budget(CPU) == 3 * 2**20
        with cf.memory_limit(None):
            assert budget(CPU) == pytest.approx(before, rel=0.5)
    assert budget(CPU) == pytest.approx(before, rel=0.5)


def test_fewer_prompts_are_taken_at_a_time_where_memory_is_short():
    model = small_model()
    sizes = []
    for limit in ("100KB", "1MB", "100MB"):
        with cf.memory_limit(limit):
            sizes.append(prompts_at_a_time(model, attribution_numbers(model), 7, 256))
    assert sizes[0] == 1
    assert sizes[0] < sizes[1] < sizes[2] <= 256


@pytest.mark.parametrize(
    ("name", "ablation"),
    [
        (name, ablation)
        for name in ("eap", "eap-ig-inputs", "exact", "acdc")
        for ablation in ("corrupted", "mean-positional")
        if ablation in ALGORITHMS[name].ablations
    ],
)
def test_the_limit_changes_no_score(name, ablation):
    model = small_model(n_heads=2)
    problem = Problem(model, random_pairs(model, 9), METRICS["logit-diff"], ablation)
    with cf.memory_limit("10GB"):
        wide = ALGORITHMS[name](problem).values
    with cf.memory_limit("20KB"):  # one prompt at a time, ports computed again, the search's state on disk
        narrow = ALGORITHMS[name](problem).values
    np.testing.assert_allclose(narrow, wide, rtol=1e-9, atol=1e-11)


def test_a_prompt_that_does_not_fit_is_computed_again_in_the_backward_pass():
    model = small_model()
    pairs = random_pairs(model)
    (batch,) = make_batches(model, pairs, len(pairs))
    for limit, expected in (("10KB", True), ("1GB", False)):
        with cf.memory_limit(limit):
            run = AttributionPass(model, batch, model.embed(batch.clean))
        assert run.recompute is expected
        assert (run.layers[0].ports is None) is expected


def test_a_search_that_does_not_fit_goes_to_a_file_that_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    room = Room(on_disk=True)
    kept = room.keep(torch.arange(6.0).view(2, 3))
    assert torch.equal(kept, torch.arange(6.0).view(2, 3))
    kept += 1
    assert float(kept.sum()) == 21
    assert list(tmp_path.iterdir()) == []


def test_circuits_are_measured_in_halves_where_memory_runs_out(monkeypatch):
    model = small_model()
    pairs, metric = random_pairs(model, 8), METRICS["logit-diff"]
    masks = np.random.default_rng(0).random((2, model.graph.n_edges)) < 0.5
    ablation = prepare_ablation("corrupted", model, make_batches(model, pairs))
    whole = measure_circuits(model, pairs, masks, [metric], ablation)[metric.name]
    original = measuring.run_circuit

    def tight(model, batch, *rest, **options):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return original(model, batch, *rest, **options)

    monkeypatch.setattr(measuring, "run_circuit", tight)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        halves = measure_circuits(model, pairs, masks, [metric], ablation)[metric.name]
    np.testing.assert_allclose(halves, whole, rtol=1e-12)
    assert any("going on with half as many" in str(one.message) for one in said)


@pytest.mark.parametrize("tokens", [1, 3, 7, 8, 20, 1000])
def test_tiles_cover_every_token_once_and_are_no_larger_than_asked(tokens):
    seen = np.zeros((5, 7), dtype=int)
    for prompts, positions in tiles(torch.Size((5, 7)), tokens):
        assert seen[prompts, positions].size <= max(tokens, 1)
        seen[prompts, positions] += 1
    assert (seen == 1).all()


def test_tiles_of_writes_are_the_writes():
    model = small_model()
    pairs = random_pairs(model)
    writes = Writes.run(model, torch.from_numpy(pairs.clean))
    whole = writes.dense
    for prompts, positions in tiles(writes.entry.shape[:2], 4):
        torch.testing.assert_close(writes.tile(prompts, positions), whole[:, prompts, positions])


@pytest.mark.parametrize("name", ["eap", "eap-ig-inputs"])
def test_bfloat16_scores_are_those_of_float32_to_its_rounding(name):
    def scores(**where) -> np.ndarray:
        return cf.discover(cf.load_model("tasks-4l", **where), "ioi", algorithm=name, n=32).values

    exact, half = scores(), scores(dtype="bfloat16")
    assert np.abs(half - exact).max() < 0.01 * np.abs(exact).max()
    assert half.dtype == np.float64  # sums are not made in half precision


@pytest.mark.parametrize("name", ["eap", "eap-ig-inputs", "exact", "acdc"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_scores_of_the_cpu(name):
    pairs, metric = random_pairs(small_model(n_heads=2)), METRICS["logit-diff"]
    scores = [
        ALGORITHMS[name](Problem(small_model(n_heads=2).to(device), pairs, metric)).values for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*scores, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["eap", "exact"])
def test_a_run_goes_on_right_where_less_or_more_memory_is_free_than_when_it_was_interrupted(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0)
    model = small_model(n_heads=2)
    pairs = random_pairs(model, 9)
    whole = ALGORITHMS[name](Problem(model, pairs, METRICS["logit-diff"])).values

    def problem() -> Problem:
        checkpoint = progress.Checkpoint(tmp_path / "sums.safetensors", "a run")
        return Problem(model, pairs, METRICS["logit-diff"], checkpoint=checkpoint)

    saved = progress.Checkpoint.save

    def stop_after(self, sums, done, **options):
        saved(self, sums, done, **options)
        if done == 4:
            raise KeyboardInterrupt

    with cf.memory_limit("20KB"), monkeypatch.context() as patched:
        patched.setattr(progress.Checkpoint, "save", stop_after)
        with pytest.raises(KeyboardInterrupt):
            ALGORITHMS[name](problem())
    with cf.memory_limit("1GB"):
        np.testing.assert_allclose(ALGORITHMS[name](problem()).values, whole, rtol=1e-9, atol=1e-11)
    assert not (tmp_path / "sums.safetensors").exists()


def test_a_full_disk_is_an_error_and_not_a_crash(monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        cf.CircuitfindError, match=r"MB more on disk than there is in .*give it more with --memory or TMPDIR"
    ):
        Room(on_disk=True).keep(torch.zeros(3))


def test_many_tensors_share_one_file():
    room = Room(on_disk=True)
    kept = [room.keep(torch.full((3, 5), float(number))) for number in range(50)]
    assert all(torch.equal(part, torch.full((3, 5), float(number))) for number, part in enumerate(kept))
    assert len({part.untyped_storage().data_ptr() for part in kept}) == 1


def test_inference_mode_outside_changes_nothing():
    model = small_model()
    problem = Problem(model, random_pairs(model), METRICS["logit-diff"])
    expected = ALGORITHMS["eap"](problem).values
    with torch.inference_mode():
        assert (ALGORITHMS["eap"](problem).values == expected).all()
        loaded = cf.load_model("induction-2l")
    assert np.isfinite(cf.discover(loaded, "induction", algorithm="eap", n=8).values).all()


def test_no_pairs_are_refused():
    model = small_model()
    with pytest.raises(OptionError, match="there are no prompt pairs"):
        Problem(model, random_pairs(model).take([]), METRICS["logit-diff"])


def test_the_checksum_of_weights_depends_on_every_byte_and_on_no_thread():
    model = small_model()
    first = model.checksum()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert model.checksum() == first
    torch.set_num_threads(threads)
    flipped = model.weights | {"W_U": model.weights["W_U"].flip(1)}
    assert model.with_weights(flipped).checksum() != first


def shifted(pairs: TokenPairs, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same prompts padded on the left, and their attention mask."""
    clean, corrupted, mask = (np.full(pairs.clean.shape, pad) for _ in range(3))
    mask[:] = 0
    for row, length in enumerate(pairs.length):
        clean[row, -length:], corrupted[row, -length:] = pairs.clean[row, :length], pairs.corrupted[row, :length]
        mask[row, -length:] = 1
    return clean, corrupted, mask


@pytest.mark.parametrize("name", ["eap", "eap-ig-inputs", "acdc"])
def test_ids_padded_left_or_right_with_a_mask_give_the_same_scores(name):
    model = small_model(positions="learned")
    pairs = random_pairs(model, 6)
    expected = ALGORITHMS[name](Problem(model, pairs, METRICS["logit-diff"])).values
    left, corrupted, mask = shifted(pairs, pad=3)
    from_left = TokenPairs.from_ids(left, corrupted, pairs.correct, pairs.incorrect, mask=mask)
    right_mask = np.arange(pairs.clean.shape[1]) < pairs.length[:, None]
    from_right = TokenPairs.from_ids(pairs.clean, pairs.corrupted, pairs.correct, pairs.incorrect, mask=right_mask)
    for padded in (from_left, from_right):
        assert (padded.length == pairs.length).all()
        got = ALGORITHMS[name](Problem(model, padded, METRICS["logit-diff"])).values
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.array([[1, 0, 1], [1, 1, 1]])}, "row 1 of the mask has padding between tokens"),
        ({"mask": np.zeros((2, 3))}, "row 1 of the mask has no token"),
        ({"mask": np.ones((2, 4))}, r"the mask is \(2, 4\), the ids are \(2, 3\)"),
        ({"corrupted": np.ones((2, 4), dtype=int)}, r"clean ids are \(2, 3\), corrupted ids \(2, 4\)"),
        ({"correct": np.array([[1], [2], [3]])}, "3 rows of correct answers for 2 prompts"),
    ],
)
def test_ids_that_do_not_fit_each_other_are_refused(changes, message):
    given = {"clean": np.ones((2, 3), int), "corrupted": np.ones((2, 3), int), "correct": np.array([[1], [2]])}
    with pytest.raises(cf.CircuitfindError, match=message):
        TokenPairs.from_ids(**(given | changes))
