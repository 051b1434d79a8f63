"""Metadata: typed collections queried by SQL under access control."""
