"""Reconciliation on a real registry and a fake grid: what changes meanwhile, what is young, what is somebody else's, and its limits."""

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from mdm_dicom_srm.reconcile.rules.comparison import Comparison
from mdm_dicom_srm.reconcile.rules.model import Difference, HeldKey, Kind, Name
from mdm_dicom_srm.reconcile.rules.service import BY_HAND, CHANGED, NOT_ASKED, TOO_MANY, Limits, Reconciliation
from mdm_dicom_srm.reconcile.store.registry import ReconciliationStore, RegistryStore
from mdm_dicom_srm.reconcile.store.spool import SpoolFiles
from mdm_dicom_srm.reconcile.worker import Schedule, reconcile_now
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Entry
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_testing.process import eventually
from mdm_wire.errors import FailedPrecondition, MdmError, Unavailable

from .conftest import IMAGES, PATIENTS, SECRET, STUDIES, STUDY, Site, guid_of, header

pytestmark = pytest.mark.integration
LONG_AGO = datetime.now(UTC) - timedelta(days=9)
REPAIR = Limits(repair=True)


@dataclass
class FakeGrid:
    """The fakes of a site's grid as reconciliation asks them. `meanwhile` is called when keys are listed."""

    site: Site
    meanwhile: Callable[[], None] = lambda: None
    partly: set[UUID] = field(default_factory=set)
    foreign: dict[UUID, datetime] = field(default_factory=dict)
    young: set[UUID] = field(default_factory=set)

    def listed_names(self) -> Iterator[UUID]:
        yield from sorted(self.site.catalog.files)

    def names(self, guids: Sequence[UUID]) -> dict[UUID, Name]:
        files = self.site.catalog.files
        return {guid: Name(files[guid].lfn, files[guid].size, files[guid].acl_id) for guid in guids if guid in files}

    def entry_keys(self, collection: str) -> Iterator[str]:
        yield from sorted(self.site.metadata.entries.get(collection, {}))

    def keys(self) -> Iterator[HeldKey]:
        self.meanwhile()
        for guid in sorted([*self.site.keys.keys, *self.foreign]):
            young = datetime.now(UTC) if guid in self.young else LONG_AGO
            yield HeldKey(guid, guid not in self.partly, guid not in self.foreign, young)

    def set_sizes(self, sizes: Mapping[UUID, int]) -> None:
        self.site.catalog.set_sizes(sizes)

    def remove_names(self, names: Mapping[UUID, str]) -> None:
        self.site.catalog.remove(list(names))

    def remove_entries(self, collection: str, keys: Sequence[str]) -> None:
        self.site.metadata.remove(collection, keys)

    def destroy_keys(self, guids: Sequence[UUID]) -> dict[UUID, MdmError | None]:
        return self.site.keys.destroy(guids)


@dataclass
class Scene:
    """A site of three published images, and its reconciliation."""

    site: Site
    grid: FakeGrid
    spool: Path
    forgotten: list[UUID] = field(default_factory=list)

    def reconciliation(self, min_age: float = 0) -> Reconciliation:
        registry = RegistryStore(self.site.pool, RecordSealer(SECRET), self.site.names, self.site.shared, min_age)
        spool = SpoolFiles(self.spool, self.forgotten.extend)
        comparison = Comparison(registry, self.grid, spool, self.site.names.collection, timedelta(seconds=60))
        return Reconciliation(comparison, registry, self.grid, spool, self.site.names.collection)

    def run(self, limits: Limits = Limits(), min_age: float = 0) -> dict[Kind, Difference]:  # noqa: B008 - frozen
        return {difference.kind: difference for difference in self.reconciliation(min_age).run(limits)}

    def found(self, limits: Limits = Limits()) -> dict[Kind, tuple[int, int]]:  # noqa: B008 - frozen
        return {kind: (item.found, item.repaired) for kind, item in self.run(limits).items()}


@pytest.fixture
def scene(site: Site, tmp_path: Path) -> Scene:
    site.enqueue(*(header(number=number) for number in (1, 2, 3)))
    site.run()
    found = Scene(site, FakeGrid(site), tmp_path)
    assert found.found() == {}
    return found


def test_what_a_published_image_lacks_is_found_and_restored(scene: Scene) -> None:
    site = scene.site
    before = site.visible()
    del site.catalog.files[guid_of(number=1)]
    del site.metadata.entries[IMAGES][str(guid_of(number=2))]
    site.metadata.entries[STUDIES].clear()
    assert scene.found() == {Kind.NAME_MISSING: (1, 0), Kind.ENTRY_MISSING: (1, 0), Kind.SHARED_MISSING: (1, 0)}
    differences = scene.run(REPAIR)
    assert differences[Kind.NAME_MISSING].examples == [str(guid_of(number=1))]
    assert {item.why for item in differences.values()} == {""}
    site.expire()
    site.run()
    site.pipeline().tidy()
    with site.pool.connection() as connection:
        connection.execute("UPDATE shared_entry SET modified_at = now() - interval '1 hour'")
    site.pipeline().tidy()
    assert site.visible() == before and scene.found() == {}


