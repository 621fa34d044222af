"""Is this a circuit? Five hypothesis tests (Shi et al. 2024), and the corrections that go with several tests."""
