"""Binding: sqlglot's nodes become the typed tree, by allow-list, with names resolved to what the caller may see."""