def test_another_name_or_size_is_put_right_and_another_list_is_left_to_who_made_it(scene: Scene) -> None:
    from dataclasses import replace

    files = scene.site.catalog.files
    before = dict(files)
    renamed, resized, relisted = (guid_of(number=number) for number in (1, 2, 3))
    files[renamed] = replace(files[renamed], lfn=files[renamed].lfn + "x")
    files[resized] = replace(files[resized], size=1)
    files[relisted] = replace(files[relisted], acl_id=uuid4())
    differences = scene.run(REPAIR)
    assert {kind: (item.found, item.repaired, item.why) for kind, item in differences.items()} == {
        Kind.NAME_DIFFERS: (1, 1, ""),
        Kind.SIZE_DIFFERS: (1, 1, ""),
        Kind.ACL_DIFFERS: (1, 0, BY_HAND),
    }
    scene.site.run()
    assert {guid: files[guid] for guid in (renamed, resized)} == {guid: before[guid] for guid in (renamed, resized)}


def test_what_no_registration_knows_goes_but_keys_only_if_that_is_asked_for(scene: Scene) -> None:
    site = scene.site
    with site.pool.connection() as connection:
        connection.execute("DELETE FROM registration WHERE guid = %s", (guid_of(number=2),))
    copy = scene.spool / str(guid_of(number=2))
    for name in (copy, scene.spool / "LOCK", scene.spool / str(guid_of(number=1)), scene.spool / str(guid_of()).upper()):
        name.touch()
    site.metadata.entries[STUDIES]["2.25.1"] = Entry("2.25.1", uuid4())
    expected = {Kind.NAME_UNREGISTERED, Kind.ENTRY_UNREGISTERED, Kind.KEY_UNREGISTERED, Kind.COPY_UNREGISTERED, Kind.SHARED_UNSUPPORTED}
    assert scene.found() == dict.fromkeys(expected, (1, 0))
    differences = scene.run(REPAIR)
    assert differences[Kind.KEY_UNREGISTERED].why == NOT_ASKED and guid_of(number=2) in site.keys.keys
    assert {kind for kind, item in differences.items() if item.repaired} == expected - {Kind.KEY_UNREGISTERED}
    assert scene.forgotten == [guid_of(number=2)]
    copy.unlink()
    assert scene.found(Limits(repair=True, destroy_keys=True)) == {Kind.KEY_UNREGISTERED: (1, 1)}
    assert scene.found() == {}
    assert site.catalog.files.keys() == {guid_of(number=1), guid_of(number=3)}


def test_a_removed_image_whose_key_lives_loses_it(scene: Scene) -> None:
    with scene.site.pool.connection() as connection:
        connection.execute("UPDATE registration SET state = 'REMOVED' WHERE guid = %s", (guid_of(),))
    differences = scene.run(REPAIR)
    assert differences[Kind.KEY_OF_REMOVED].repaired == 1
    assert guid_of() in scene.site.keys.dead


def test_keys_of_others_young_keys_and_keys_that_a_keystore_lacks_are_no_business_of_a_repair(scene: Scene) -> None:
    scene.grid.foreign[uuid4()] = LONG_AGO
    young = uuid4()
    scene.site.keys.keys[young] = uuid4()
    scene.grid.young.add(young)
    scene.grid.partly.add(guid_of())
    differences = scene.run(Limits(repair=True, destroy_keys=True))
    assert {kind: (item.found, item.repaired, item.why) for kind, item in differences.items()} == {Kind.KEY_SHORT: (1, 0, BY_HAND)}
    assert young in scene.site.keys.keys


def test_what_changes_meanwhile_is_left_alone(scene: Scene) -> None:
    site = scene.site
    del site.catalog.files[guid_of()]

    def describe_anew() -> None:
        site.enqueue(header(StudyDescription="ANOTHER"))

    scene.grid.meanwhile = describe_anew
    assert scene.run(REPAIR) == {}
    scene.grid.meanwhile = lambda: None
    assert scene.run(REPAIR) == {}, "it is being registered"
    site.run()
    assert scene.found() == {}


def test_what_is_registered_meanwhile_is_not_taken_for_left_over(scene: Scene) -> None:
    site = scene.site

    def arrive() -> None:
        site.enqueue(header(number=9))
        site.run()

    scene.grid.meanwhile = arrive
    assert scene.run(Limits(repair=True, destroy_keys=True)) == {}
    assert guid_of(number=9) in site.catalog.files


def test_what_is_young_is_left_alone(scene: Scene) -> None:
    scene.site.catalog.files.clear()
    assert scene.run(REPAIR, min_age=3600) == {}


