"""A catalog of an earlier version is brought to this one with what it holds."""

import uuid

import psycopg
import pytest
from mdm_catalog.__main__ import MIGRATIONS
from mdm_catalog.migrations import __file__ as migrations_file
from mdm_service.database import migrate

pytestmark = pytest.mark.integration


@pytest.fixture
def earlier(database, tmp_path, monkeypatch):
    """Bring the database to version `number` of the catalog's tables, and return it."""
    from pathlib import Path

    def make(number: int) -> str:
        package = tmp_path / f"catalog_at_{number}"
        package.mkdir()
        (package / "__init__.py").touch()
        for file in Path(migrations_file).parent.glob("*.sql"):
            if int(file.name[:4]) <= number:
                (package / file.name).write_text(file.read_text())
        monkeypatch.syspath_prepend(str(tmp_path))
        migrate(database.conninfo, ["mdm_service.acl_migrations", package.name])
        with psycopg.connect(database.conninfo) as connection:
            connection.execute("UPDATE schema_migration SET component = 'mdm_catalog.migrations' WHERE component = %s", (package.name,))
        return database.conninfo

    return make


def _fill(conninfo: str) -> None:
    """Make a tree of the first version: two directories below the root with a file each, one with a replica."""
    own, default = uuid.uuid4(), uuid.uuid4()
    with psycopg.connect(conninfo) as connection:
        connection.execute("INSERT INTO acl (id, owner) VALUES (%s, 'CN=o'), (%s, 'CN=o')", (own, default))
        entry = "INSERT INTO entry (id, parent_id, name, kind, acl_id, default_acl_id, guid, size) OVERRIDING SYSTEM VALUE VALUES "
        connection.execute(f"{entry} (0, NULL, '', 1, '{own}', '{own}', NULL, NULL)")
        connection.execute(
            f"{entry} (1, 0, 'a', 1, '{own}', '{default}', NULL, NULL), (2, 1, 'b', 1, '{default}', '{default}', NULL, NULL)"
        )
        connection.execute(
            f"{entry} (3, 1, 'f', 2, '{own}', NULL, '{uuid.uuid4()}', 5), (4, 2, 'g', 2, '{own}', NULL, '{uuid.uuid4()}', NULL)"
        )
        connection.execute("INSERT INTO replica (entry_id, surl, status, host) VALUES (3, 'srm://h/1', 1, 'h')")


def test_what_the_first_version_holds_is_counted(earlier):
    conninfo = earlier(1)
    _fill(conninfo)
    assert migrate(conninfo, MIGRATIONS)
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT directory_id, sum(files), sum(directories), sum(defaults), sum(bytes) FROM directory_content GROUP BY 1"
        )
        assert sorted(rows) == [(-1, 0, 1, 0, 0), (0, 0, 1, 1, 0), (1, 1, 1, 0, 5), (2, 1, 0, 0, 0)]
    assert migrate(conninfo, MIGRATIONS) == []


def test_replicas_of_the_second_version_are_primary_and_available(earlier):
    conninfo = earlier(2)
    _fill(conninfo)
    migrate(conninfo, MIGRATIONS)
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT surl, status, type, set_name, access_count, rev FROM replica").fetchall()
        assert rows == [("srm://h/1", 1, 1, "", 0, 1)]
