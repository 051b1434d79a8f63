"""Restoration of a dump: access lists, collections with their entries and sequences, views and links."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound

from mdm_client.acl import AclView, give
from mdm_client.cli.error import about
from mdm_client.cli.metadata.dump import PlacedSequence, malformed, read_records
from mdm_client.cli.metadata.entry import quoted_path
from mdm_client.client import Client
from mdm_client.metadata.client import Entry
from mdm_client.metadata.collections import Collection

#: The access list that configuration gives the root of every metadata service.
_ROOT_ACL_ID = "00000000-0000-4000-8000-000000000001"
_LOADING = UUID("b1f9a3c4-52d7-4a8e-9f60-2f0c7d6be1aa")
#: Path of the collection, line, entry.
Item = tuple[str, int, Entry]
#: The path that an error is about.
Failure = tuple[str, MdmError]


class Restoration:
    """The restoration of a dump: its first collection becomes `path`, those below it come below `path`.

    With `create`, missing collections are made; until `finish` nobody but the loader has rights on them.
    """

    def __init__(self, client: Client, path: str, file: Path, *, create: bool, default_acl: bool) -> None:
        self._client = client
        self._path = path
        self._file = file
        self._create = create
        self._lists = DumpedLists(client, as_default=default_acl)
        self._default_acl = default_acl
        self._root = self._here = ""
        self._made: list[Collection] = []
        self._views: list[Collection] = []
        self._defined: list[Collection] = []
        self._sequences: list[PlacedSequence] = []

    def items(self) -> Iterator[Item]:
        """Yield the entries of the file; make access lists and collections meanwhile.

        Raises:
            MdmError: DUMP_MALFORMED, or what the service answered.
        """
        for number, record in read_records(self._file):
            with about(f"{self._file}: line {number}"):
                match record:
                    case Collection():
                        self._begin(record, number)
                    case AclView():
                        self._lists.restore(record)
                    case PlacedSequence():
                        self._note(record, number)
            if isinstance(record, Entry):
                if not self._here:
                    raise malformed(self._file, number, "is an entry, and no collection is before it")
                yield self._here, number, replace(record, acl_id=self._lists.here(record.acl_id))

    def finish(self) -> list[Failure]:
        """Make the objects that need all entries; return the errors of views, links and sequences that were not made, by path.

        New collections get their references and checks; then sequences, views and links are made; last, collections get their access lists.
        """
        collections = self._client.metadata.collections
        for item in self._made:
            for attribute in item.attributes:
                if attribute.references:
                    collections.change_attribute(item.path, attribute.name, references=self._moved(attribute.references))
            for name, condition in item.checks.items():
                collections.alter(item.path, add_check=pb.Check(name=name, condition=condition))
        failures = [*self._resume_sequences(), *self._make_views()]
        for item in [] if self._default_acl else self._made:
            collections.alter(item.path, acls=pb.CollectionAcls(acl_id=item.acl_id, default_acl_id=item.default_acl_id))
        return [*failures, *self._without_rights()]

    def _moved(self, path: str) -> str:
        """Return the new path for a path of the dump; one outside the dump is not changed."""
        return self._path.rstrip("/") + path[len(self._root.rstrip("/")) :] if self._is_inside(path) else path

    def _is_inside(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root.rstrip("/") + "/")

    def _begin(self, item: Collection, number: int) -> None:
        self._root = self._root or item.path
        if not item.path or not self._is_inside(item.path):
            raise malformed(self._file, number, "is a collection that is not below the first")
        acls = self._lists.here(item.acl_id), self._lists.here(item.default_acl_id)
        moved = replace(item, path=self._moved(item.path), acl_id=acls[0], default_acl_id=acls[1])
        self._here = "" if item.target else moved.path
        if self._create and item.target:
            self._views.append(replace(moved, target=self._moved(item.target)))
        elif self._create:
            self._make(moved)

    def _note(self, sequence: PlacedSequence, number: int) -> None:
        if not self._root or not self._is_inside(sequence.path):
            raise malformed(self._file, number, "is a sequence of a collection that is not in the dump")
        if self._create:
            self._sequences.append(replace(sequence, path=self._moved(sequence.path)))

    def _make(self, item: Collection) -> None:
        """Make a collection, unless it exists; references and checks come later."""
        collections = self._client.metadata.collections
        plain = tuple(replace(attribute, references="") for attribute in item.attributes)
        own = "" if self._default_acl else self._lists.own(item.path)
        there = self._described(item.path)
        (error,) = collections.create([Collection(item.path, plain, own, own, item.sensitive, item.min_cell)])
        if error is not None and not isinstance(error, Conflict):
            raise error.at(item.path)
        if there is None or (own and there.acl_id == own):  # or it remains of a load that did not end
            self._made.append(item)

    def _resume_sequences(self) -> Iterator[Failure]:
        """Continue sequences at their number in the dump, or at the present one if that is further."""
        for path, state in ((sequence.path, sequence.state) for sequence in self._sequences):
            try:
                self._client.metadata.sequences.resume(path, state.name, state.next or 0, state.step or 0)
            except MdmError as error:
                yield path, error.at(f"{path}: sequence {state.name}")

    def _make_views(self) -> Iterator[Failure]:
        for view in self._views:
            try:
                self._make_view(view)
            except MdmError as error:
                yield view.path, error.at(f"{view.path}, which shows {view.target}")

    def _make_view(self, view: Collection) -> None:
        """Make a view or link, unless an equal one exists, whoever its definer is."""
        is_link = not view.definer
        there = self._described(view.path)
        if there is None or not _shows_the_same(there, view):
            self._client.metadata.collections.create_view(
                view.path, view.target, view.shown, view.condition, with_key=view.has_key, is_link=is_link, acl_id=view.acl_id
            )
            self._defined += [] if is_link else [view]

    def _without_rights(self) -> Iterator[Failure]:
        """Yield the new views that show nothing, because the loader, their definer, may not read the target under its access list."""
        for view in self._defined:
            try:
                list(self._client.metadata.query(f"SELECT entry FROM {quoted_path(view.target)} WHERE FALSE"))  # noqa: S608 - parsed again there
            except (NotFound, Forbidden, Invalid, FailedPrecondition):
                problem = f"{view.path} shows nothing: it shows what you may read in {view.target}, and you lack `r` there"
                yield view.path, Forbidden("VIEW_SHOWS_NOTHING", problem)

    def _described(self, path: str) -> Collection | None:
        try:
            return self._client.metadata.collections.describe(path)
        except NotFound:
            return None


class DumpedLists:
    """The access lists of a dump, and those that stand for them here; with `as_default` none is made, and the default list guards all."""

    def __init__(self, client: Client, *, as_default: bool) -> None:
        self._acls = client.metadata.acls
        self._as_default = as_default
        self._moved: dict[str, str] = {}

    def here(self, acl_id: str) -> str:
        """Return the id of the list that stands for one of the dump."""
        return "" if self._as_default else self._moved.get(acl_id, acl_id)

    def own(self, path: str) -> str:
        """Return the id of a list that gives nobody but the loader rights; the same one when the load is repeated."""
        try:
            return self._acls.create({}, str(uuid5(_LOADING, path.casefold())))
        except Conflict:  # another user's
            return self._acls.create({})

    def restore(self, wanted: AclView) -> None:
        """Make an access list, unless there is one of this id, which counts as the same list."""
        if self._as_default:
            return
        (present,) = self._acls.get([wanted.id])
        if wanted.id == _ROOT_ACL_ID and not _is_same(present.acl, wanted):  # every site has a list of this id
            self._moved[wanted.id] = self._give(self._acls.create(wanted.entries), wanted.owner)
        elif present.acl is None:
            try:
                self._give(self._acls.create(wanted.entries, wanted.id), wanted.owner)
            except Conflict:  # it exists, and the loader may not see it
                return

    def _give(self, acl_id: str, owner: str) -> str:
        """Give a new list the owner that it has in the dump; return its id."""
        (mine,) = self._acls.get([acl_id])
        if owner and mine.acl is not None and mine.acl.owner != owner:
            (given,) = self._acls.modify([acl_id], [give(f"dn:{owner}")])
            if given.error is not None:
                raise given.error
        return acl_id


def _is_same(acl: AclView | None, wanted: AclView) -> bool:
    return acl is not None and acl.owner == wanted.owner and acl.entries == wanted.entries


def _shows_the_same(there: Collection, view: Collection) -> bool:
    here = (there.target.casefold(), bool(there.definer), there.condition, there.has_key, dict(there.shown))
    return here == (view.target.casefold(), bool(view.definer), view.condition, view.has_key, dict(view.shown))
