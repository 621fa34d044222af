"""What makes the manual's site: pages written from the code, the drawing of the rooms, and the hooks that mkdocs calls."""
