"""Resamples of few prompts on which the full and the ablated model score the same."""

import numpy as np

from circuitfind.selection.size_rule import sizes_on_resamples


def test_undefined_resamples_reach_the_target_at_no_size():
    kept, curve = np.array([1, 2, 4]), np.array([0.1, 0.5, 1.0])
    defined = np.tile(curve, (200, 1))
    assert sizes_on_resamples(kept, defined, 0.85)[1] <= 4
    few = np.concatenate([defined, np.array([[np.inf, -np.inf, np.nan]])])
    assert sizes_on_resamples(kept, few, 0.85) == sizes_on_resamples(kept, defined, 0.85)
    assert sizes_on_resamples(kept, np.full((5, 3), np.inf), 0.85) == (np.inf, np.inf)
