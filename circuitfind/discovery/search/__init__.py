"""The parts of the long algorithms: how learned masks are drawn and trained."""
