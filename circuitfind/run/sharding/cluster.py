"""The Ray that workers run on: one already running, the cluster of ``RAY_ADDRESS``, or a new local one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from circuitfind.discovery.contract import ALGORITHMS, Algorithm
from circuitfind.errors import OptionError

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables while a local Ray starts: it sends no usage reports."""
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
            f"workers {workers}: the scores of {algorithm.name} are not a mean of scores of single prompts, so its prompts "
            f"cannot be shared out; use 0 workers, or one of {able}"
        )
    if workers and find_spec("ray") is None:
        raise OptionError(f"workers {workers}: Ray is not installed; pip install 'circuitfind[ray]', or use 0 workers")


@contextmanager
def connected(workers: int, *, gpus: bool = False, each: int = 1, address: str | None = None) -> Iterator[None]:
    """Provide Ray inside the block; a Ray started for the block is shut down afterwards, one already running is left alone.

    Args:
        workers: number of actors to have room for.
        gpus: whether each actor needs a GPU rather than a CPU.
        each: number of CPUs per actor.
        address: the cluster to connect to if Ray is not running yet; ``local`` starts a new one. If None, the cluster of
            ``RAY_ADDRESS``, or else a new local one.

    Raises:
        OptionError: no connection to the cluster, or it is too small.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(workers * each, address)
    try:
        _check_room(workers, gpus, each)
        yield
    finally:
        if ours:
            ray.shutdown()


def room(gpus: bool = False) -> int:
    """The number of GPUs or CPUs of the running Ray."""
    import ray

    return int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))


def _connect(cpus: int, given: str | None) -> None:
    """Connect to the given cluster, to that of ``RAY_ADDRESS``, or else to a new one on this machine with ``cpus`` CPUs."""
    import ray

    address = given or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        with _environment(QUIET):
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return
    where, advice = (address, "give 'local'") if given else (f"RAY_ADDRESS={address}", "unset RAY_ADDRESS")
    try:
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"no connection to the Ray cluster of {where} ({error}); start it with 'ray start --head', or {advice} to use this "
            "machine alone"
        ) from None


def _reach(address: str) -> None:
    """Try a connection to HOST:PORT, because Ray itself would retry for minutes.

    Raises:
        OSError: there is no answer.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _check_room(workers: int, gpus: bool, each: int) -> None:
    kind, there = "GPU" if gpus else "CPU", room(gpus) // (1 if gpus else each)
    if there < workers:
        advice = (
            f"give at most {there}"
            if there
            else "give 0 workers, or --device cpu"
            if kind == "GPU"
            else "give 0 workers"
        )
        wants = f"a {kind}" if gpus or each == 1 else f"{each} CPUs"
        raise OptionError(f"workers {workers}: each needs {wants}, and Ray has {room(gpus)}; {advice}")


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block; those that are already set stay as they are."""
    new = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
