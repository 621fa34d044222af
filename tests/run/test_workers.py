"""Workers that die, are busy or are missing: nothing is lost, and it is said."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attribution import MODEL
from builders import small_model
from crews import CPU, MARK, PAIRS, none_left, on, only, problem_for

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Algorithm
from circuitfind.errors import CircuitfindError, NumericalError, OptionError
from circuitfind.progress import Checkpoint
from circuitfind.run.sharding import Pool, WorkersDiedError, check_workers, connected, room, sharded
from circuitfind.run.sharding import cluster as clusters
from circuitfind.run.sharding import pool as pools_module
from circuitfind.run.sharding.shards import plan
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray, the extra [ray], is not installed"),
    pytest.mark.usefixtures("one_ray"),
]


def deadly(folder: Path) -> Algorithm:
    """EAP whose first two workers are killed at the shard with the last row; a file is left for each."""
    eap, last = ALGORITHMS["eap"], PAIRS.clean[np.argsort(PAIRS.length, kind="stable")[-1]]

    def run(problem):
        rows = problem.pairs.clean
        if rows.shape[1] == len(last) and (rows == last).all(1).any() and len(list(folder.iterdir())) < 2:
            (folder / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return eap.run(problem)

    return replace(eap, run=run)


def test_a_worker_that_is_killed_at_its_work_changes_nothing(pool, tmp_path):
    problem = problem_for(ALGORITHMS["eap"], ablation="mean", parts="prompt")
    expected = on(pool, ALGORITHMS["eap"])(problem)
    scores = on(pool, deadly(tmp_path))(problem)
    assert len(list(tmp_path.iterdir())) == 2  # two processes were killed
    assert (scores.values == expected.values).all()
    assert (scores.parts == expected.parts).all()


def light(start=os.getpid):
    """A class of workers that need no torch and do what they are told. (In a function, so that Ray sends the code.)"""

    class Light:
        def ready(self):
            return start()

        def pid(self, number):
            return os.getpid()

        def deadly(self, number, dies):
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)

        def gpu(self, number):
            time.sleep(0.2)
            return os.environ["CUDA_VISIBLE_DEVICES"]

        def sleepy(self, number, seconds):
            time.sleep(seconds)
            return number

    return Light


def test_a_worker_that_dies_between_two_tasks_is_replaced():
    with Pool(light(), 1, CPU) as pool:
        (first,) = pool.in_order("pid", [(0,)])
        os.kill(first, signal.SIGKILL)
        later = list(pool.in_order("pid", [(0,), (1,)]))
    assert later[0] == later[1] != first


def test_results_come_in_the_order_of_the_tasks_whichever_is_done_first():
    with Pool(light(), 3, CPU) as pool:
        tasks = [(number, 0.3 if number == 0 else 0.0) for number in range(9)]
        assert list(pool.in_order("sleepy", tasks)) == list(range(9))
        assert list(pool.in_order("sleepy", [])) == []


def test_three_deaths_on_one_task_are_an_error():
    with Pool(light(), 2, CPU) as workers:
        tasks = [(number, number == 5) for number in range(9)]
        message = r"3 workers died in a row on the same prompts \(shard 6\); give fewer workers if memory is short"
        with pytest.raises(CircuitfindError, match=message) as caught:
            list(workers.in_order("deadly", tasks))
        assert "Traceback" not in str(caught.value)
        assert list(workers.in_order("sleepy", [(number, 0.0) for number in range(9)])) == list(range(9))


def test_results_as_they_are_done_have_the_errors_of_single_tasks_in_their_place():
    class Mixed(light()):
        def mixed(self, number):
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 3:
                raise OptionError("not this one")
            return number

    with Pool(Mixed, 2, CPU) as workers:
        done = dict(workers.as_done("mixed", [(number,) for number in range(6)]))
    assert sorted(done) == list(range(6))
    assert [done[number] for number in (0, 2, 4, 5)] == [0, 2, 4, 5]
    assert (type(done[1]), done[1].deaths) == (WorkersDiedError, 3)
    assert (type(done[3]), str(done[3])) == (OptionError, "not this one")


def test_workers_that_die_on_starting_are_an_error():
    kind = light(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with (
        pytest.raises(CircuitfindError, match="3 workers died in a row on starting"),
        Pool(kind, 1, CPU) as pool,
    ):
        next(pool.in_order("pid", [(0,)]))


def test_a_machine_without_circuitfind_is_an_error_that_says_so():
    def start():
        raise ModuleNotFoundError("No module named 'circuitfind'")

    message = "a worker could not start; install the same circuitfind on every machine. .*No module named 'circuitfind'"
    with pytest.raises(CircuitfindError, match=message), Pool(light(start), 1, CPU) as pool:
        next(pool.in_order("pid", [(0,)]))


def test_a_class_that_workers_cannot_import_is_an_error_with_the_reason():
    message = "3 workers died .* on starting; .* the same circuitfind on every machine.*No module named 'test_workers'"
    with pytest.raises(CircuitfindError, match=message), Pool(Elsewhere, 1, CPU) as pool:
        next(pool.in_order("pid", [(0,)]))


class Elsewhere:
    """A class of this module, which pytest alone knows where to find."""

    def ready(self): ...


def test_a_cluster_that_is_busy_is_not_waited_for_forever(monkeypatch):
    with Pool(light(), 2, {"num_gpus": 1}) as first:
        assert len(set(first.in_order("gpu", [(n,) for n in range(6)]))) == 2  # each worker has its own
        monkeypatch.setattr(pools_module, "PATIENCE", 0.5)
        with (
            pytest.raises(CircuitfindError, match=r"none of 1 workers started within 0 s; Ray has .*CPU.* free"),
            Pool(light(), 1, {"num_gpus": 1}) as second,
        ):
            next(second.in_order("pid", [(0,)]))


def test_nan_in_the_model_is_located_with_the_number_of_the_pair(pool):
    model = small_model()
    model.weights["W_E"][PAIRS.clean[13, 1]] = torch.nan
    with pytest.raises(NumericalError) as alone:
        ALGORITHMS["eap"](problem_for(ALGORITHMS["eap"], model=model))
    with pytest.raises(NumericalError, match=r"after the embedding, on the .* prompt of pair") as shared:
        on(pool, ALGORITHMS["eap"])(problem_for(ALGORITHMS["eap"], model=model))
    assert str(shared.value).split(";")[0] == str(alone.value).split(";")[0]


@pytest.mark.parametrize("error", [OptionError("steps=0: give at least 1"), ZeroDivisionError("in the metric")])
def test_what_the_algorithm_raises_is_raised_as_itself(pool, error):
    def run(problem):
        raise error

    with pytest.raises(type(error)) as caught:
        on(pool, replace(ALGORITHMS["eap"], run=run))(problem_for(ALGORITHMS["eap"]))
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_algorithms_whose_prompts_belong_together_are_refused_before_anything_is_loaded():
    for algorithm in (a for a in ALGORITHMS if not a.additive):
        with pytest.raises(
            OptionError, match=f"the scores of {algorithm.name} are not a mean .* or one of .*eap, .*exact"
        ):
            cf.discover(cf.Setting("ioi", model="no-such-model"), algorithm=algorithm.name, workers=2)
        check_workers(algorithm, 0)
    assert not ALGORITHMS["acdc"].additive
    with pytest.raises(OptionError, match="workers -1: give 0"):
        cf.discover(cf.Setting("ioi", model="no-such-model"), algorithm="eap", workers=-1)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"Ray is not installed; pip install 'circuitfind\[ray\]'"):
        sharded(ALGORITHMS["eap"], 1)
    assert sharded(ALGORITHMS["eap"], 0) is ALGORITHMS["eap"]


def test_more_workers_than_the_cluster_has_room_for_are_refused(monkeypatch):
    with pytest.raises(OptionError, match="workers 9: each needs a CPU, and Ray has 8; give at most 8"):
        sharded(ALGORITHMS["eap"], 9)(problem_for(ALGORITHMS["eap"]))
    monkeypatch.setattr(Transformer, "device", torch.device("cuda:1"))
    with pytest.raises(OptionError, match="workers 3: each needs a GPU, and Ray has 2; give at most 2"):
        sharded(ALGORITHMS["eap"], 3).run(problem_for(ALGORITHMS["eap"]))


def test_workers_of_several_cpus_need_room_for_all_of_them():
    assert (room(), room(gpus=True)) == (8, 2)
    with connected(2, each=4):
        pass
    with (
        pytest.raises(OptionError, match="workers 3: each needs 3 CPUs, and Ray has 8; give at most 2"),
        connected(3, each=3),
    ):
        pass


def test_a_metric_that_cannot_travel_is_refused(pool):
    lock = __import__("threading").Lock()
    metric = Metric("own", "logits", lambda logits, targets: logits[..., 0] if lock else logits[..., 1])
    with pytest.raises(OptionError, match="the metric 'own' or the algorithm cannot be sent to workers"):
        on(pool, ALGORITHMS["eap"])(problem_for(ALGORITHMS["eap"], metric=metric))


def test_a_ray_that_was_there_before_stays():
    import ray

    with connected(2):
        pass
    assert ray.is_initialized()


def test_an_interrupted_run_goes_on_with_any_number_of_workers(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    eap, log, place = ALGORITHMS["eap"], tmp_path / "log", tmp_path / "checkpoint.safetensors"

    def run(problem):
        with log.open("a") as file:
            file.write("x")
        return eap.run(problem)

    noting = replace(eap, run=run)
    problem = problem_for(eap, parts="position", ablation="mean", checkpoint=Checkpoint(place, "this run"))
    expected = on(pool, eap)(replace(problem, checkpoint=Checkpoint()))
    shards = plan(problem)
    original = Checkpoint.save

    def interrupted(self, sums, done, **options):
        original(self, sums, done, **options)
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            on(pool, noting)(problem)
    assert place.exists()
    with only(pool, 2):  # and nothing of the interrupted run is still going on
        pass
    log.write_text("")
    with only(pool, 2):
        scores = on(pool, noting)(problem)
    assert len(log.read_text()) == len(shards) - 4
    assert (scores.values == expected.values).all()
    assert (scores.parts == expected.parts).all()
    assert not place.exists()


def test_sums_of_another_division_are_refused(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    place = tmp_path / "checkpoint.safetensors"
    problem = problem_for(ALGORITHMS["eap"], checkpoint=Checkpoint(place, "this run"))
    problem.checkpoint.save(np.zeros((1, MODEL.graph.n_edges)), 1)
    with pytest.raises(CircuitfindError, match="belongs to a run with other settings"):
        on(pool, ALGORITHMS["eap"])(problem)


OWN = """
import sys
import circuitfind as cf
scores = cf.discover(cf.load_model("induction-2l"), "induction", algorithm="eap", n=20, workers=1)
import ray
print(scores.values.sum(), ray.is_initialized())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], env=variables, capture_output=True, text=True)


def test_a_ray_of_our_own_is_quiet_and_leaves_nothing_behind():
    mark = uuid.uuid4().hex
    run = python(OWN, **{MARK: mark})
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.split()[1] == "False"
    expected = cf.discover(cf.load_model("induction-2l"), "induction", algorithm="eap", n=20).values.sum()
    assert float(run.stdout.split()[0]) == pytest.approx(expected, rel=1e-4)
    assert none_left(mark)


def test_a_cluster_that_is_not_there_is_an_error_that_names_it():
    run = python(
        "from circuitfind.run.sharding import connected\nwith connected(1):\n    pass",
        RAY_ADDRESS="127.0.0.1:1",
        **{MARK: "x"},
    )
    assert "OptionError: no connection to the Ray cluster of RAY_ADDRESS=127.0.0.1:1 ([Errno 111]" in run.stderr
    run = python(
        "from circuitfind.run.sharding import connected\nwith connected(1, address='127.0.0.1:2'):\n    pass",
        RAY_ADDRESS="127.0.0.1:1",
    )
    assert "no connection to the Ray cluster of 127.0.0.1:2 ([Errno 111]" in run.stderr
