"""A service as processes: its command line, workers and their supervisor."""
