"""Run a model under a mask of edges: any mask (dense), or one circuit and only its nodes (sparse)."""
