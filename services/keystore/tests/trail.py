"""The audit chain of a keystore under test."""

from collections.abc import Sequence

from mdm_crypto.audit import GENESIS, ChainedEntry, chain
from mdm_keystore.store.audit import PostgresTrail
from psycopg_pool import ConnectionPool


def read_chain(pool: ConnectionPool) -> Sequence[ChainedEntry]:
    """Return the whole audit chain in a keystore's database."""
    return PostgresTrail(pool, 1).entries(0, 1_000_000)[0]


def assert_whole(chained: Sequence[ChainedEntry]) -> None:
    """Assert that entries are numbered from 1 and each one's hash covers those before it."""
    assert list(chained) == list(chain([item.entry for item in chained], 0, GENESIS))
