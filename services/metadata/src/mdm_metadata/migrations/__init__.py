"""Forward-only migrations of the metadata database."""
