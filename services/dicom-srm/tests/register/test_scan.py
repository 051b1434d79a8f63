"""Scans and inspections: the registry follows what the PACS has."""

from datetime import date
from uuid import UUID

import pytest
from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.scan import Action, Counts, Order, ScanState
from mdm_dicom_srm.register.rules.scanner import look_for
from mdm_wire.errors import FailedPrecondition, Invalid, NotFound, Unavailable

from .conftest import IMAGES, OTHER_PATIENT, SERIES, STUDY, Site, guid_of, header

pytestmark = pytest.mark.integration
OTHER_STUDY = "1.2.826.0.1.77.2"


def fill(site: Site, count: int = 3) -> None:
    """Let the PACS have instances that nobody announces."""
    for number in range(1, count + 1):
        site.pacs.take(header(number=number))


def test_what_is_new_is_registered_and_what_is_equal_costs_no_retrieval(site: Site) -> None:
    fill(site)
    assert site.scan() == Counts(listed=3, new=3)
    assert len(site.catalog.files) == 3
    retrieved, judged = site.pacs.retrieved, site.judge.judged
    assert site.scan() == Counts(listed=3, equal=3)
    assert (site.pacs.retrieved, site.judge.judged) == (retrieved, judged)


def test_what_was_sent_costs_a_scan_no_retrieval(site: Site) -> None:
    site.enqueue(header())
    site.run()
    assert site.scan() == Counts(listed=1, equal=1)
    assert site.pacs.retrieved == 0


def test_a_pacs_that_lists_otherwise_than_headers_say_is_asked_once(site: Site) -> None:
    site.enqueue(header())
    site.run()
    site.pacs.lists_otherwise = {"PatientName": "SECRET^NAME"}
    assert site.scan() == Counts(listed=1, changed=1)
    assert site.scan() == Counts(listed=1, equal=1)
    assert site.pacs.retrieved == 1 and list(site.states().values()) == [("PUBLISHED", "")]


def test_what_has_changed_is_described_anew_under_its_guid(site: Site) -> None:
    fill(site, 1)
    site.scan()
    site.pacs.take(header(StudyDescription="Corrected", InstanceNumber=7))
    assert site.scan() == Counts(listed=1, changed=1)
    assert site.catalog.files[guid_of()].lfn.rpartition("/")[2].startswith("0007-")
    assert guid_of() in site.copies.forgotten


def test_an_instance_that_is_missing_twice_is_removed_and_comes_back_under_another_guid(site: Site) -> None:
    fill(site, 2)
    site.scan()
    lost = site.pacs.held[STUDY].pop()
    site.gone_after = 3600
    assert site.scan() == Counts(listed=1, equal=1, missing=1)
    assert site.scan() == Counts(listed=1, equal=1, missing=1), "too soon"
    site.gone_after = 0
    assert site.scan() == Counts(listed=1, equal=1, gone=1)
    assert site.states()[guid_of(number=2)] == ("REMOVED", "GONE")
    assert guid_of(number=2) not in site.catalog.files and guid_of(number=2) in site.keys.dead
    assert str(guid_of(number=2)) not in site.metadata.entries[IMAGES]
    assert guid_of(number=2) in site.copies.forgotten
    site.pacs.take(lost)
    assert site.scan() == Counts(listed=2, equal=1, new=1)
    assert guid_of(1, number=2) in site.catalog.files


def test_an_instance_that_was_missing_once_and_is_there_again_stays(site: Site) -> None:
    fill(site, 1)
    site.scan()
    held, site.pacs.held = site.pacs.held, {}
    site.gone_after = 3600
    assert site.scan() == Counts(missing=1)
    site.pacs.held = held
    assert site.scan() == Counts(listed=1, equal=1)
    site.pacs.held = {}
    site.gone_after = 0.2
    assert site.scan() == Counts(missing=1), "the time counts anew"


def test_a_study_that_is_missing_is_looked_at_again_by_itself(site: Site) -> None:
    fill(site, 1)
    site.scan()
    site.pacs.held = {}
    site.scans().look(STUDY)
    site.look()
    site.run()
    assert site.states()[guid_of()] == ("REMOVED", "GONE") and not site.catalog.files
    with site.pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM inspection WHERE scan_id IS NULL").fetchone() == (0,)


