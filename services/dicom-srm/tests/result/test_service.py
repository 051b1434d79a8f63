"""Putting results: quotas, names, rights, what becomes of what is broken off; on PostgreSQL, with a fake of the grid."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

import pytest
from mdm_crypto.stream import ciphertext_size
from mdm_dicom_srm.result.rules.access import access_of
from mdm_dicom_srm.result.rules.model import NewResult, Record, State
from mdm_dicom_srm.result.rules.port import Source
from mdm_dicom_srm.result.rules.publication import Publisher
from mdm_dicom_srm.result.rules.service import Limits, ResultService
from mdm_dicom_srm.result.store.local import LocalSpace
from mdm_dicom_srm.result.store.record import PostgresResults
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.rules.port import CatalogEntry, PathKind
from mdm_service import database as databases
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import Permission
from psycopg_pool import ConnectionPool

pytestmark = pytest.mark.integration
SECRET = b"secret of the test site, 32 bytes"
ROOT = "/biomed/hospital-a"
DIRECTORY = f"{ROOT}/results"
SERVICE = "CN=dicom-srm"
ALICE, BOB = Caller("CN=alice", frozenset({"/biomed/neuro"})), Caller("CN=bob")
ALL = Permission.ALL


@dataclass
class FakeGrid:
    """Catalog, metadata and keystores in memory; `away` or `refusing`."""

    service: str = SERVICE
    published: dict[UUID, Record] = field(default_factory=dict)
    withdrawn: list[UUID] = field(default_factory=list)
    images: dict[UUID, Acl] = field(default_factory=dict)
    unreadable: set[UUID] = field(default_factory=set)
    writable: bool = True
    away: bool = False
    refusing: bool = False

    def sources(self, guids):
        return {guid: Source(f"{ROOT}/p/s/e/{guid}", self.images[guid].id) for guid in guids if guid in self.images}

    def acls(self, ids):
        return {acl.id: acl for acl in self.images.values() if acl.id in ids}

    def permissions(self, lfns):
        names = {record.about.lfn for record in self.published.values()}
        return {lfn: ALL for lfn in lfns if lfn == DIRECTORY or lfn in names} if self.writable else {}

    def publish(self, record):
        if self.away:
            raise Unavailable("CATALOG_UNAVAILABLE", "away")
        if self.refusing or any(record.about.lfn == other.about.lfn and record.guid != guid for guid, other in self.published.items()):
            raise Conflict("LFN_TAKEN", "taken")
        self.published[record.guid] = record

    def withdraw(self, guids):
        if self.away:
            raise Unavailable("CATALOG_UNAVAILABLE", "away")
        for guid in guids:
            self.published.pop(guid, None)
            self.withdrawn.append(guid)

    def named(self, guids):
        return set(guids) & self.published.keys()

    # As users see the catalog.
    def readable(self, subject, guids):
        return {guid for guid in guids if guid in self.images and guid not in self.unreadable}

    def stat(self, subject, targets):
        return [self._stat(subject, target) for target in targets]

    def _stat(self, subject, target):
        found = next((r for r in self.published.values() if target in (r.guid, r.about.lfn)), None)
        if found is not None:
            rights = ALL if subject == found.owner else Permission.READ | Permission.GET
            return CatalogEntry(found.about.lfn, PathKind.FILE, found.guid, 1, rights, found.owner, 1.0, 1.0, b"")
        if target == DIRECTORY:
            return CatalogEntry(DIRECTORY, PathKind.DIRECTORY, None, None, ALL, SERVICE, 1.0, 1.0, b"")
        return None


@dataclass
class Site:
    service: ResultService
    publisher: Publisher
    grid: FakeGrid
    records: PostgresResults
    space: LocalSpace
    forgotten: list[UUID]
    now: list[float]

    def put(self, caller, content=b"result", name=None, **values):
        """Reserve and write a result; return token and GUID."""
        new = NewResult(f"{DIRECTORY}/{name or uuid4()}", uuid4(), len(content), **values)
        token, [answer] = self.service.prepare(caller, [new], "", private=False)
        if isinstance(answer, MdmError):
            raise answer
        data = self.ciphertext(content)
        assert self.service.write(caller.dn, token, new.guid, 0, iter([data])) == answer.size
        return token, new.guid

    def ciphertext(self, content):
        return (content + bytes(ciphertext_size(len(content))))[: ciphertext_size(len(content))]

    def done(self, caller, token, guid, content=b"result"):
        [answer] = self.service.done(caller.dn, token, [(guid, hashlib.sha256(self.ciphertext(content)).digest(), b"p" * 32)])
        return answer


@pytest.fixture
def site(database, tmp_path):
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, max_size=8, open=True) as pool:
        grid, now, forgotten = FakeGrid(), [1_000_000.0], []
        records, space = PostgresResults(pool, RecordSealer(SECRET), SECRET), LocalSpace(tmp_path / "results")
        publisher = Publisher(records, space, grid, grid, forgotten.extend, 3600, lambda: now[0])
        limits = Limits(1000, {"/biomed/neuro": 500}, 10_000, 600)
        service = ResultService(ROOT, "srm-1", records, space, grid, grid, publisher, limits, lambda: now[0])
        yield Site(service, publisher, grid, records, space, forgotten, now)


def test_a_result_is_published_once_it_is_whole_and_verified(site):
    token, guid = site.put(ALICE)
    assert site.grid.published == {}
    assert [record.state for record, _ in site.service.status(ALICE.dn, token)] == [State.UPLOADING]
    answer = site.done(ALICE, token, guid)
    assert (answer.state, answer.about.plain_sha256) == (State.PUBLISHED, b"p" * 32)
    assert site.done(ALICE, token, guid).state is State.PUBLISHED
    assert set(site.grid.published) == {guid}


def test_others_neither_see_nor_write_nor_withdraw_an_upload(site):
    token, guid = site.put(ALICE)
    for attempt in (
        lambda: site.service.status(BOB.dn, token),
        lambda: site.service.write(BOB.dn, token, guid, 0, iter([b"x"])),
        lambda: site.service.withdraw(BOB.dn, token, []),
        lambda: site.done(BOB, token, guid),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_a_group_and_whoever_is_in_none_have_a_quota_each_and_the_refusal_says_what_is_left(site):
    site.put(ALICE, b"x" * 300)
    with pytest.raises(MdmError, match="/biomed/neuro may have 500 bytes of results here and has 144 left") as refused:
        site.put(ALICE, b"x" * 200)
    assert refused.value.reason == "QUOTA_EXCEEDED"
    site.put(BOB, b"x" * 900)
    with pytest.raises(Invalid, match="not in the group"):
        site.service.prepare(BOB, [NewResult(f"{DIRECTORY}/x", uuid4(), 1)], "/biomed/neuro", private=False)


def test_of_many_who_put_the_same_name_at_once_one_succeeds_and_the_quota_holds(site):
    barrier = threading.Barrier(4)

    def attempt(_number):
        barrier.wait()
        return site.service.prepare(BOB, [NewResult(f"{DIRECTORY}/same", uuid4(), 100)], "", private=False)[1][0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(attempt, range(4)))
    assert sorted(getattr(answer, "reason", "kept") for answer in answers) == ["NAME_IN_USE"] * 3 + ["kept"]


def test_a_name_that_was_taken_meanwhile_is_refused_and_the_upload_is_gone(site):
    token, guid = site.put(ALICE, name="x")
    site.grid.refusing = True
    assert site.done(ALICE, token, guid).reason == "LFN_TAKEN"
    assert site.records.get([guid]) == {}
    assert site.space.received(guid, str(guid)) == 0


@pytest.mark.parametrize(
    "reason", ["NAME_TAKEN", "SITE_MAY_NOT_WRITE", "NOT_OF_THIS_SITE", "LFN_INVALID", "DIRECTORY_NOT_FOUND", "BAD_SIZE"]
)
def test_what_cannot_become_a_result_is_refused_before_it_is_sent(site, reason):
    token, guid = site.put(ALICE, name="there")
    site.done(ALICE, token, guid)
    site.grid.writable = reason != "SITE_MAY_NOT_WRITE"
    lfn = {
        "NAME_TAKEN": f"{DIRECTORY}/there",
        "NOT_OF_THIS_SITE": "/biomed/hospital-b/x",
        "LFN_INVALID": f"{DIRECTORY}/../x",
        "DIRECTORY_NOT_FOUND": f"{ROOT}/none/x",
    }.get(reason, f"{DIRECTORY}/new")
    new = NewResult(lfn, uuid4(), 10_001 if reason == "BAD_SIZE" else 1)
    assert site.service.prepare(ALICE, [new], "", private=False)[1][0].reason == reason


def test_a_guid_that_names_something_else_is_refused_and_nothing_of_it_is_touched(site):
    """A client chooses the GUID; what is given up loses its key, and that must not be an image's, nor another's result's."""
    _, theirs = site.put(ALICE)
    image = UUID(int=uuid4().int & ~(0xF << 76) | 8 << 76)  # as the site names its images
    token, published = site.put(BOB)
    site.done(BOB, token, published)
    site.records.remove(published)  # of the catalog alone
    for guid, reason in ((image, "BAD_GUID"), (theirs, "GUID_TAKEN"), (published, "GUID_TAKEN")):
        token, [answer] = site.service.prepare(BOB, [NewResult(f"{DIRECTORY}/mine", guid, 1)], "", private=False)
        assert answer.reason == reason
        with pytest.raises(NotFound):
            site.service.withdraw(BOB.dn, token, [guid])
    assert site.grid.withdrawn == []
    assert site.grid.published.keys() == {published}


