"""Workers, and their processes."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import attribution
from attribution import MODEL
from builders import random_pairs

from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.run.sharding import Pool, run_on

PAIRS = random_pairs(MODEL, 21)


MARK = "CIRCUITFIND_TEST_MARK"


CPU = {"num_cpus": 1}


def marked(mark: str) -> list[str]:
    """Command lines of living processes that were started with this mark in their environment (Linux only)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # not ours, or gone
            continue
    return found


def none_left(mark: str, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while (alive := marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return not alive


@contextmanager
def only(pool: Pool, workers: int) -> Iterator[Pool]:
    """The pool with so many of its workers."""
    while len(pool._idle) < pool.workers:  # until all have started
        pool._collect([], {})
    everyone = pool._idle
    pool._idle, pool.workers = everyone[:workers], workers
    try:
        yield pool
    finally:
        pool._idle, pool.workers = pool._idle + everyone[workers:], len(everyone)


def on(pool: Pool, algorithm: Algorithm) -> Algorithm:
    """The algorithm on a pool that is there."""

    @functools.wraps(algorithm.run)
    def run(problem, **options):
        return run_on(pool, algorithm.run, problem, options)

    return replace(algorithm, run=run)


def problem_for(algorithm: Algorithm, **changes) -> Problem:
    return attribution.problem_for(algorithm, **{"pairs": PAIRS} | changes)


def name(value) -> str:
    return getattr(value, "name", None) or str(value) or "sums"
