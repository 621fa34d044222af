"""Is this a circuit? Five hypothesis tests (Shi et al. 2024), with corrections for multiple tests."""
