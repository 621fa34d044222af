"""The Ray that workers run on: one that is there already, the cluster of ``RAY_ADDRESS``, or one of our own on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from circuitfind.algorithm import ALGORITHMS, Algorithm
from circuitfind.errors import OptionError

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Set while a Ray of our own starts: it reports nothing to anybody."""
SECONDS_TO_ANSWER = 10.0


def check_workers(algorithm: Algorithm, workers: int) -> None:
    """Refuse workers that cannot help, before anything is loaded.

    Raises:
        OptionError: a negative number, an algorithm whose prompts must be scored together, or Ray is not installed.
    """
    if workers < 0:
        raise OptionError(f"workers {workers}: give 0 to work in this process, or how many workers to start")
    if workers and not algorithm.additive:
        able = ", ".join(other.name for other in ALGORITHMS if other.additive)
        raise OptionError(
            f"workers {workers}: the scores of {algorithm.name} are no mean of what each prompt scores alone, so its prompts "
            f"cannot be shared out; use 0 workers, or one of {able}"
        )
    if workers and find_spec("ray") is None:
        raise OptionError(f"workers {workers}: Ray is not installed; pip install 'circuitfind[ray]', or use 0 workers")


@contextmanager
def connected(workers: int, *, gpus: bool = False) -> Iterator[None]:
    """Ray is there inside the block; afterwards, what was started for it is gone and what was there before goes on.

    Args:
        workers: how many actors it should have room for.
        gpus: whether each wants a GPU rather than a CPU.

    Raises:
        OptionError: no connection to ``RAY_ADDRESS``, or the cluster is too small.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(workers)
    try:
        _check_room(workers, "GPU" if gpus else "CPU")
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(workers: int) -> None:
    """To the cluster of ``RAY_ADDRESS``, or else to a new one on this machine."""
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        with _environment(QUIET):
            ray.init(
                "local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        return
    try:
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"no connection to the Ray cluster of RAY_ADDRESS={address} ({error}); start it with 'ray start --head', or unset "
            "RAY_ADDRESS to use this machine alone"
        ) from None


def _reach(address: str) -> None:
    """Knock at HOST:PORT: where nobody answers, Ray itself would try for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _check_room(workers: int, kind: str) -> None:
    import ray

    there = int(ray.cluster_resources().get(kind, 0))
    if there < workers:
        advice = (
            f"give at most {there}"
            if there
            else "give 0 workers, or --device cpu"
            if kind == "GPU"
            else "give 0 workers"
        )
        raise OptionError(f"workers {workers}: each needs a {kind}, and Ray has {there}; {advice}")


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables inside the block; those that are set already stay as they are."""
    new = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
