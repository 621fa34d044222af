"""Would other prompts have given the same circuit? Bootstrap and certificates, from stored per-prompt scores."""
