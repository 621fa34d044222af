"""How a circuit is found and chosen within a setting, and which requests are refused before a model loads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, default_algorithm
from circuitfind.errors import OptionError
from circuitfind.run.sharding import check_workers
from circuitfind.setting.defaults import FAITHFULNESS, N_RANDOM
from circuitfind.setting.value import Setting
from circuitfind.task.spans import PARTS_AXES


@dataclass(frozen=True)
class RunConfig:
    """The options of a run that are not in its setting.

    Attributes:
        algorithm: the ablation's default (:func:`~circuitfind.discovery.contract.default_algorithm`) if None.
        options: options of the algorithm.
        rule, value: the selection rule (``faithfulness``, ``top``, ``threshold``, ``greedy``) and its number. ``default`` is
            the algorithm's own circuit if it decides on one, which needs no number, otherwise ``faithfulness``.
        absolute: rank by absolute score.
        n_random: number of random circuits of equal size, as a control.
        parts: store separate scores along this axis of the prompts.
        anyway: continue even if the model is no better than chance on the prompts.
        workers: number of Ray actors for discovery; the scores do not depend on it.
        n_neurons: how many neurons are nodes of their own, chosen by :func:`circuitfind.with_neurons`; 0 for none.
    """

    algorithm: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: str = "default"
    value: float = FAITHFULNESS
    absolute: bool = True
    n_random: int = N_RANDOM
    parts: str = ""
    anyway: bool = False
    workers: int = 0
    n_neurons: int = 0

    def resolved(self, setting: Setting) -> tuple[RunConfig, dict[str, Any]]:
        """The same with its algorithm named, and all options of the algorithm; refuses what is wrong for every model.

        Raises:
            OptionError, UnknownNameError: the message says what is allowed.
        """
        named = replace(self, algorithm=self.algorithm or default_algorithm(setting.ablated_by))
        algorithm = ALGORITHMS[named.algorithm or ""]
        if self.rule == "default" and algorithm.usual_threshold is not None:
            named = replace(named, rule="threshold", value=algorithm.usual_threshold)
        told = algorithm.rules.get(self.rule)  # the option that gives the algorithm the rule's number
        options = algorithm.resolve({told: self.value} | dict(self.options) if told else self.options)
        algorithm.refuse(setting.ablated_by, self.parts)
        check_workers(algorithm, self.workers)
        named._refuse_numbers()
        return named, options

    @property
    def decided(self) -> bool:
        """Whether to use the algorithm's own circuit, if it has one: by default, or if it was given the rule's number."""
        return self.rule == "default" or self.rule in ALGORITHMS[self.algorithm or ""].rules

    def _refuse_numbers(self) -> None:
        if self.n_neurons < 0:
            raise OptionError(f"--neurons {self.n_neurons}: give at least 1, or --nodes heads")
        if self.n_random < 0:
            raise OptionError(f"--random {self.n_random}: give at least 0")
        if self.rule == "greedy" and self.parts in PARTS_AXES:
            raise OptionError(
                f"--greedy grows circuits without parts, but --parts {self.parts} needs one with parts; use --faithfulness, "
                "--edges or --threshold"
            )
        if self.rule in ("default", "faithfulness") and not 0 < self.value <= 2:
            raise OptionError(f"--faithfulness {self.value:g}: give a share, such as 0.85")
        if self.rule in ("top", "greedy") and self.value < 1:
            raise OptionError(f"cannot keep {self.value:g} edges; give at least 1")
        if self.rule == "threshold" and math.isnan(self.value):
            raise OptionError("--threshold nan: give a number")
