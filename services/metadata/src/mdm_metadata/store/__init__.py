"""PostgreSQL: the only SQL besides that which `rules.query` compiles."""

from mdm_metadata.store.store import PostgresStore

__all__ = ["PostgresStore"]
