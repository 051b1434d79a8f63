"""Commands on metadata."""
