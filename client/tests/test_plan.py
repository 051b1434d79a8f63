"""Plans: which files, under which local names."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from mdm_client.catalog.client import DIRECTORY, FILE, Entry, Location
from mdm_client.fetch.plan import existing, make_plan
from mdm_client.names import Name, parse_name
from mdm_wire.errors import MdmError, NotFound

GONE = NotFound("NOT_FOUND", "no such file, or not for you")


def entry(lfn: str, kind: str = FILE, permissions: int = 255, surls: tuple[str, ...] = ("srm://a/x",), guid: UUID | None = None) -> Entry:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    identifier = (guid or uuid4()) if kind == FILE else None
    return Entry(lfn, kind, identifier, None, b"", "", "CN=o", "", "", now, now, 1, permissions, surls)


class Catalog:
    """Entries in a list."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {e.lfn: e for e in entries}
        self.resolved: list[str] = []

    def stat(self, names: Sequence[Name], with_replicas: bool = False) -> list[Entry | MdmError]:
        return [self.entries.get(name.lfn, GONE) for name in names]

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        self.resolved += [str(name) for name in names]
        return [self._location(name) for name in names]

    def _location(self, name: Name) -> Location | MdmError:
        for e in self.entries.values():
            if e.guid and (e.lfn == name.lfn or e.guid == name.guid) and e.permissions & 4:
                return Location(e.lfn, e.guid, e.surls, e.size)
        return GONE

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        yield from (e for e in self.entries.values() if e.lfn.startswith(lfn.rstrip("/") + "/"))


def paths(catalog: Catalog, *targets: str) -> list[str]:
    return [file.path for file in make_plan(catalog, [parse_name(target) for target in targets]).files]


def test_files_go_by_their_last_name_and_trees_keep_their_shape():
    catalog = Catalog(entry("/a", DIRECTORY), entry("/a/s", DIRECTORY), entry("/a/s/1.dcm"), entry("/a/t/1.dcm"), entry("/b/2.dcm"))
    assert paths(catalog, "/a") == ["s/1.dcm", "t/1.dcm"]
    assert paths(catalog, "/a/s/1.dcm", "/b/2.dcm") == ["1.dcm", "2.dcm"]
    assert catalog.resolved == ["/a/s/1.dcm", "/b/2.dcm"], "a listing already tells where its files are"


def test_names_that_collide_get_the_guid():
    one, two = entry("/a/1.dcm"), entry("/b/1.dcm")
    assert paths(Catalog(one, two), "/a/1.dcm", "/b/1.dcm") == ["1.dcm", f"1~{two.guid}.dcm"]


def test_a_file_named_twice_is_fetched_once():
    one = entry("/a/1.dcm")
    catalog = Catalog(entry("/a", DIRECTORY), one)
    assert paths(catalog, "/a/1.dcm", str(one.guid), "/a", "/a/1.dcm") == ["1.dcm"]


def test_what_may_not_be_read_is_a_failure_and_the_rest_goes_on():
    catalog = Catalog(entry("/a", DIRECTORY), entry("/a/1.dcm"), entry("/a/2.dcm", permissions=96))
    plan = make_plan(catalog, [parse_name("/a"), parse_name("/none")])
    assert [file.path for file in plan.files] == ["1.dcm"]
    assert [failure.name for failure in plan.failures] == ["/a/2.dcm", "/none"]


def test_a_catalog_cannot_make_a_client_write_outside_its_directory():
    for lfn in ("/a/../../etc/passwd", "/a/..", "/"):
        guid = uuid4()
        plan = make_plan(Catalog(entry(lfn, guid=guid)), [Name(guid=guid)])
        assert plan.files == []
        assert plan.failures[0].error.reason == "LFN_MALFORMED"


def test_a_file_without_a_copy_is_a_failure():
    plan = make_plan(Catalog(entry("/a/1.dcm", surls=())), [parse_name("/a/1.dcm")])
    assert plan.failures[0].error.reason == "NO_REPLICA"


def test_existing_files_are_told_apart(tmp_path):
    plan = make_plan(Catalog(entry("/a/1.dcm"), entry("/a/2.dcm")), [parse_name("/a/1.dcm"), parse_name("/a/2.dcm")])
    (tmp_path / "1.dcm").write_bytes(b"")
    there, missing = existing(plan.files, tmp_path)
    assert ([f.path for f in there], [f.path for f in missing]) == (["1.dcm"], ["2.dcm"])
