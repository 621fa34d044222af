"""Run a model under an edge mask: any mask (dense), or one circuit and only its nodes (sparse)."""
