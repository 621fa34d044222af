"""The default values, the same in Python, on the command line and in run folders."""

N_PROMPTS, N_HELD_OUT = 256, 128
"""Prompts for finding scores, and prompts for measuring circuits."""
N_PATCHED = 64
"""Prompts for activation patching and head roles on the command line, which look at the whole model."""
N_RANDOM = 20
"""Random circuits measured next to a circuit."""
ENOUGH_FRESH, TIMES_FRESH = 128, 4
"""A circuit's size is chosen on at least as many fresh prompts as the scores come from; on up to so many times as many, where
these are fewer than enough."""
FAITHFULNESS = 0.85
"""The faithfulness that the smallest circuit must reach on train prompts."""
ABLATION = "corrupted"
"""What a cut edge carries."""