def test_a_pacs_that_is_away_removes_nothing(site: Site) -> None:
    fill(site, 1)
    site.scan()
    site.pacs.away = True
    stores = site.stores()
    site.scans().look(STUDY)
    inspection = stores.inspections.claim(60)
    assert inspection is not None
    with pytest.raises(Unavailable):
        Inspector(site.pacs, site.names, stores, site.service(), 0).inspect(inspection)
    stores.inspections.postpone(inspection, "PACS_UNAVAILABLE", 1)
    assert list(site.states().values()) == [("PUBLISHED", "")]
    site.pacs.away = False
    with site.pool.connection() as connection:
        connection.execute("UPDATE inspection SET due_at = now()")
    site.look()
    with site.pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM inspection WHERE scan_id IS NULL").fetchone() == (0,)


def test_a_dry_run_counts_and_changes_nothing(site: Site) -> None:
    fill(site, 2)
    assert site.scan(dry_run=True) == Counts(listed=2, new=2)
    assert site.states() == {}
    site.scan()
    site.pacs.take(header(number=1, PatientName="Other^Name"))
    site.pacs.held[STUDY] = [item for item in site.pacs.held[STUDY] if item.sop_uid == f"{SERIES}.1"]
    before = site.visible()
    assert site.scan(dry_run=True) == Counts(listed=1, changed=1, gone=1)
    assert site.visible() == before and {state for state, _ in site.states().values()} == {"PUBLISHED"}


@pytest.mark.parametrize(
    ("scope", "studies"),
    [
        (Scope(), 2),
        (Scope(study_uids=(STUDY,)), 1),
        (Scope(series_uids=(f"{OTHER_STUDY}.1",)), 1),
        (Scope(patient_ids=("SECRET77",)), 2),
        (Scope(patient_ids=("NOBODY",)), 0),
        (Scope(modalities=("MR",)), 1),
        (Scope(since=date(2020, 1, 1)), 1),
        (Scope(until=date(2019, 12, 31)), 1),
        (Scope(accession_numbers=("A1",), modalities=("CT",)), 0),
    ],
)
def test_a_scope_is_the_same_for_what_is_in_the_pacs_and_what_it_has_lost(site: Site, scope: Scope, studies: int) -> None:
    site.pacs.take(header(StudyDate="20190101"))
    other = header(
        number=2,
        StudyInstanceUID=OTHER_STUDY,
        SeriesInstanceUID=f"{OTHER_STUDY}.1",
        Modality="MR",
        StudyDate="20200607",
        AccessionNumber="A1",
    )
    site.pacs.take(other)
    assert site.scan(scope, dry_run=True).new == studies
    site.scan()
    site.pacs.held = {}
    assert site.scan(scope, dry_run=True).gone == studies


def test_a_study_moved_to_another_patient_gets_another_guid(site: Site) -> None:
    fill(site, 2)
    site.scan()
    for number in (1, 2):
        site.pacs.take(header(number=number, **OTHER_PATIENT))
    site.scan()
    site.expire()
    site.run()
    assert site.catalog.files.keys() == {guid_of(1, 1), guid_of(1, 2)}
    assert site.keys.dead == {guid_of(0, 1), guid_of(0, 2)} and site.patient_names() == {"Right^Person"}


def test_an_instance_split_off_into_another_study_keeps_its_guid(site: Site) -> None:
    fill(site, 2)
    site.scan()
    site.gone_after = 3600
    site.pacs.take(header(number=2, StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=f"{OTHER_STUDY}.1"))
    counts = site.scan()
    assert (counts.listed, counts.equal, counts.changed) == (2, 1, 1)
    site.scan()
    assert site.catalog.files.keys() == {guid_of(0, 1), guid_of(0, 2)}
    parents = {file.lfn.rpartition("/")[0] for file in site.catalog.files.values()}
    assert len(parents) == 2
    site.gone_after = 0
    assert site.scan().gone == 0


def test_an_instance_in_two_studies_of_the_pacs_does_not_go_back_and_forth(site: Site) -> None:
    fill(site, 1)
    site.scan()
    site.pacs.held[OTHER_STUDY] = [header(StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=f"{OTHER_STUDY}.1")]
    before = site.visible()
    assert site.scan() == Counts(listed=2, equal=2)
    assert site.visible() == before


def test_an_instance_that_the_pacs_lists_otherwise_than_it_sends_is_counted_and_left(site: Site) -> None:
    fill(site, 1)
    site.pacs.held[OTHER_STUDY] = []
    site.pacs.listed_in = {STUDY: OTHER_STUDY}
    assert site.scan(Scope(study_uids=(OTHER_STUDY,))) == Counts(listed=1, new=1, failed=1)
    assert site.states() == {}


