"""PostgreSQL: transactions that do not wait for the disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool


@contextmanager
def unhurried(pool: ConnectionPool[Any]) -> Iterator[Connection[Any]]:
    """Give a connection whose transaction is committed without waiting for the disk; its statements go to the server together.

    Only for what this process knows as well, and what costs repeated work if it is lost: requests, states of files, claims, heartbeats.
    A process that is killed loses nothing. If PostgreSQL or its machine ends abruptly, the last moments before (three times
    `wal_writer_delay`, 0.6 s as shipped) are lost: while this process lives, it goes on by its memory; if it dies as well, a token may be
    unknown, so that its files are asked for again, or a file that was released stays pinned until its pin ends. Never for recalls,
    which take copies back that must not be given out any more.
    """
    with pool.connection() as connection, connection.pipeline():
        connection.execute("SET LOCAL synchronous_commit = off")
        yield connection
