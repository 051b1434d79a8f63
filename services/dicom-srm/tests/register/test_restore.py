"""What a store lost is put back on request, and registrations of an earlier version are followed."""

from collections.abc import Callable
from importlib import resources
from uuid import UUID

import psycopg
import pytest

from .conftest import OTHER_PATIENT, SERIES_PATH, Site, guid_of, header

pytestmark = pytest.mark.integration


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose profile keeps what the entries of studies say."""
    return make_site(profile="research")


def lose_metadata(site: Site) -> None:
    site.metadata.entries.clear()
    site.metadata.acls.clear()
    site.metadata.collections.clear()


def lose_catalog(site: Site) -> None:
    site.catalog.files.clear()
    site.catalog.directories.clear()


@pytest.mark.parametrize("lose", [lose_metadata, lose_catalog])
def test_what_one_store_lost_is_put_back_on_request(site: Site, lose: Callable[[Site], None]) -> None:
    headers = [header(), header(number=2)]
    site.enqueue(*headers)
    site.run()
    before = site.visible()
    lose(site)
    site.enqueue(*headers)
    assert site.run() == 0, "not unasked"
    assert site.service().enqueue(headers, restore=True).queued == 2
    site.run()
    assert site.visible() == before


def test_an_instance_whose_key_was_destroyed_comes_back_under_a_new_guid(site: Site) -> None:
    site.enqueue(header(), header(number=2))
    site.run()
    site.keys.destroy([guid_of()])
    site.service().enqueue([header()], restore=True)
    site.run()
    assert site.states() == {
        guid_of(): ("REMOVED", ""),
        guid_of(1): ("PUBLISHED", ""),
        guid_of(number=2): ("PUBLISHED", ""),
    }
    assert site.catalog.files.keys() == site.keys.keys.keys() == {guid_of(1), guid_of(number=2)}
    assert [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries[SERIES_PATH].values()] == [2]


def test_registrations_of_an_earlier_version_are_followed_too(site: Site) -> None:
    site.enqueue(header())
    site.run()
    with site.pool.connection() as connection:
        connection.execute(
            """
            UPDATE registration SET digest = NULL, size = NULL, lfn = NULL, patient_token = NULL, patient_key = NULL, study_key = NULL,
                series_key = NULL, patient_statement = NULL, study_statement = NULL, series_statement = NULL
            """
        )
        for table in ("study", "statement", "shared_entry"):
            connection.execute(f"DELETE FROM {table}".encode())
    site.enqueue(header(number=2))
    site.run()
    assert [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries[SERIES_PATH].values()] == [2]
    assert site.registrations.locators_of([guid_of()])[guid_of()] is not None
    site.enqueue(header(**OTHER_PATIENT))
    site.enqueue(header(number=2, **OTHER_PATIENT))
    site.run()
    assert site.catalog.files.keys() == {guid_of(1), guid_of(1, 2)}
    assert site.patient_names() == {"Right^Person"}


def test_the_registrations_of_an_earlier_version_survive_the_migration(database) -> None:  # type: ignore[no-untyped-def]
    scripts = {path.name: path.read_text() for path in resources.files("mdm_dicom_srm.migrations").iterdir() if path.name.endswith(".sql")}
    before = sorted(name for name in scripts if name < "0012")
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for name in before:
            connection.execute(scripts[name].encode())
        for number, (state, header) in enumerate([("PUBLISHED", None), ("FILTERED", None), ("QUARANTINED", b"h"), ("KEYED", b"h")]):
            connection.execute(
                "INSERT INTO registration (guid, study_token, series_token, state, locator, header) VALUES (%s, 's', 's', %s, 'l', %s)",
                (UUID(int=number), state, header),
            )
        connection.execute(scripts["0012_registry.sql"].encode())
        rows = connection.execute("SELECT guid = instance, generation, state, keyed FROM registration ORDER BY guid").fetchall()
    assert rows == [(True, 0, "PUBLISHED", True), (True, 0, "FILTERED", False), (True, 0, "QUARANTINED", False), (True, 0, "KEYED", True)]
