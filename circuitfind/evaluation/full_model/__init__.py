"""What the full model does: whether it can do the prompts, and where its heads look."""
