"""Removal by order of an operator, and removals that are killed."""

import contextlib
import random
from uuid import uuid4

import pytest
from mdm.srm.v1 import registration_pb2 as pb
from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.register.rpc.scan import scope_from_proto
from mdm_dicom_srm.register.rules.scan import Counts, ScanState
from mdm_wire.errors import Invalid, NotFound

from .conftest import SERIES, STUDY, Site, guid_of, header

pytestmark = pytest.mark.integration
BY = "CN=operator"


def publish(site: Site, count: int = 3) -> None:
    site.enqueue(*(header(number=number) for number in range(1, count + 1)))
    site.run()
    assert len(site.catalog.files) == count


def unregister(site: Site, **names: list) -> list:  # type: ignore[type-arg]
    asked = {"guids": [], "lfns": [], "study_uids": [], **names}
    found = site.scans().unregister(asked["guids"], asked["lfns"], asked["study_uids"], BY, "asked for", dry_run=False)
    site.run()
    return found


def test_a_file_is_unregistered_by_its_guid(site: Site) -> None:
    publish(site)
    assert unregister(site, guids=[guid_of()]) == [1]
    assert site.catalog.files.keys() == {guid_of(number=2), guid_of(number=3)}
    assert site.keys.dead == {guid_of()} and site.states()[guid_of()] == ("REMOVED", "UNREGISTERED")
    with site.pool.connection() as connection:
        row = connection.execute("SELECT removed_by, removal_note FROM registration WHERE guid = %s", (guid_of(),)).fetchone()
    assert row == (BY, "asked for")


def test_a_directory_and_a_file_are_unregistered_by_name_and_nothing_beside_them(site: Site) -> None:
    publish(site)
    lfn = site.catalog.files[guid_of()].lfn
    directory = lfn.rpartition("/")[0]
    assert isinstance(unregister(site, lfns=[directory[:-1]])[0], NotFound)
    assert unregister(site, lfns=[lfn]) == [1]
    assert unregister(site, lfns=[f"{directory}/"]) == [2]
    assert not site.catalog.files and site.catalog.directories.keys() == {"/biomed", "/biomed/hospital-a"}


def test_a_study_is_unregistered_and_stays_away_from_scans_until_an_operator_or_the_pacs_wants_it(site: Site) -> None:
    publish(site)
    assert unregister(site, study_uids=[STUDY]) == [3]
    assert site.scan(by="") == Counts(listed=3, left_out=3)
    assert not site.catalog.files
    site.enqueue(header(number=2))
    site.run()
    assert list(site.catalog.files) == [guid_of(1, number=2)]
    assert site.scan() == Counts(listed=3, new=2, equal=1)
    assert site.catalog.files.keys() == {guid_of(1, number) for number in (1, 2, 3)}


def test_a_scope_is_unregistered_by_a_scan_after_a_dry_run(site: Site) -> None:
    publish(site)
    other = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "Modality": "MR"}
    site.enqueue(header(number=9, **other))
    site.run()
    for dry_run, left in ((True, 4), (False, 1)):
        scan_id = site.scans().unregister_scope(Scope(modalities=("CT",)), BY, "", dry_run=dry_run)
        site.look()
        site.run()
        scan = site.scans().get(scan_id)
        assert (scan.state, scan.counts) == (ScanState.DONE, Counts(unregistered=3))
        assert len(site.catalog.files) == left


def test_a_dry_run_says_what_would_go(site: Site) -> None:
    publish(site)
    before = site.visible()
    lfn = site.catalog.files[guid_of()].lfn
    scans = site.scans()
    assert scans.unregister([guid_of(), uuid4()], [lfn.rpartition("/")[0]], [STUDY], BY, "", dry_run=True)[::2] == [1, 3]
    assert site.run() == 0 and site.visible() == before


@pytest.mark.parametrize("note", ["x" * 501, "two\nlines"])
def test_a_malformed_reason_is_refused(site: Site, note: str) -> None:
    with pytest.raises(Invalid):
        site.scans().unregister([guid_of()], [], [], BY, note, dry_run=True)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_1_to_1000_names(site: Site, count: int) -> None:
    with pytest.raises(Invalid):
        site.scans().unregister([guid_of()] * count, [], [], BY, "", dry_run=True)


@pytest.mark.parametrize("date", ["2020", "2020-13-01", "today"])
def test_a_scope_with_a_malformed_date_is_refused(date: str) -> None:
    with pytest.raises(Invalid) as caught:
        scope_from_proto(pb.Scope(since=date))
    assert caught.value.reason == "SCOPE_MALFORMED"


def test_what_a_worker_holds_is_removed_when_it_has_let_go(site: Site) -> None:
    site.enqueue(header())
    batch = site.claim(10, 60)
    assert batch is not None
    site.scans().unregister([guid_of()], [], [], BY, "", dry_run=False)
    assert site.claim(10, 60) is None, "the worker holds it"
    site.pipeline().run(batch)
    site.run()
    assert not site.catalog.files and not site.keys.keys and site.states()[guid_of()][0] == "REMOVED"


class Killed(BaseException):
    """The process ended."""


@pytest.mark.parametrize("seed", range(12))
def test_a_kill_at_any_point_ends_in_the_removal_completed(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    publish(site, 2)
    site.scans().unregister([guid_of(), guid_of(number=2)], [], [], BY, "", dry_run=False)
    for service in (site.catalog, site.metadata, site.keys):
        for trouble in ("trouble", "after"):
            if chance.random() < 0.5:
                continue
            setattr(service, trouble, Killed())
            site.expire()
            batch = site.claim(10, 60)
            if batch is not None:
                with contextlib.suppress(Killed):
                    site.pipeline().run(batch)
            setattr(service, trouble, None)
    site.expire()
    site.run()
    assert {state for state, _ in site.states().values()} == {"REMOVED"}
    assert not site.catalog.files and not site.keys.keys and site.keys.dead == {guid_of(), guid_of(number=2)}
    assert not any(site.metadata.entries.values())
    assert f"{SERIES}.1" not in site.dump()
