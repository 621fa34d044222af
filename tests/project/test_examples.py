"""Every public call has an example in its docstring, and every example gives what it says."""

import doctest
import importlib
import inspect

import pytest
from house import OURS

import circuitfind as cf

CALLS = sorted(name for name in cf.__all__ if inspect.isfunction(inspect.unwrap(getattr(cf, name, None) or cf)))
WITH_EXAMPLES = [module.name for module in OURS if ">>> " in module.path.read_text(encoding="utf-8")]


def test_there_are_calls_to_look_at():
    assert {"discover", "select", "evaluate", "render", "load_model"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_public_call_shows_an_example(name):
    assert ">>> " in (inspect.unwrap(getattr(cf, name)).__doc__ or "")


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_give_what_they_say(module):
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).attempted > 0, "the examples are in no docstring that doctest sees"
    assert not said, "".join(said)