def test_a_result_that_was_published_before_a_crash_and_renamed_since_stays(site):
    token, guid = site.put(ALICE)
    record = site.done(ALICE, token, guid)
    site.records.change(replace(record, state=State.STORED), (State.PUBLISHED,))
    site.grid.refusing = True  # the catalog has its GUID under another name
    site.publisher.tick()
    assert site.records.get([guid])[guid].state is State.PUBLISHED
    assert site.grid.withdrawn == []


def test_what_is_withdrawn_while_it_is_published_leaves_no_name(site):
    token, guid = site.put(ALICE)
    publish = site.grid.publish

    def withdrawn_meanwhile(record):
        publish(record)
        site.service.withdraw(ALICE.dn, token, [guid])
        publish(record)

    site.grid.publish = withdrawn_meanwhile
    assert site.done(ALICE, token, guid).reason == "REQUEST_UNKNOWN"
    assert site.grid.published == {}


def test_too_many_at_once_are_refused(site):
    many = [NewResult(f"{DIRECTORY}/{number}", uuid4(), 1) for number in range(10_001)]
    with pytest.raises(Invalid, match="10,000"):
        site.service.prepare(ALICE, many, "", private=False)


def test_sources_must_be_readable_and_decide_who_reads_the_result(site):
    open_acl = Acl(uuid4(), SERVICE, (AclEntry("group:/a", Permission.READ | Permission.GET), AclEntry("dn:CN=x", Permission.READ)))
    narrow = Acl(uuid4(), SERVICE, (AclEntry("group:/a", Permission.READ), AclEntry("group:/b", Permission.READ)))
    first, second, hidden = uuid4(), uuid4(), uuid4()
    site.grid.images.update({first: open_acl, second: narrow, hidden: narrow})
    site.grid.unreadable.add(hidden)

    def ask(*sources, private=False):
        new = NewResult(f"{DIRECTORY}/{uuid4()}", uuid4(), 1, derived_from=sources)
        return site.service.prepare(BOB, [new], "", private=private)[1][0]

    assert set(ask(first).about.access.entries) == {"group:/a", "dn:CN=x"}
    assert ask(first, second).about.access.entries == {"group:/a": int(Permission.READ)}
    assert ask(first, private=True).about.access.entries == {}
    assert ask().about.access.entries == {}
    assert ask(first, hidden).reason == ask(uuid4()).reason == "SOURCE_NOT_FOUND"
    assert ask(first, second).about.attributes["derived_from"] == f"{first} {second}"


