"""Metadata: queries and collections."""
