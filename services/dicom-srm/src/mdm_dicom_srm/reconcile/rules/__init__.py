"""What differs, and what is done about it: no gRPC, no SQL."""
