"""Ray actors that take tasks as they become free, and are replaced when they die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from types import TracebackType
from typing import Any

from circuitfind.errors import CircuitfindError

DEATHS = 3
"""Number of deaths on one task before it is given up; while starting, number of deaths in a row per worker."""
PATIENCE = 300.0
"""Seconds without a single worker before the pool gives up."""
STARTING, LEFT = -1, -2
"""Used instead of a task's number: a worker that is still starting, and a task of an earlier call that is no longer needed."""


class WorkersDiedError(CircuitfindError):
    """Too many workers died on one task.

    Attributes:
        deaths: number of workers that died.
        reason: Ray's message about the last of them.
    """

    def __init__(self, message: str, deaths: int, reason: str) -> None:
        super().__init__(message)
        self.deaths, self.reason = deaths, reason


class Pool:
    """A context manager with some actors of one class; they are killed when the block ends.

    An actor gets its first task after it has started, so an actor without room on the cluster delays nothing.

    Args:
        kind: the class; its method ``ready()`` returns once it has started.
        workers: number of actors.
        needs: the resources each requests from Ray, such as ``{"num_gpus": 1}``.
    """

    def __init__(self, kind: type, workers: int, needs: dict[str, Any]) -> None:
        import ray

        self._kind: Any = ray.remote(kind).options(**needs)
        self.workers = workers
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int]] = {}  # from the promise of a result to its actor and its task
        self._deaths: Counter[int] = Counter()

    def __enter__(self) -> Pool:
        for _ in range(self.workers):
            self._hire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import ray

        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            ray.kill(actor)

    def in_order(self, method: str, tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Call a method once for each task's arguments, and yield the results in the order of the tasks.

        Raises:
            CircuitfindError: workers die again and again, or none starts. An exception of a task is raised unchanged.
        """
        early, expected = dict[int, Any](), 0
        for number, result in self.as_done(method, tasks):
            if isinstance(result, Exception):
                raise result from result.__cause__
            early[number] = result
            while expected in early:
                yield early.pop(expected)
                expected += 1

    def as_done(self, method: str, tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call a method once for each task's arguments, and yield number and result of each task as soon as it is done.

        If a task fails, its result is the exception it raised, or :class:`WorkersDiedError`; the other tasks continue.

        Raises:
            CircuitfindError: no worker starts.
        """
        waiting, results, left = list(range(len(tasks))), dict[int, Any](), len(tasks)
        heapify(waiting)
        self._deaths.clear()
        self._busy = {
            promise: (actor, task if task == STARTING else LEFT) for promise, (actor, task) in self._busy.items()
        }
        while left:
            while waiting and self._idle:
                actor, task = self._idle.pop(), heappop(waiting)
                self._busy[getattr(actor, method).remote(*tasks[task])] = actor, task
            self._collect(waiting, results)
            left -= len(results)
            yield from results.items()
            results.clear()

    def _collect(self, waiting: list[int], results: dict[int, Any]) -> None:
        """Wait for one promise: a result, a new worker, or a death; after a death the task is retried or given up."""
        import ray
        from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

        promise = self._next()
        actor, task = self._busy.pop(promise)
        try:
            result = ray.get(promise)
        except (RayActorError, ObjectLostError, OutOfMemoryError) as error:
            ray.kill(actor)
            self._hire()
            if gave_up := self._count_death(task, error):
                results[task] = gave_up
            elif task >= 0:
                heappush(waiting, task)
            return
        except RayTaskError as error:
            self._idle.append(actor)
            if task != LEFT:
                results[task] = _as_itself(error, task)
            return
        self._idle.append(actor)
        if task == STARTING:
            self._deaths[STARTING] = 0
        elif task != LEFT:
            results[task] = result

    def _hire(self) -> None:
        actor = self._kind.remote()
        self._busy[actor.ready.remote()] = actor, STARTING

    def _next(self) -> Any:
        """The first promise to be fulfilled."""
        import ray

        at_work = any(task != STARTING for _, task in self._busy.values())
        kept, _ = ray.wait(list(self._busy), timeout=None if at_work else PATIENCE)
        if kept:
            return kept[0]
        free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
        raise CircuitfindError(
            f"none of {self.workers} workers started within {PATIENCE:.0f} s; Ray has {free or 'nothing'} free. Wait for other "
            "work on the cluster to end, or give fewer workers"
        )

    def _count_death(self, task: int, error: Exception) -> WorkersDiedError | None:
        """Return an error after too many deaths on one task; raise it after too many in a row (per worker) while starting."""
        self._deaths[task] += 1
        if task == LEFT or self._deaths[task] < DEATHS * (self.workers if task == STARTING else 1):
            return None
        when, advice = f"on the same prompts (shard {task + 1})", "a smaller batch size"
        if task == STARTING:
            when, advice = "on starting", "install the same circuitfind on every machine"
        gave_up = WorkersDiedError(
            f"{self._deaths[task]} workers died in a row {when}; give fewer workers if memory is short, or {advice}. "
            f"Ray says: {_short(error)}",
            self._deaths[task],
            _short(error),
        )
        if task == STARTING:
            raise gave_up from None
        return gave_up


def _as_itself(error: Any, task: int) -> Exception:
    """A worker's exception, to be raised here: our own errors without the worker's traceback, others with it."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    if task == STARTING:
        raise CircuitfindError(
            f"a worker could not start; install the same circuitfind on every machine. Ray says: {_short(cause)}"
        ) from error
    cause.__cause__ = None if isinstance(cause, CircuitfindError) or cause is error else error
    return cause


def _short(error: Exception) -> str:
    """The first and the last line of a message: what happened, and the error at the end of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ... ".join(dict.fromkeys([lines[0][:300], lines[-1][:300]]))
