"""How many cuts to test in one batch."""

from __future__ import annotations


class Width:
    """Chooses the number of cuts per batch with the lowest expected cost per decision.

    A batch of k tests has a fixed cost (calls, and reading the weights once) plus a cost per test. If a cut succeeds with
    probability p, the batch is expected to decide ``1 + p + ... + p^(k-1)`` cuts; the tests after the first failed cut are
    thrown away. p is estimated from recent decisions only, so the choice is reproducible.

    Args:
        fixed: always use this number, if memory allows; 0 chooses.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self._tests, self._kept = 2.0, 0.3

    def learn(self, kept: bool) -> None:
        """Update the estimate with one decided test."""
        self._tests = 0.95 * self._tests + 1
        self._kept = 0.95 * self._kept + kept

    def choose(self, most: int, overhead: float) -> int:
        """The number of cuts in the next batch.

        Args:
            most: the most that memory allows.
            overhead: the fixed cost of a batch, in units of one test.
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
