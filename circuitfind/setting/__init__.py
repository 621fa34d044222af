"""One value for where a circuit is found or measured: model, task, metric, ablation, prompts, seed and memory.

* :mod:`.defaults`: every default number, once.
* :mod:`.naming`: from what a user gives (a task's name, a file) to a task and its model.
* :mod:`.value`: the :class:`~.value.Setting`, resolved once and shared by all calls.
* :mod:`.pieces`: how every public call takes a setting *or* its pieces.
"""
