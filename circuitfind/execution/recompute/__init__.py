"""Change something and recompute only what it reaches: cut edges, changes along paths, patched components."""
