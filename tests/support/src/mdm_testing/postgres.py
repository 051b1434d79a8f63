"""A real PostgreSQL and fresh databases on it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from mdm_local.postgres import PostgresServer


@dataclass(frozen=True)
class Database:
    """An empty database of its own and the server it is on."""

    conninfo: str
    server: PostgresServer


@contextmanager
def fresh_databases(server: PostgresServer, prefix: str, count: int = 1) -> Iterator[list[str]]:
    """Create databases of names of their own that begin with `prefix`; give their connection strings; drop them afterwards."""
    names = [f"{prefix}_{uuid.uuid4().hex[:12]}" for _ in range(count)]
    try:
        yield [server.create_database(name) for name in names]
    finally:
        for name in names:
            server.drop_database(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running PostgreSQL server that this session has for itself; not durable, for speed."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"), durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """A fresh database, dropped afterwards."""
    with fresh_databases(postgres, "test") as (conninfo,):
        yield Database(conninfo, postgres)
