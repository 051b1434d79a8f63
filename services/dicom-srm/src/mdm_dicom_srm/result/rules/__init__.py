"""Use cases of results, and the ports that they need."""
