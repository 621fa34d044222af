"""What every discovery algorithm owes, whichever it is: a new file in ``circuitfind/discovery`` is tested here at once."""

import hashlib
import os
import pkgutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attribution import MODEL, PAIRS, SHORT, problem_for, scored
from builders import TIGHT, small_model

import circuitfind as cf
from circuitfind import discovery, progress
from circuitfind.discovery.contract import ALGORITHMS, PARTS, Algorithm, Problem, sums
from circuitfind.errors import NumericalError, OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.progress import Checkpoint
from circuitfind.run.estimate import estimate
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.task.metrics import METRICS

every = pytest.mark.parametrize("algorithm", list(ALGORITHMS), ids=lambda algorithm: algorithm.name)


# --- what it is -------------------------------------------------------------------------------------------------------


@every
def test_the_name_is_the_file_stem_with_dashes(algorithm):
    assert algorithm.run.__module__ == f"{discovery.__name__}.{algorithm.name.replace('-', '_')}"


def test_every_file_of_the_folder_is_an_algorithm():
    files = {info.name for info in pkgutil.iter_modules(discovery.__path__) if not info.ispkg}
    assert files == {algorithm.name.replace("-", "_") for algorithm in ALGORITHMS}


@every
def test_it_says_what_it_is_where_it_is_from_and_what_it_costs(algorithm):
    assert all((algorithm.description, algorithm.paper, algorithm.cost))
    assert algorithm.run.__doc__
    assert set(algorithm.ablations) <= set(ABLATIONS)
    assert set(algorithm.parts) <= set(PARTS) - {""}
    assert algorithm.forwards(MODEL.graph, algorithm.options) >= 0
    line = estimate(cf.Setting("ioi", MODEL, pairs=PAIRS), algorithm.name, algorithm.options)
    assert line.startswith(f"{algorithm.name}: {MODEL.graph.n_edges} edges, {'at most ' * algorithm.worst_case}about ")
    assert line.count("at most") == 3 * algorithm.worst_case
    assert line.endswith("the cost follows the circuit") == algorithm.worst_case


@every
def test_options_can_be_given_as_text(algorithm):
    for name, default in algorithm.options.items():
        assert type(default) in (int, float, bool, str, tuple)
        assert algorithm.resolve({name: str(default)}) == algorithm.resolve({}) == dict(algorithm.options)


# --- what it gives ----------------------------------------------------------------------------------------------------


@every
def test_it_gives_a_finite_score_for_every_edge_and_says_where_they_are_from(algorithm):
    model = cf.load_model("induction-2l")
    scores = cf.discover(
        model, "induction", algorithm=algorithm.name, ablation=algorithm.ablations[0], n=4, seed=3, metric="prob-diff"
    )
    assert isinstance(scores, EdgeScores)
    assert scores.values.shape == (model.graph.n_edges,)
    assert np.isfinite(scores.values).all()
    assert scores.values.std() > 0
    p = scores.provenance
    may_be_empty = ("options", "task_options", "signed", "metric_source", "reference_hash", "bos")
    assert all(getattr(p, field.name) for field in fields(p) if field.name not in may_be_empty)
    assert p.signed == algorithm.signed
    assert p.signed or scores.values.min() >= 0
    assert (p.model, p.task, p.split, p.n_prompts, p.seed) == ("induction-2l", "induction", "train", 4, 3)
    assert (p.metric, p.unit, p.ablation) == ("prob-diff", "probability difference", algorithm.ablations[0])
    assert (p.algorithm, p.options) == (algorithm.name, dict(algorithm.options))


@every
def test_the_same_seed_gives_the_same_bits_whatever_else_draws_random_numbers(algorithm):
    torch.manual_seed(1)
    first = scored(algorithm, seed=7).values
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert (scored(algorithm, seed=7).values == first).all()
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_the_batch_size_changes_nothing(algorithm):
    whole = scored(algorithm).values
    np.testing.assert_allclose(scored(algorithm, batch_size=2).values, whole, **TIGHT)


