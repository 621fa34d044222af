"""The public calls, and a whole run: its folder, its estimate, its decisions made again, and runs held against each other."""