def test_a_killed_listing_begins_again_and_looks_at_each_study_once(site: Site) -> None:
    fill(site, 1)
    stores = site.stores()
    scan_id = stores.scans.start(Order(Action.REGISTER, Scope(), by="CN=operator"))
    first = stores.scans.claim(60)
    assert first is not None and stores.scans.add_studies(first, [STUDY])
    assert stores.scans.claim(60) is None
    with site.pool.connection() as connection:
        connection.execute("UPDATE scan SET lease_until = now() - interval '1 s'")
    site.look()
    scan = stores.scans.get(scan_id)
    assert scan is not None and (scan.state, scan.studies, scan.inspected) == (ScanState.DONE, 1, 1)
    assert not stores.scans.add_studies(first, [OTHER_STUDY]), "its lease is over"


def test_a_cancelled_scan_ends_and_says_so(site: Site) -> None:
    fill(site, 1)
    stores, scans = site.stores(), site.scans()
    scan_id = scans.start(Scope(), "CN=operator", dry_run=False)
    listing = stores.scans.claim(60)
    assert listing is not None and stores.scans.add_studies(listing, [STUDY])
    scans.cancel(scan_id)
    scans.cancel(scan_id)
    assert stores.inspections.claim(60) is None and not stores.scans.add_studies(listing, [OTHER_STUDY])
    assert scans.get(scan_id).state is ScanState.CANCELLED
    with pytest.raises(NotFound):
        scans.cancel(UUID(int=7))
    done = scans.start(Scope(), "CN=operator", dry_run=False)
    site.look()
    with pytest.raises(FailedPrecondition, match="ended"):
        scans.cancel(done)


def test_the_schedule_begins_one_scan_at_a_time_and_only_when_it_is_due(site: Site) -> None:
    scans, order = site.stores().scans, Order(Action.REGISTER, Scope())
    first = scans.start_due("RECENT", order, 0.0)
    assert first is not None
    assert scans.start_due("RECENT", order, 0.0) is None, "the last one is under way"
    assert scans.start_due("ALL", order, 3600) is not None
    site.look()
    assert scans.start_due("ALL", order, 3600) is None, "it is not due"
    assert scans.start_due("RECENT", order, 0.0) is not None


def test_nothing_identifying_is_in_the_tables_of_scans(site: Site) -> None:
    fill(site, 1)
    scan_id = site.scans().start(Scope(patient_ids=("SECRET77",), study_uids=(STUDY,)), "CN=operator", dry_run=False)
    site.scans().look(STUDY)
    with site.pool.connection() as connection:
        columns = "row_to_json(s)::text, encode(s.scope, 'escape'), row_to_json(i)::text, encode(i.study, 'escape')"
        rows = connection.execute(f"SELECT {columns} FROM scan s, inspection i").fetchall()
    assert rows and "SECRET77" not in str(rows) and STUDY not in str(rows)
    site.look()
    assert site.stores().scans.get(scan_id) is not None


@pytest.mark.parametrize(
    "scope",
    [
        Scope(study_uids=("no uid",)),
        Scope(study_uids=("",)),
        Scope(series_uids=("1." * 40,)),
        Scope(patient_ids=("*",)),
        Scope(patient_ids=("a\\b",)),
        Scope(patient_ids=("x" * 65,)),
        Scope(modalities=("CT",) * 101),
        Scope(accession_numbers=("a\nb",)),
        Scope(since=date(2020, 1, 2), until=date(2020, 1, 1)),
    ],
)
def test_a_scope_that_no_pacs_should_be_asked_for_is_refused(site: Site, scope: Scope) -> None:
    with pytest.raises(Invalid) as caught:
        site.scans().start(scope, "CN=operator", dry_run=True)
    assert caught.value.reason == "SCOPE_MALFORMED"


def test_a_retrieval_that_finds_an_instance_gone_has_its_study_looked_at(site: Site) -> None:
    site.enqueue(header(), header(number=2))
    site.run()
    del site.pacs.held[STUDY][0]
    look_for(site.stores(), [guid_of(), UUID(int=7)])
    site.look()
    site.run()
    assert site.states()[guid_of()] == ("REMOVED", "GONE") and guid_of(number=2) in site.catalog.files


def test_an_instance_that_is_gone_when_it_is_judged_again_is_removed(site: Site) -> None:
    site.enqueue(header())
    site.judge.rules = "second"
    site.pacs.held = {}
    site.run()
    assert site.states()[guid_of()] == ("FAILED", "NOT_IN_PACS")
    site.look()
    site.run()
    assert site.states()[guid_of()] == ("REMOVED", "GONE")
