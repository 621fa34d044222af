"""Would other prompts have given the same circuit? Bootstrap and certificates, from stored scores of every prompt."""