@every
def test_the_order_of_prompts_changes_nothing(algorithm):
    shuffled = PAIRS.take(np.array([2, 0, 1]))
    expected = scored(algorithm).values
    np.testing.assert_allclose(scored(algorithm, pairs=shuffled).values, expected, **TIGHT)


@every
def test_the_model_is_left_as_it_was(algorithm):
    model = small_model()
    before = {key: tensor.clone() for key, tensor in model.weights.items()}
    scored(algorithm, model=model)
    assert all(torch.equal(model.weights[key], tensor) for key, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in model.weights.values())


@every
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_is_used_or_refused(algorithm, ablation):
    problem = problem_for(algorithm, ablation=ablation)
    if ablation in algorithm.ablations:
        scores = algorithm(problem, **SHORT.get(algorithm.name, {}))
        assert scores.provenance.ablation == ablation
        assert np.isfinite(scores.values).all()
        return
    with pytest.raises(OptionError, match=f"{algorithm.name} is not defined for '{ablation}' ablation; use one of"):
        algorithm(problem)


@every
@pytest.mark.parametrize("axis", ["prompt", "position"])
def test_parts_sum_to_the_total_or_are_refused(algorithm, axis):
    problem = problem_for(algorithm, parts=axis)
    if axis not in algorithm.parts:
        with pytest.raises(OptionError, match=f"{algorithm.name} cannot keep scores apart by '{axis}'"):
            algorithm(problem)
        return
    scores, whole = algorithm(problem, **SHORT.get(algorithm.name, {})), scored(algorithm)
    assert scores.parts_axis == axis
    assert scores.parts.shape == (len(PAIRS) if axis == "prompt" else PAIRS.clean.shape[1], MODEL.graph.n_edges)
    np.testing.assert_allclose(scores.values, whole.values, **TIGHT)
    np.testing.assert_allclose(scores.parts.sum(0) / len(PAIRS), whole.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if "prompt" in a.parts], ids=lambda a: a.name)
def test_a_prompts_part_is_the_score_on_that_prompt_alone(algorithm):
    parts = scored(algorithm, parts="prompt", batch_size=2).parts
    for row in range(len(PAIRS)):
        alone = scored(algorithm, pairs=PAIRS.take([row])).values
        np.testing.assert_allclose(parts[row], alone, rtol=1e-4, atol=1e-5)


HASH_ALL = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from attribution import ALGORITHMS, scored
for algorithm in ALGORITHMS:
    print(algorithm.name, hashlib.sha256(scored(algorithm).values.tobytes()).hexdigest())
