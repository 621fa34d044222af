"""ACDC goes on where it was stopped, and refuses what makes no sense."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from builders import random_pairs, small_model
from naive_acdc import ACDC, zoo_problem

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import Problem
from circuitfind.errors import NumericalError, OptionError
from circuitfind.execution.recompute.cuts import Page
from circuitfind.progress import Checkpoint
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer


@pytest.mark.parametrize(
    "options", [{}, {"direct_edges": True}, {"split_qkv": False}, {"threshold": (0.05, 0.005)}], ids=str
)
def test_an_interrupted_search_goes_on_where_it_was_and_gives_the_same_bits(options, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    options = {"threshold": 0.005, **options}
    expected = ACDC(zoo_problem(n=4), **options)
    writes = Page.write
    count = [0]

    def counted(self, rows):
        writes(self, rows)
        count[0] += 1
        if count[0] in (5, 40, 41, 90, 200):
            raise KeyboardInterrupt

    monkeypatch.setattr(Page, "write", counted)
    problem = zoo_problem(n=4, checkpoint=Checkpoint(tmp_path / "checkpoint.safetensors", "this run"))
    interruptions = 0
    while True:
        try:
            resumed = ACDC(problem, **options)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 3
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert (resumed.values == expected.values).all()
    for one, two in zip(resumed.decisions, expected.decisions, strict=True):
        assert (one.values[:, :4] == two.values[:, :4]).all()


def test_a_killed_run_is_resumed_to_the_same_circuit_byte_for_byte(tmp_path):
    command = [sys.executable, "-m", "circuitfind", "discover", "docstring", "--algorithm", "acdc", "--prompts", "24"]
    command += ["--option", "threshold=0.002", "--held-out", "8", "--random", "2"]
    environment = {**os.environ, "CIRCUITFIND_QUIET": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = "import runpy, sys, circuitfind.progress as p; p.SECONDS_BETWEEN_SAVES = 0.0; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('circuitfind', run_name='__main__', alter_sys=True)"
    slow = [sys.executable, "-c", code, *command[2:]]
    checkpoint = tmp_path / "killed.partial" / "checkpoint.safetensors"
    running = subprocess.Popen(
        [*slow, "--out", str(tmp_path / "killed")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(3000):
        if checkpoint.exists() or running.poll() is not None:
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert checkpoint.exists()
    for name in ("killed", "whole"):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)], env=environment, capture_output=True, text=True, check=True
        )
        assert ("going on with the interrupted run" in done.stdout) == (name == "killed")
    assert (tmp_path / "killed/circuit.json").read_bytes() == (tmp_path / "whole/circuit.json").read_bytes()


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_what_was_decided(tmp_path):
    model = small_model()
    calls = [0]

    def breaks(logits, targets):
        calls[0] += 1
        return METRICS["nll"](logits, targets) * (torch.nan if calls[0] == 12 else 1)

    pairs = random_pairs(model)
    place = Checkpoint(tmp_path / "checkpoint.safetensors", "this run")
    problem = Problem(model, pairs, Metric("breaks", "nats", breaks, larger_is_better=False), checkpoint=place)
    with pytest.raises(
        NumericalError, match=r"the loss is nan without .*->.* and .* with it, so no decision can be made"
    ):
        ACDC(problem, threshold=0.01, width=1)
    assert (tmp_path / "checkpoint.safetensors").exists()
    mended = replace(problem, metric=METRICS["nll"])
    resumed = ACDC(mended, threshold=0.01, width=1)
    assert (resumed.values == ACDC(replace(mended, checkpoint=Checkpoint()), threshold=0.01, width=1).values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "0 or more"),
        ({"threshold": "nan"}, "0 or more"),
        ({"threshold": ""}, "numbers, separated by commas"),
        ({"threshold": "0.1;0.2"}, "numbers, separated by commas"),
        ({"heads": "shuffle"}, "high-to-low or low-to-high"),
        ({"direct_edges": True, "split_qkv": False}, "need split_qkv=true"),
        ({"width": -1}, "or 0 to let circuitfind choose"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    model = small_model()
    with pytest.raises(OptionError, match=message):
        ACDC(Problem(model, random_pairs(model), METRICS["kl"]), **options)


def test_kl_is_the_metric_where_none_is_asked_for():
    model = cf.load_model("induction-2l")
    assert cf.discover(model, "induction", algorithm="acdc", n=2, threshold=0.5).provenance.metric == "kl"
    chosen = cf.discover(model, "induction", algorithm="acdc", n=2, threshold=0.5, metric="prob-diff")
    assert chosen.provenance.metric == "prob-diff"
    assert json.dumps(chosen.provenance.options["threshold"]) == "[0.5]"
    assert isinstance(model, Transformer)
    assert isinstance(random_pairs(small_model()), TokenPairs)
