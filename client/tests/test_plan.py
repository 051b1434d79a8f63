"""Plans: which files, under which local names."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from mdm_client.catalog.model import DIRECTORY, FILE, SYMLINK, Entry, Location, Search, find_pattern
from mdm_client.fetch.layout import check_local, folded
from mdm_client.fetch.plan import MAX_LINKED_DIRECTORIES, Plan, make_plan, select
from mdm_client.name_syntax import Name, parse_name
from mdm_wire.errors import Invalid, MdmError, NotFound

GONE = NotFound("NOT_FOUND", "no such file, or not for you")


def entry(
    lfn: str,
    kind: str = FILE,
    permissions: int = 255,
    surls: tuple[str, ...] = ("srm://a/x",),
    guid: UUID | None = None,
    size: int | None = None,
    sha256: bytes = b"",
) -> Entry:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    identifier = (guid or uuid4()) if kind == FILE else None
    return Entry(lfn, kind, identifier, size, sha256, "", "CN=o", "", "", now, now, 1, permissions, surls)


def link(lfn: str, target: str) -> Entry:
    return replace(entry(lfn, SYMLINK, surls=()), link_target=target)


class Catalog:
    """Entries in a list; links on the way and at the end of a path are followed as the catalog does."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {e.lfn: e for e in entries}
        self.resolved: list[str] = []

    def real(self, lfn: str) -> str:
        path = ""
        for name in lfn.strip("/").split("/"):
            path = f"{path}/{name}"
            for _ in range(17):
                found = self.entries.get(path)
                if found is None or found.kind != SYMLINK:
                    break
                path = found.link_target
            else:
                raise Invalid("LINK_LOOP", "too many links")
        return path

    def directory(self, lfn: str) -> bool:
        return any(other.startswith(lfn.rstrip("/") + "/") for other in self.entries)

    def stat(self, names: Sequence[Name], with_replicas: bool = False) -> list[Entry | MdmError]:
        return [self._stat(name) for name in names]

    def _stat(self, name: Name) -> Entry | MdmError:
        real = self.real(name.lfn) if name.lfn else next((e.lfn for e in self.entries.values() if e.guid == name.guid), "")
        return self.entries.get(real) or (entry(real, DIRECTORY) if real and self.directory(real) else GONE)

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        self.resolved += [str(name) for name in names]
        return [self._location(name) for name in names]

    def _location(self, name: Name) -> Location | MdmError:
        try:
            found = self._stat(name)
        except MdmError as error:
            return error
        if isinstance(found, Entry) and found.kind == DIRECTORY:
            return Invalid("NOT_A_FILE", "This is not a file.")
        if isinstance(found, Entry) and found.guid and found.permissions & 4:
            return Location(found.lfn, found.guid, found.surls, found.size)
        return GONE

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        real = self.real(lfn).rstrip("/") + "/"
        for e in sorted(self.entries.values(), key=lambda e: e.lfn):
            if e.lfn.startswith(real):
                yield replace(e, lfn=lfn.rstrip("/") + "/" + e.lfn.removeprefix(real))

    def find(self, lfn: str, search: Search, with_replicas: bool = False) -> Iterator[Entry]:
        depth = lfn.rstrip("/").count("/")
        for e in self.list_entries(lfn, recursive=True):
            deep = e.lfn.count("/") - depth
            if (not search.max_depth or deep <= search.max_depth) and fnmatchcase(e.lfn.rpartition("/")[2], search.name or "*"):
                yield e


def plan(catalog: Catalog, *targets: str, **options: bool) -> Plan:
    return make_plan(catalog, [parse_name(target) for target in targets], **options)


def paths(catalog: Catalog, *targets: str) -> list[str]:
    return [file.path for file in plan(catalog, *targets).files]


