"""A ranking of edges: compared with a known circuit, and its faithfulness as a function of size."""
