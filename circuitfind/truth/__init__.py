"""Models with a known circuit: what the truth is, how it is verified, and how the models are built."""

from circuitfind.truth.truth import Truth, read_truths, truth_of, write_truths

__all__ = ["Truth", "read_truths", "truth_of", "write_truths"]
