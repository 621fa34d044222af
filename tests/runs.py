"""Runs from one flat list of what is asked for, as a command line gives it: part of it is the setting, part the rest."""

from dataclasses import fields

from circuitfind import progress
from circuitfind.discovery.contract import sums
from circuitfind.run import pipeline
from circuitfind.run.pipeline import Run
from circuitfind.run.request import RunConfig
from circuitfind.setting.value import Setting

FILES = {
    "config.json",
    "scores.safetensors",
    "circuit.json",
    "edges.csv",
    "evaluation.json",
    "circuit.dot",
    "circuit.svg",
    "circuit.png",
    "curve.csv",
    "curve.svg",
    "curve.png",
    "versions.json",
    "summary.txt",
}
"""What a finished run folder holds."""
CONFIG = {"n": 8, "n_held_out": 6, "n_random": 2, "seed": 1, "batch_size": 4}
"""A small run of IOI, the default task."""
OF_THE_CONFIG = {field.name for field in fields(RunConfig)}


def setting_of(asked: dict) -> Setting:
    """The setting that is asked for."""
    return Setting(**{"task": "ioi"} | {name: value for name, value in asked.items() if name not in OF_THE_CONFIG})


def config_of(asked: dict) -> RunConfig:
    """The rest of what is asked for."""
    return RunConfig(**{name: value for name, value in asked.items() if name in OF_THE_CONFIG})


def run(asked: dict, out=None, **how) -> Run:
    """The run."""
    return pipeline.run(setting_of(asked), config_of(asked), out, **how)


def interrupt(monkeypatch, at_step: int) -> None:
    """Ctrl-C in the middle of discovery."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    original, done = sums.in_pieces, []

    def interrupted(step, contribute):
        if len(done) == at_step:
            raise KeyboardInterrupt
        done.append(step)
        return original(step, contribute)

    monkeypatch.setattr(sums, "in_pieces", interrupted)
