"""Several GPUs and machines: the prompts of an algorithm are distributed over Ray actors, each with its own copy of the model.

* :mod:`.cluster`: start or find a Ray cluster, and check that it has room.
* :mod:`.pool`: actors that take tasks as they become free, and are replaced when they die.
* :mod:`.worker`: what an actor does with its share of the prompts.
* :mod:`.shards`: shards, the means over all prompts, and the sums.

The shards depend on the prompts and never on the number of workers, and they are added up in order. So one worker and ten
give bit-identical results, no matter which of them die.
"""

from circuitfind.run.sharding.cluster import check_workers, connected, room
from circuitfind.run.sharding.pool import Pool, WorkersDiedError
from circuitfind.run.sharding.shards import run_on, sharded

__all__ = ["Pool", "WorkersDiedError", "check_workers", "connected", "room", "run_on", "sharded"]