def reasons(made: Plan) -> list[tuple[str, str]]:
    return [(failure.name, failure.error.reason) for failure in made.failures]


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
    assert [file.path for file in plan.files] == ["a/1.dcm"], "what cannot be seen may be a directory, and does not change where others go"
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


def test_links_keep_the_names_and_directories_by_which_they_were_asked_for():
    catalog = Catalog(
        entry("/h/p1/0001.dcm"),
        entry("/h/p2/0001.dcm"),
        link("/w/cohort/sub-01/baseline/t1.dcm", "/h/p1/0001.dcm"),
        link("/w/cohort/sub-01/followup/t1.dcm", "/h/p2/0001.dcm"),
    )
    made = plan(catalog, "/w/cohort")
    assert [file.path for file in made.files] == ["sub-01/baseline/t1.dcm", "sub-01/followup/t1.dcm"]
    assert [file.location.lfn for file in made.files] == ["/w/cohort/sub-01/baseline/t1.dcm", "/w/cohort/sub-01/followup/t1.dcm"]
    assert paths(catalog, "/w/cohort/sub-01/baseline/t1.dcm") == ["t1.dcm"]


def test_a_link_to_a_directory_stands_for_what_is_in_it():
    catalog = Catalog(entry("/h/p1/s/1.dcm"), link("/w/sub-01", "/h/p1"), link("/x", "/w"))
    assert paths(catalog, "/w") == ["sub-01/s/1.dcm"]
    assert paths(catalog, "/w/sub-01") == ["s/1.dcm"]
    assert paths(catalog, "/x") == ["sub-01/s/1.dcm"]
    assert paths(catalog, "/w/sub-01", "/h/p1") == ["sub-01/s/1.dcm", "p1/s/1.dcm"]


def test_one_file_by_two_links_and_its_own_name_has_each_name():
    one = entry("/w/a.dcm")
    catalog = Catalog(one, link("/w/b.dcm", "/w/a.dcm"), link("/w/c.dcm", "/w/b.dcm"))
    made = plan(catalog, "/w")
    assert sorted(file.path for file in made.files) == ["a.dcm", "b.dcm", "c.dcm"]
    assert {file.guid for file in made.files} == {one.guid}


def test_links_that_lead_nowhere_or_in_circles_are_failures_and_the_rest_goes_on():
    catalog = Catalog(
        entry("/w/1.dcm"),
        link("/w/dangling", "/gone"),
        link("/w/self", "/w/self"),
        link("/w/d/up", "/w"),
        link("/w/e/other", "/v"),
        link("/v/back", "/w/e"),
        entry("/v/2.dcm"),
    )
    made = plan(catalog, "/w")
    assert sorted(file.path for file in made.files) == ["1.dcm", "e/other/2.dcm"]
    assert sorted(reasons(made)) == [
        ("/w/d/up", "LINK_LOOP"),
        ("/w/dangling", "NOT_FOUND"),
        ("/w/e/other/back", "LINK_LOOP"),
        ("/w/self", "LINK_LOOP"),
    ]


def test_links_that_multiply_directories_end():
    rows = [link(f"/d{level}/{side}", f"/d{level + 1}") for level in range(14) for side in "ab"]
    made = plan(Catalog(entry("/d14/1.dcm"), *rows), "/d0")
    assert len(made.files) <= MAX_LINKED_DIRECTORIES
    assert {failure.error.reason for failure in made.failures} == {"TOO_MANY_LINKS"}


def test_several_targets_keep_apart_what_one_directory_would_mix():
    catalog = Catalog(entry("/h/p1/s/1.dcm"), entry("/h/p2/s/1.dcm"), entry("/h/p2/t/1.dcm"), entry("/h/x.dcm"))
    assert paths(catalog, "/h/p1", "/h/p2") == ["p1/s/1.dcm", "p2/s/1.dcm", "p2/t/1.dcm"]
    assert paths(catalog, "/h/p1/s", "/h/p2/s", "/h/p2/t") == ["p1/s/1.dcm", "p2/s/1.dcm", "t/1.dcm"]
    assert paths(catalog, "/h/p1", "/h/x.dcm") == ["s/1.dcm", "x.dcm"]


