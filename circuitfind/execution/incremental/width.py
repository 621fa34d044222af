"""How many cuts to test in one batch."""

from __future__ import annotations


class Width:
    """How many cuts to test in one batch: about half of those expected to succeed before the next one fails.

    Args:
        fixed: always this many, where memory allows; 0 follows the share of cuts that succeeded lately.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self._tests, self._kept = 1.0, 0.25

    def learn(self, kept: bool) -> None:
        """Take one decided test into account."""
        self._tests = 0.97 * self._tests + 1
        self._kept = 0.97 * self._kept + kept

    def choose(self, most: int) -> int:
        """The number of cuts in the next batch."""
        wanted = self.fixed or round(0.5 * (self._tests + 1) / (self._kept + 0.1))
        return max(1, min(wanted, most))
