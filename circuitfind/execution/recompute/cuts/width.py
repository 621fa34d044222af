"""How many cuts to test in one batch."""

from __future__ import annotations


class Width:
    """Chooses the number of cuts whose test is expected to cost least per decision.

    A batch of k tests costs a fixed part (calls, and reading the weights once) and k times a part of its own. If a cut
    succeeds with probability p, the batch is expected to decide ``1 + p + ... + p^(k-1)`` of them; the tests after the first
    cut that fails are thrown away. p follows the decisions made lately, so the choice depends on nothing else.

    Args:
        fixed: always this many, where memory allows; 0 chooses.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self._tests, self._kept = 2.0, 0.3

    def learn(self, kept: bool) -> None:
        """Take one decided test into account."""
        self._tests = 0.95 * self._tests + 1
        self._kept = 0.95 * self._kept + kept

    def choose(self, most: int, overhead: float) -> int:
        """The number of cuts in the next batch.

        Args:
            most: how many memory allows.
            overhead: the fixed cost of a batch, in tests.
        """
        if self.fixed:
            return min(self.fixed, most)
        success = 1 - self._kept / self._tests
        best, cheapest, decided = 1, float("inf"), 0.0
        for k in range(1, most + 1):
            decided += success ** (k - 1)
            if (overhead + k) / decided < cheapest:
                best, cheapest = k, (overhead + k) / decided
        return best
