"""Change something and compute again only what that reaches: cuts of edges, changes along paths, patched components."""
