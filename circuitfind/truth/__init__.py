"""Models whose circuit is known: what the truth is, how it is verified, and how the models are made."""

from circuitfind.truth.truth import Truth, read_truths, truth_of, write_truths

__all__ = ["Truth", "read_truths", "truth_of", "write_truths"]
