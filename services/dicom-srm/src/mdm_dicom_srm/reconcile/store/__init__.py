"""The registry in PostgreSQL as reconciliation reads it."""
