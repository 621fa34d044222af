"""Runs from one flat list of what is asked for, as a command line gives it: part of it is the setting, part the rest."""

from dataclasses import fields

from circuitfind.run import pipeline
from circuitfind.run.config import RunConfig
from circuitfind.run.pipeline import Run
from circuitfind.setting.value import Setting

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