"""


def test_scores_do_not_depend_on_the_hash_seed():
    outputs = ["".join(f"{a.name} {hashlib.sha256(scored(a).values.tobytes()).hexdigest()}\n" for a in ALGORITHMS)]
    for seed in ("1",):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        code = HASH_ALL.format(tests=str(Path(__file__).parents[1]))
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[::2] == [algorithm.name for algorithm in ALGORITHMS]


# --- interruptions ----------------------------------------------------------------------------------------------------


class Steps:
    """Counts the steps of a loop and interrupts one of them."""

    def __init__(self, monkeypatch, interrupted: int | None = None) -> None:
        self.done = 0
        original = sums.in_pieces

        def counted(step, contribute):
            if self.done == interrupted:
                raise KeyboardInterrupt
            self.done += 1
            return original(step, contribute)

        monkeypatch.setattr(sums, "in_pieces", counted)


@every
def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same_bits(algorithm, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    place = tmp_path / "checkpoint.safetensors"
    problem = problem_for(algorithm, batch_size=1, checkpoint=Checkpoint(place, "this run"))
    short = SHORT.get(algorithm.name, {})
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        expected = algorithm(replace(problem, checkpoint=Checkpoint()), **short).values
    if steps.done < 4:
        pytest.skip(f"{algorithm.name} has no loop of steps to interrupt")
    with monkeypatch.context() as patch:
        Steps(patch, interrupted=3)
        with pytest.raises(KeyboardInterrupt):
            algorithm(problem, **short)
    assert place.exists()
    with monkeypatch.context() as patch:
        rest = Steps(patch)
        resumed = algorithm(replace(problem, checkpoint=Checkpoint(place, "this run")), **short).values
    assert rest.done == steps.done - 3
    assert (resumed == expected).all()
    assert not place.exists()


# --- what is refused --------------------------------------------------------------------------------------------------


@every
def test_an_unknown_option_is_refused(algorithm):
    with pytest.raises(UnknownNameError, match=f"unknown option of algorithm '{algorithm.name}' 'stepz'"):
        algorithm(problem_for(algorithm), stepz=3)


NUMBERS = [(a, name) for a in ALGORITHMS for name, default in a.options.items() if type(default) in (int, float)]


@pytest.mark.parametrize(("algorithm", "option"), NUMBERS, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("value", ["many", None, [3]])
def test_a_value_of_another_type_is_refused(algorithm, option, value):
    with pytest.raises(OptionError, match=rf"option {option} of '{algorithm.name}' is .*; it should be a"):
        algorithm.resolve({option: value})


@every
def test_nan_in_the_model_is_located(algorithm):
    model = small_model()
    model.weights["layers.1.W_V"][0, 0] = torch.nan
    problem = problem_for(algorithm, model=model)
    if algorithm.forwards(MODEL.graph, algorithm.options) == 0:  # it never looks at the model
        assert (algorithm(problem).values == scored(algorithm).values).all()
        return
    with pytest.raises(NumericalError, match="NaN or infinity in model 'random' after layer 1, on the clean prompt of"):
        algorithm(problem)


def test_options_have_the_type_of_their_default():
    def run(problem, *, steps: int = 5, share: float = 0.5, plain: bool = False, points: str = "left"):
        return None

    taken = Algorithm("sample", run, "", "").resolve
    assert taken({"steps": "7", "share": "2", "plain": "no", "points": "right"}) == {
        "steps": 7,
        "share": 2.0,
        "plain": False,
        "points": "right",
    }
    assert taken({"steps": 7.0, "share": 1, "plain": True})["share"] == 1.0
    assert taken({"plain": "True"})["plain"] is True
    for wrong, kind in (
        ({"steps": "2.5"}, "a whole number"),
        ({"steps": 2.5}, "a whole number"),
        ({"share": "half"}, "a number"),
        ({"plain": "perhaps"}, "true or false"),
        ({"points": 3}, "text"),
    ):
        with pytest.raises(OptionError, match=f"it should be {kind}"):
            taken(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": "head"}, "parts='head'"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        Problem(MODEL, PAIRS, METRICS["logit-diff"], **changes)


def test_a_metric_that_needs_wrong_answers_is_refused_without_them():
    none = replace(PAIRS, incorrect=PAIRS.incorrect[:, :0])
    with pytest.raises(OptionError, match="'logit-diff' needs incorrect answers, and these pairs have none"):
        Problem(MODEL, none, METRICS["logit-diff"])
    some = PAIRS.incorrect.copy()
    some[2] = -1
    with pytest.raises(OptionError, match="and pair 3 has none; add them, or use the metric nll or kl"):
        Problem(MODEL, replace(PAIRS, incorrect=some), METRICS["prob-diff"])
    assert Problem(MODEL, none, METRICS["nll"]).metric.name == "nll"


def test_scores_carry_the_provenance_that_was_given():
    known = Provenance(model="mine", task="words", split="train", n_prompts=5, pairs_hash="abc")
    p = ALGORITHMS["random-edges"](problem_for(ALGORITHMS["random-edges"], provenance=known)).provenance
    assert replace(known, metric=p.metric, unit=p.unit, ablation=p.ablation, algorithm="random-edges") == p


def test_an_unknown_algorithm_gets_the_nearest_names():
    with pytest.raises(UnknownNameError, match=r"unknown algorithm 'eapig'.*Did you mean"):
        ALGORITHMS["eapig"]


def test_hashes_of_scores_tell_them_apart():
    """The comparison of hashes above means something."""
    one, two = (ALGORITHMS["random-edges"](problem_for(ALGORITHMS["random-edges"], seed=s)).values for s in (0, 1))
    assert hashlib.sha256(one.tobytes()).digest() != hashlib.sha256(two.tobytes()).digest()
