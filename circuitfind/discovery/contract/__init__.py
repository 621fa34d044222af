"""The contract every discovery algorithm obeys: a problem in, edge scores out, nothing changed on the way.

An algorithm is one file in ``circuitfind/discovery/``: a function ``(problem, **options) -> EdgeScores`` and a last
statement ``ALGORITHMS.add(Algorithm(...))``. Its options are the function's keyword arguments. The command line, the
conformance tests and the benchmarks find it by its name. To begin, copy ``discovery/random_edges.py``, or
``discovery/eap.py`` for a method that uses gradients.

* :mod:`.problem`: what an algorithm may look at, and how it hands back scores.
* :mod:`.sums`: sums over micro-batches that an interrupted run takes up again.
* :mod:`.attribution`: what all methods by gradients share.
* :mod:`.algorithm`: what an algorithm says about itself, and the registry.
* :mod:`.options`: values of options, also as text.
"""

from circuitfind.discovery.contract.algorithm import ALGORITHMS, Algorithm, default_algorithm
from circuitfind.discovery.contract.attribution import Contrast, EdgeAttribution, attribute, attribute_nodes
from circuitfind.discovery.contract.problem import PARTS, Problem
from circuitfind.discovery.contract.sums import Contribution

__all__ = [
    "ALGORITHMS",
    "PARTS",
    "Algorithm",
    "Contrast",
    "Contribution",
    "EdgeAttribution",
    "Problem",
    "attribute",
    "attribute_nodes",
    "default_algorithm",
]
