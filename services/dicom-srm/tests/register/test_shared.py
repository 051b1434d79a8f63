"""Entries of patients, studies and series: supplemented, never erased, the same whatever the order of arrival."""

import itertools
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
from mdm_deid.encoding.header import Header
from mdm_dicom_srm.register.rules.model import Statement
from mdm_dicom_srm.register.rules.port import Entry
from mdm_dicom_srm.register.rules.shared_entry import merge
from mdm_wire.errors import MdmError

from .conftest import SERIES, Site, header

ROOT = "/biomed/hospital-a"
SERIES_PATH, STUDIES, PATIENTS = (f"{ROOT}/{name}" for name in ("series", "studies", "patients"))
ACL = UUID(int=1)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose profile keeps what the entries of studies say."""
    return make_site(profile="research")


def only(site: Site, path: str) -> dict[str, object]:
    (entry,) = site.metadata.entries[path].values()
    return dict(entry.values)


def original(number: int = 1, **changes: object) -> Header:
    said = {"PatientSex": "F", "PatientAge": "060Y", "StudyDescription": "CT HEAD", "StudyDate": "20210317"}
    return header(number=number, **{**said, **changes})


def derived(number: int = 2, **changes: object) -> Header:
    """What an analysis makes of a study: another series, and silence about the study and the patient."""
    silent = {"PatientName": "", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "PatientAge": None, "StudyDescription": None}
    return header(number=number, SeriesInstanceUID=f"{SERIES}.9", **{**silent, **changes})


def shared(site: Site) -> list[dict[str, object]]:
    return [only(site, STUDIES), only(site, PATIENTS)]


def said(**values: object) -> Statement:
    return Statement("studies", "S", ACL, values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statements", "value", "conflicts"),
    [
        ([(said(a="x"), 1), (said(a=None), 500)], "x", ()),
        ([(said(a=None), 3)], None, ()),
        ([(said(a="x"), 2), (said(a="y"), 3)], "y", ("a",)),
        ([(said(a="y"), 2), (said(a="x"), 2)], "x", ("a",)),
        ([(said(a=10), 1), (said(a=9), 1)], 10, ("a",)),
        ([(said(a="x"), 1), (said(b="z"), 1)], "x", ()),
    ],
)
def test_a_value_stands_against_silence_and_the_most_stated_one_against_others(statements, value, conflicts) -> None:
    for ordered in itertools.permutations(statements):
        merged = merge(ordered)
        assert (merged.values["a"], merged.conflicts) == (value, conflicts)


def test_links_that_differ_while_instances_move_are_no_conflict() -> None:
    assert merge([(said(lfn="/a"), 1), (said(lfn="/b"), 2)]).conflicts == ()


@pytest.mark.integration
def test_an_instance_that_lacks_values_erases_none(site: Site) -> None:
    site.enqueue(original())
    site.run()
    before = shared(site)
    site.enqueue(derived())
    site.run()
    assert shared(site) == before
    assert (before[0]["PatientSex"], before[0]["PatientAge"], before[0]["StudyDescription"]) == ("F", "060Y", "CT HEAD")
    assert before[0]["StudyDate"] is not None
    assert (before[1]["PatientName"], before[1]["PatientBirthDate"]) == ("Secret^Name", "1960-01-02")


@pytest.mark.integration
def test_the_order_of_arrival_does_not_matter(make_site: Callable[..., Site], database) -> None:
    found = []
    headers = [original(), original(3, StudyDescription="CT NECK"), original(4, StudyDescription="CT NECK"), derived()]
    for ordered in (headers, headers[::-1], [headers[3], headers[1], headers[0], headers[2]]):
        site = make_site(profile="research")
        with site.pool.connection() as connection:
            connection.execute("TRUNCATE registration, study, statement, shared_entry CASCADE")
        for item in ordered:
            site.enqueue(item)
            site.run()
        found.append((shared(site), site.shared.conflicts(None, 10)))
    assert found[0] == found[1] == found[2]
    assert found[0][0][0]["StudyDescription"] == "CT NECK"
    assert [(item.collection, item.attributes) for item in found[0][1]] == [("studies", ("StudyDescription",))]


@pytest.mark.integration
def test_a_conflict_that_was_corrected_is_listed_no_more(site: Site) -> None:
    site.enqueue(original(), original(3, StudyDescription="CT NECK"))
    site.run()
    assert len(site.shared.conflicts(None, 10)) == 1
    assert site.shared.conflicts(("studies", "9"), 10) == []
    site.enqueue(original(3))
    site.run()
    assert site.shared.conflicts(None, 10) == []
    assert only(site, STUDIES)["StudyDescription"] == "CT HEAD"


@pytest.mark.integration
def test_what_every_instance_lost_is_lost(site: Site) -> None:
    site.enqueue(original())
    site.run()
    site.enqueue(original(StudyDescription=None))
    site.run()
    assert only(site, STUDIES)["StudyDescription"] is None


@pytest.mark.integration
@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("moment", ["trouble", "after"])
def test_a_process_killed_in_any_call_leaves_the_entries_to_be_completed(site: Site, call: int, moment: str) -> None:
    site.enqueue(original())
    site.run()
    before = shared(site)
    site.enqueue(derived(PatientAge="061Y"))
    fail, done = site.metadata.fail, site.metadata.done
    left = [call]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    setattr(site.metadata, "fail" if moment == "trouble" else "done", count)
    try:
        site.run()
    except Killed:
        site.metadata.fail, site.metadata.done = fail, done  # type: ignore[method-assign]
        site.expire()
        site.run()
    assert shared(site) == before
    assert [item.attributes for item in site.shared.conflicts(None, 10)] == [("PatientAge",)]
    with site.pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM shared_entry WHERE written_revision < revision").fetchall() == [(0,)]


@pytest.mark.integration
def test_workers_at_once_leave_what_all_instances_state(site: Site) -> None:
    """Each series has a worker of its own; each write of the metadata is held up, so that they overlap."""
    slow = site.metadata.upsert

    def upsert(collection: str, entries: Sequence[Entry]) -> list[MdmError | None]:
        threading.Event().wait(0.02)
        return slow(collection, entries)

    site.metadata.upsert = upsert  # type: ignore[method-assign]
    headers = [original(n, SeriesInstanceUID=f"{SERIES}.{n}", PatientAge="060Y" if n % 3 else "061Y") for n in range(1, 13)]
    site.enqueue(*headers)
    threads = [threading.Thread(target=site.run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.run()
    assert {state for state, _ in site.states().values()} == {"PUBLISHED"}
    assert only(site, STUDIES)["PatientAge"] == "060Y"
    assert [item.attributes for item in site.shared.conflicts(None, 10)] == [("PatientAge",)]
    assert len(site.metadata.entries[SERIES_PATH]) == 12


@pytest.mark.integration
def test_what_a_process_that_ended_left_half_written_is_written_by_the_next(site: Site) -> None:
    site.enqueue(original())
    site.run()
    with site.pool.connection() as connection:
        connection.execute("UPDATE shared_entry SET revision = revision + 1, written = NULL, modified_at = now() - interval '1 min'")
    site.metadata.entries[STUDIES].clear()
    site.pipeline().tidy()
    assert only(site, STUDIES)["StudyDescription"] == "CT HEAD"


@pytest.mark.integration
def test_the_database_holds_nothing_identifying_of_what_instances_state(site: Site) -> None:
    site.enqueue(original())
    site.run()
    tables = ("registration", "study", "statement", "shared_entry")
    with site.pool.connection() as connection:
        dump = "\n".join(str(row) for table in tables for row in connection.execute(f"SELECT t::text FROM {table} t".encode()))
        sealed = connection.execute("SELECT encode(content, 'escape') FROM statement UNION ALL SELECT encode(patient, 'escape') FROM study")
        dump += "\n".join(str(row) for row in sealed)
    hidden = ("SECRET77", "Secret", "1960", SERIES)
    assert [text for text in hidden if text in dump or text.encode().hex() in dump] == []
