"""Use cases, invariants and the ports they need: no gRPC, no SQL."""
