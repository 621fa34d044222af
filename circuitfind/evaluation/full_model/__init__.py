"""What the full model does: whether it can solve the prompts, and where its heads attend."""
