"""SQL of the typed tree: rendered with bind parameters only, and bounded in what it makes."""
