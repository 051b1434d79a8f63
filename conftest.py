"""Fixtures for every test of the repository: a real PostgreSQL, fresh databases, a development authority."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from mdm_local.postgres import PostgresServer
from mdm_site.pki import DevelopmentCa

# No deadlines: how long an example takes tells of the machine's load. Developers explore new examples with every run; continuous
# integration repeats the same ones, so that it judges the change and not the dice.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile("repeat" if os.environ.get("CI") else "explore")


@dataclass(frozen=True)
class Database:
    """An empty database of its own and the server it is on."""

    conninfo: str
    server: PostgresServer


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
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield Database(postgres.create_database(name), postgres)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    """A development authority whose subjects lie below `O=MDM Test`: `pki.issue(pki.subject("alice"))`."""
    return DevelopmentCa(Path(tmp_path_factory.mktemp("pki")))