def test_what_cannot_be_published_now_is_published_later_without_being_asked(site):
    token, guid = site.put(ALICE)
    site.grid.away = True
    assert site.done(ALICE, token, guid).state is State.STORED
    site.publisher.tick()
    assert site.grid.published == {}
    site.grid.away = False
    site.publisher.tick()
    assert set(site.grid.published) == {guid}
    assert site.records.get([guid])[guid].state is State.PUBLISHED


def test_an_abandoned_upload_is_removed_and_its_quota_and_name_are_free_again(site):
    _, guid = site.put(ALICE, b"x" * 300, name="x")
    site.publisher.tick()
    assert site.records.among([guid]) == {guid}
    site.now[0] += 601
    site.publisher.tick()
    assert site.records.among([guid]) == set()
    assert site.space.received(guid, str(guid)) == 0
    site.put(ALICE, b"x" * 300, name="x")


def test_a_removal_that_was_broken_off_goes_on(site):
    token, guid = site.put(ALICE)
    site.done(ALICE, token, guid)
    site.grid.away = True
    assert site.service.remove(ALICE, [guid])[0].reason == "CATALOG_UNAVAILABLE"
    site.grid.away = False
    site.publisher.tick()
    assert (site.records.among([guid]), site.grid.withdrawn, site.forgotten) == (set(), [guid], [guid])
    assert isinstance(site.service.remove(ALICE, [guid])[0], NotFound)


