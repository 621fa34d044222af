"""The benchmark: algorithms x tasks x models x ablations x seeds, every cell kept, one table."""
