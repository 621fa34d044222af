"""A ranking of edges: against a known circuit, and its faithfulness against size."""