def test_shared_entries_stay_while_instances_of_an_earlier_version_may_share_them(scene: Scene) -> None:
    scene.site.metadata.entries[PATIENTS]["old"] = Entry("old", uuid4())
    with scene.site.pool.connection() as connection:
        connection.execute("UPDATE registration SET digest = NULL WHERE guid = %s", (guid_of(),))
    assert scene.found() == {}
    with scene.site.pool.connection() as connection:
        connection.execute("UPDATE registration SET digest = 'x' WHERE guid = %s", (guid_of(),))
    assert scene.found() == {Kind.SHARED_UNSUPPORTED: (1, 0)}


def test_more_than_is_likely_is_not_repaired(scene: Scene) -> None:
    scene.site.catalog.files.clear()
    difference = scene.run(Limits(repair=True, most=2))[Kind.NAME_MISSING]
    assert (difference.found, difference.repaired, difference.why) == (3, 0, TOO_MANY)
    leftover = [uuid4() for _ in range(12)]
    scene.site.metadata.entries[IMAGES].update({str(guid): Entry(str(guid), uuid4()) for guid in leftover})
    difference = scene.run(Limits(repair=True, most=100, share=0.05))[Kind.ENTRY_UNREGISTERED]
    assert (difference.found, difference.repaired, difference.why, len(difference.examples)) == (12, 0, TOO_MANY, 5)


def test_a_service_that_breaks_off_ends_it_and_nothing_is_repaired(scene: Scene) -> None:
    scene.site.catalog.files.clear()

    def away() -> None:
        raise Unavailable("KEYSTORE_UNAVAILABLE", "away")

    scene.grid.meanwhile = away
    with pytest.raises(Unavailable):
        scene.run(REPAIR)
    assert {state for state, _ in scene.site.states().values()} == {"PUBLISHED"}


def test_a_repair_that_changes_nothing_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.site.catalog.files.clear()
    monkeypatch.setattr(RegistryStore, "restore", lambda self, guids: set())
    assert scene.run(REPAIR)[Kind.NAME_MISSING].why == CHANGED


def test_one_process_reconciles_at_a_time_and_by_schedule_only_when_it_is_due(scene: Scene) -> None:
    store = ReconciliationStore(scene.site.pool)
    assert store.is_due(3600)
    with store.leading() as leads, store.leading() as also:
        assert leads and not also
        with pytest.raises(FailedPrecondition):
            reconcile_now(scene.reconciliation(), store, Limits())
    scene.site.catalog.files.pop(guid_of())
    schedule = Schedule(scene.reconciliation(), store, REPAIR, 3600, look=0.05)
    schedule.start()
    assert eventually(lambda: not store.is_due(3600) and scene.site.states()[guid_of()][0] == "RECEIVED", timeout=20)
    schedule.stop()
    with scene.site.pool.connection() as connection:
        [(kept,)] = connection.execute("SELECT differences FROM reconciliation").fetchall()
    assert [(item["kind"], item["found"], item["repaired"]) for item in kept] == [("name-missing", 1, 1)]


def test_a_site_of_many_images_is_compared_in_bounded_memory(site: Site, tmp_path: Path) -> None:
    count = 20_000
    names, guids = site.names, sorted(uuid4() for _ in range(count))
    _fill(site, names, guids)
    grid = Many(guids)
    registry = RegistryStore(site.pool, RecordSealer(SECRET), names, site.shared, 0)
    comparison = Comparison(registry, grid, SpoolFiles(tmp_path, None), names.collection, timedelta(seconds=60))
    found: dict[Kind, int] = {}
    tracemalloc.start()
    began = time.monotonic()
    comparison.run(lambda kind, items: found.update({kind: found.get(kind, 0) + len(items)}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {Kind.ACL_DIFFERS: count}
    assert peak < 20_000_000, f"{peak} bytes for {count} images in {time.monotonic() - began:.1f} s"


@dataclass
class Many:
    """A grid that has every image, without keeping anything of them."""

    guids: Sequence[UUID]
    acl_id: UUID = field(default_factory=uuid4)

    def listed_names(self) -> Iterator[UUID]:
        yield from self.guids

    def names(self, guids: Sequence[UUID]) -> dict[UUID, Name]:
        return {guid: Name(f"/x/{guid}", 1, self.acl_id) for guid in guids}

    def entry_keys(self, collection: str) -> Iterator[str]:
        yield from map(str, self.guids) if collection.endswith("/images") else ()

    def keys(self) -> Iterator[HeldKey]:
        for guid in self.guids:
            yield HeldKey(guid, True, True, LONG_AGO)


def _fill(site: Site, names: Names, guids: Sequence[UUID]) -> None:
    sealer = RecordSealer(SECRET)
    sealed = [sealer.seal(guid, "locator", f'["{STUDY}", "1", "2"]'.encode()) for guid in guids]
    with site.pool.connection() as connection, connection.cursor() as cursor:
        copy = "COPY registration (guid, instance, study_token, series_token, state, locator, digest, size, lfn) FROM STDIN"
        with cursor.copy(copy) as rows:
            for guid, locator in zip(guids, sealed, strict=True):
                rows.write_row((guid, guid, b"s", b"t", "PUBLISHED", locator, b"d", 1, f"/x/{guid}"))
