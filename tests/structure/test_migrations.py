"""Every migration of every service applies, to an empty database and to one of each earlier version."""

import importlib
import importlib.resources

import psycopg
import pytest
from mdm_service.database import check_schema, migrate
from mdm_testing.postgres import fresh_databases
from mdm_testing.repository import tracked

pytestmark = pytest.mark.integration
SERVICES = sorted(path.parts[3] for path in tracked("services/*/src/*/migrations/0001_*.sql"))


def components(service: str) -> tuple[str, ...]:
    found: tuple[str, ...] = importlib.import_module(f"{service}.__main__").MIGRATIONS
    return found


def versions(component: str) -> list[str]:
    return sorted(file.name for file in importlib.resources.files(component).iterdir() if file.name.endswith(".sql"))


CASES = [
    (service, component, number) for service in SERVICES for component in components(service) for number in range(len(versions(component)))
]


def tables(conninfo: str) -> list[tuple[str, str, str, str, str | None]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name <> 'schema_migration' ORDER BY 1, 2"
        ).fetchall()


def test_every_service_with_tables_is_tried():
    assert SERVICES == ["mdm_catalog", "mdm_dicom_srm", "mdm_keystore", "mdm_metadata"]


@pytest.mark.parametrize(("service", "component", "number"), CASES)
def test_migrations_apply_from_every_earlier_version(service, component, number, database, tmp_path, monkeypatch):
    earlier = tmp_path / f"earlier_{component.replace('.', '_')}_{number}"
    earlier.mkdir()
    (earlier / "__init__.py").touch()
    for name in versions(component)[:number]:
        (earlier / name).write_text(importlib.resources.files(component).joinpath(name).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    before = [earlier.name if other == component else other for other in components(service)]
    migrate(database.conninfo, before[: before.index(earlier.name) + 1])
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("UPDATE schema_migration SET component = %s WHERE component = %s", (component, earlier.name))
    applied = migrate(database.conninfo, components(service))
    assert [name for name in applied if name.startswith(component)] == [f"{component}/{name}" for name in versions(component)[number:]]
    with psycopg.connect(database.conninfo) as connection:
        check_schema(connection, components(service))
    with fresh_databases(database.server, "fresh") as (fresh,):
        migrate(fresh, components(service))
        assert tables(database.conninfo) == tables(fresh)
