"""What the door serves and under which conditions: no HTTP, no SQL."""