def test_a_file_and_a_directory_of_one_name_do_not_meet():
    single = entry("/y/s")
    assert paths(Catalog(entry("/x/s/1.dcm"), single), "/x", "/y/s") == ["s/1.dcm", f"s~{single.guid}"]
    below = entry("/d/a/1.dcm")
    assert paths(Catalog(entry("/d/A"), below), "/d") == ["A", f"1~{below.guid}.dcm"]


def test_paths_differ_also_where_case_and_unicode_forms_do_not_count():
    lower, sharp = entry("/a/image.dcm"), entry("/a/STRASSE")
    found = paths(Catalog(entry("/a/IMAGE.dcm"), lower, sharp, entry("/a/straße")), "/a")
    assert found[:3] == ["IMAGE.dcm", "STRASSE", f"image~{lower.guid}.dcm"]
    assert len({folded(path) for path in found}) == 4
    assert folded("e\u0301") == folded("\u00c9")


def test_three_links_of_one_name_to_one_file_get_three_names():
    one = entry("/h/1.dcm")
    catalog = Catalog(one, *(link(f"/w{number}/t.dcm", "/h/1.dcm") for number in range(3)))
    assert paths(catalog, *(f"/w{number}/t.dcm" for number in range(3))) == ["t.dcm", f"t~{one.guid}.dcm", f"t~{one.guid}~2.dcm"]


def test_a_name_made_longer_by_the_guid_still_fits_a_file_system():
    name = "é" * 120 + ".dcm"
    _, second = paths(Catalog(entry(f"/a/{name}"), entry(f"/b/{name}")), f"/a/{name}", f"/b/{name}")
    assert len(second.encode()) <= 255
    assert second.endswith(".dcm")


@pytest.mark.parametrize("lfn", ["/etc/passwd", "/other/1.dcm", "/a/../../x", "/a/.."])
def test_a_listing_cannot_lead_out_of_the_directory_that_was_listed(lfn, monkeypatch):
    catalog = Catalog(entry("/a/1.dcm"))
    monkeypatch.setattr(catalog, "list_entries", lambda *_, **__: iter([entry(lfn)]))
    made = plan(catalog, "/a")
    assert made.files == []
    assert made.failures[0].error.reason in ("LFN_OUTSIDE", "LFN_MALFORMED")


@pytest.mark.parametrize("path", ["..", "a/../b", "/a", "a//b", "", "a/./b", "a\0b"])
def test_no_path_that_leaves_the_directory_is_local(path):
    with pytest.raises(Invalid, match="cannot be the name"):
        check_local(path, windows=False)


@pytest.mark.parametrize(
    "path", ["con", "a/NUL.dcm", "COM1", "lpt9.txt", "a:b", "..\\x", "c:\\x", "a.", "b ", "AUX .dcm", "x?", "COM\u00b9"]
)
def test_windows_own_names_are_not_local_there(path):
    check_local(path, windows=False)
    with pytest.raises(Invalid, match="cannot be the name"):
        check_local(path, windows=True)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/b/**/0001*.dcm", ["0001.dcm", "p/0001-a.dcm", "p/s/0001.dcm"]),
        ("/b/*/0001*.dcm", ["p/0001-a.dcm"]),
        ("/b/p/s/000[!2].dcm", ["0001.dcm"]),
        ("/b/p/s/000?.dcm", ["0001.dcm", "0002.dcm"]),
        ("/b/p*", ["p/0001-a.dcm", "p/s/0001.dcm", "p/s/0002.dcm"]),
        ("/b/**/s", ["p/s/0001.dcm", "p/s/0002.dcm"]),
        ("/b/p/**", ["0001-a.dcm", "s/0001.dcm", "s/0002.dcm"]),
        ("/**/0002.dcm", ["b/p/s/0002.dcm"]),
        ("/b/links/t*", ["t1.dcm", "tree/0001.dcm", "tree/0002.dcm"]),
    ],
)
def test_patterns_are_matched_in_the_catalog_and_keep_the_path_below_what_is_fixed(pattern, found):
    files = [entry(f"/b/{name}") for name in ("0001.dcm", "p/0001-a.dcm", "p/s/0001.dcm", "p/s/0002.dcm")]
    directories = [entry(lfn, DIRECTORY) for lfn in ("/b/p", "/b/p/s", "/b/links")]
    catalog = Catalog(*files, *directories, link("/b/links/t1.dcm", "/b/0001.dcm"), link("/b/links/tree", "/b/p/s"))
    assert [path for path in sorted(paths(catalog, pattern)) if not (path.startswith("links") and "links" not in pattern)] == found


