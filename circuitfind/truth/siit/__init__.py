"""Models trained to have a known circuit: strict interchange intervention training on single edges."""
