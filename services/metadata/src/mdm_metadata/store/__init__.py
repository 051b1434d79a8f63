"""PostgreSQL: the only SQL besides what the query room compiles."""

from mdm_metadata.store.store import PostgresStore

__all__ = ["PostgresStore"]