def test_only_who_may_delete_removes(site):
    token, guid = site.put(ALICE)
    site.done(ALICE, token, guid)
    assert isinstance(site.service.remove(BOB, [guid])[0], Forbidden)
    assert isinstance(site.service.remove(BOB, [uuid4()])[0], NotFound)
    assert site.service.remove(Caller("CN=o", roles=frozenset({"operator"})), [guid]) == [None]


def test_a_result_that_the_catalog_lost_goes_only_after_long_and_not_if_it_comes_back(site):
    token, guid = site.put(ALICE)
    site.done(ALICE, token, guid)
    kept = site.grid.published.pop(guid)
    site.publisher.sweep()
    site.now[0] += 3000
    site.publisher.sweep()
    site.grid.published[guid] = kept
    site.publisher.sweep()
    assert site.records.get([guid])[guid].state is State.PUBLISHED
    del site.grid.published[guid]
    site.now[0] += 700
    site.publisher.sweep()
    assert site.records.get([guid])[guid].state is State.PUBLISHED
    site.now[0] += 3601
    site.publisher.sweep()
    assert site.records.among([guid]) == set()


def test_the_database_names_neither_results_nor_their_attributes(site, database):
    site.put(ALICE, name="lesion-of-doe", attributes={"description": "described"})
    with databases.psycopg.connect(database.conninfo) as connection:
        dump = str(connection.execute("SELECT result FROM result").fetchall())
    assert "doe" not in dump and "described" not in dump


def test_the_owner_of_a_source_that_is_no_service_reads_what_is_made_of_it():
    acl = Acl(uuid4(), "CN=carol", (AclEntry("authenticated", Permission.READ), AclEntry(f"dn:{SERVICE}", ALL)))
    other = replace(acl, id=uuid4(), owner=SERVICE)
    assert set(access_of([acl], SERVICE).entries) == {"authenticated", "dn:CN=carol"}
    assert access_of([acl, other], SERVICE).entries["dn:CN=carol"] & Permission.READ
    assert f"dn:{SERVICE}" not in access_of([acl], SERVICE).entries
