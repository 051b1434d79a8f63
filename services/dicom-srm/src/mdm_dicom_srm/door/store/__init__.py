"""PostgreSQL: what is kept for the door."""
