"""The text of a query: parsed by sqlglot, its literals, operations and types, and the typed tree that it becomes."""
