"""Schema of the catalog, applied in order of number."""
