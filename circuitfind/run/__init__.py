"""The public calls, and whole runs: their folder, their estimate, the replay of their decisions, and their comparison."""