def test_a_pattern_that_matches_nothing_says_so_and_one_that_is_a_name_is_the_name():
    catalog = Catalog(entry("/b/[1].dcm"), entry("/b/1.dcm"))
    assert reasons(plan(catalog, "/b/*.nii")) == [("/b/*.nii", "NO_MATCH")]
    assert reasons(plan(catalog, "/none/*.nii")) == [("/none/*.nii", "NOT_FOUND")]
    assert paths(catalog, "/b/[1].dcm") == ["[1].dcm"]
    assert reasons(make_plan(catalog, [], literal=[parse_name("/b/*.dcm")])) == [("/b/*.dcm", "NOT_FOUND")], "rows of a query are names"
    assert paths(catalog, "/b/[1]*.dcm") == ["1.dcm"]
    assert find_pattern("/b/1.dcm") is None


def test_many_wildcards_are_matched_in_reasonable_time():
    pattern = find_pattern("/" + "**/" * 40 + "x")
    assert pattern is not None
    assert not pattern.matches("/a" * 200)


def test_existing_files_stay_only_where_they_are_the_same(tmp_path):
    digest = sha256(b"12").digest()
    names = {
        "absent": {"size": 2},
        "same": {"size": 2},
        "digest": {"size": 2, "sha256": digest},
        "longer": {"size": 2},
        "other": {"size": 2, "sha256": digest},
        "unknown": {},
        "folder": {"size": 2},
    }
    made = plan(Catalog(*(entry(f"/a/{name}", **facts) for name, facts in names.items())), "/a")
    for name, content in {"same": b"xy", "digest": b"12", "longer": b"123", "other": b"xy", "unknown": b"?"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()

    def outcome(**flags: bool) -> tuple[list[str], list[str], dict[str, str]]:
        found = select(made.files, tmp_path, **flags)
        return [f.path for f in found.wanted], [f.path for f in found.kept], {f.path: e.reason for f, e in found.refused}

    differing = {"longer", "other", "folder"}
    wanted, kept, refused = outcome(skip_existing=True, force=False)
    assert (wanted, set(kept), set(refused)) == (["absent"], {"same", "digest", "unknown"}, differing)
    assert set(refused.values()) == {"LOCAL_FILE_DIFFERS"}
    assert set(outcome(skip_existing=True, force=True)[0]) == {"absent", *differing}
    assert outcome(skip_existing=False, force=False)[::2] == (
        ["absent"],
        dict.fromkeys(sorted(names.keys() - {"absent"}), "LOCAL_FILE_EXISTS"),
    )
    assert set(outcome(skip_existing=False, force=True)[0]) == names.keys()


def test_sizes_and_digests_of_single_files_are_asked_for_where_they_are_compared():
    one = entry("/a/1.dcm", size=7, sha256=b"s" * 32)
    catalog = Catalog(one)
    (file,) = plan(catalog, str(one.guid), with_digests=True).files
    assert (file.location.size, file.location.sha256) == (7, b"s" * 32)
