"""The numbers that stand where none is given: from Python, on the command line and in run folders alike."""

N_PROMPTS, N_HELD_OUT = 256, 128
"""Prompts that scores are found on, and that circuits are measured on."""
N_PATCHED = 64
"""Prompts for activation patching and for the roles of heads on the command line, which look at the whole model."""
N_RANDOM = 20
"""Random circuits beside a measured one."""
FAITHFULNESS = 0.85
"""What the smallest circuit must reach on train prompts."""
ABLATION = "corrupted"
"""What a cut edge carries."""
