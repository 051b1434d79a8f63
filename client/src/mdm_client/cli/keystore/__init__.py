"""Commands on keys."""
