"""PostgreSQL: the only SQL."""
