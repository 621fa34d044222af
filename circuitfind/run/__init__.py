"""A run: the public calls, the whole run as one call, its folder, its estimate, its decisions made again."""
