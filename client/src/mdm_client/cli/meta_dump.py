"""meta dump, and what meta load makes of a dump: collections, their entries, and the access lists that guard them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import click
from mdm.metadata.v1 import metadata_pb2 as pb

from mdm_client.cli.context import common_options, session
from mdm_client.cli.meta import facts_of
from mdm_client.cli.meta_entry import quoted_path
from mdm_client.cli.outcome import show_error
from mdm_client.cli.table import print_json
from mdm_client.client import Client
from mdm_client.collections import Attribute, Collection, Entry
from mdm_client.errors import ClientError, Conflict, Invalid, NotFound
from mdm_client.grants import AclView, give
from mdm_client.localfile import AtomicFile
from mdm_client.names import format_permissions, parse_permissions, parse_principal

#: 1 had no access lists, only their ids.
_VERSIONS = (1, 2)
#: The access list that configuration gives the root of every metadata service.
_ROOT_ACL_ID = "00000000-0000-4000-8000-000000000001"
_LOADING = UUID("b1f9a3c4-52d7-4a8e-9f60-2f0c7d6be1aa")
#: Path of the collection, line, entry.
Item = tuple[str, int, Entry]


@click.command()
@click.argument("path")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@click.option("--recursive", "-R", is_flag=True, help="What is below PATH too.")
@common_options
@click.pass_context
def dump(context: click.Context, path: str, output: Path | None, recursive: bool) -> None:
    """Write a collection, and the entries that you may read in it, as JSON lines that mdm meta load reads.

    Access lists go with them where you may see them (`g` or `p`). Views and links are described, for a person to make again.
    """
    run = session(context)
    client = run.client(context)
    chosen = list(client.collections.list_collections(path)) if recursive else [client.collections.describe(path)]
    writer = _Dump(client)
    lines = (line for item in chosen for line in writer.lines(item))
    if output is None:
        for line in lines:
            print_json(line)
    else:
        with AtomicFile(output) as file:
            for line in lines:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    if writer.unseen:
        show_error(
            f"{writer.unseen} access lists are left out, for you may not see them: the dump has their ids", "ACLS_LEFT_OUT", run.as_json
        )


class _Dump:
    """Lines of a dump; each access list stands before the first line that names it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: set[str] = set()
        self.unseen = 0

    def lines(self, item: Collection) -> Iterator[dict[str, Any]]:
        """Yield a collection with its entries."""
        yield from self._lists([item.acl_id, item.default_acl_id])
        yield {"mdm_dump": _VERSIONS[-1], "collection": facts_of(item)}
        if item.target:
            return
        names = [attribute.name for attribute in item.attributes]
        columns = ", ".join(["entry", "entry_acl", *(f'"{name}"' for name in names)])
        result = self._client.metadata.query(f"SELECT {columns} FROM {quoted_path(item.path)} ORDER BY entry")  # noqa: S608 - parsed again there
        for batch in result.batches():
            yield from self._lists([row[1] for row in batch])
            for key, acl_id, *values in batch:
                given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
                yield {"entry": key, "acl_id": acl_id, "values": given}

    def _lists(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        new = [acl_id for acl_id in dict.fromkeys(ids) if acl_id not in self._known]
        self._known.update(new)
        for outcome in self._client.metadata_acls.get(new) if new else ():
            if outcome.acl is None:
                self.unseen += 1
                continue
            entries = {principal: format_permissions(bits) for principal, bits in sorted(outcome.acl.entries.items())}
            yield {"acl": outcome.acl_id, "owner": outcome.acl.owner, "entries": entries}


class Restoration:
    """A dump on its way into collections: the first becomes `path`, those below it what is below `path`.

    With `create`, collections that are not there are made, and are the loader's alone until `finish`.
    """

    def __init__(self, client: Client, path: str, file: Path, *, create: bool, default_acl: bool) -> None:
        self._client = client
        self._path = path
        self._file = file
        self._create = create
        self._default_acl = default_acl
        self._root = self._here = ""
        self._lists: dict[str, str] = {}
        self._made: list[Collection] = []

    def items(self) -> Iterator[Item]:
        """Yield the entries of the file; make access lists and collections on the way.

        Raises:
            ClientError: DUMP_MALFORMED, or what the service answered.
        """
        with self._file.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, 1):
                line = _json_object(self._file, number, text)
                if isinstance(line.get("collection"), dict):
                    if line.get("mdm_dump") not in _VERSIONS:
                        raise self._malformed(number, "is of a dump that this version does not know")
                    self._begin(line["collection"], number)
                elif isinstance(line.get("acl"), str) and isinstance(line.get("entries"), dict):
                    self._restore_list(line)
                elif self._here and "entry" in line and isinstance(line.get("values"), dict):
                    yield self._here, number, Entry(str(line["entry"]), line["values"], self._list(str(line.get("acl_id", ""))))
                else:
                    raise self._malformed(number, "is neither a collection, nor an access list, nor an entry of a collection")

    def finish(self) -> None:
        """Give the collections that were made their references, checks and access lists, now that all entries are there.

        Raises:
            ClientError: what the service answered.
        """
        collections = self._client.collections
        for item in self._made:
            for attribute in item.attributes:
                if attribute.references:
                    collections.change_attribute(item.path, attribute.name, references=self._moved(attribute.references))
            for name, condition in item.checks.items():
                collections.alter(item.path, add_check=pb.Check(name=name, condition=condition))
        for item in [] if self._default_acl else self._made:
            collections.alter(item.path, acls=pb.CollectionAcls(acl_id=item.acl_id, default_acl_id=item.default_acl_id))

    def _malformed(self, number: int, problem: str) -> ClientError:
        return Invalid.because("DUMP_MALFORMED", f"{self._file}: line {number} {problem}")

    def _moved(self, path: str) -> str:
        """Return where a path of the dump is now; one beside what was dumped stays."""
        return self._path.rstrip("/") + path[len(self._root.rstrip("/")) :] if self._is_inside(path) else path

    def _is_inside(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root.rstrip("/") + "/")

    def _begin(self, facts: dict[str, Any], number: int) -> None:
        original = str(facts.get("path", ""))
        self._root = self._root or original
        if not original or not self._is_inside(original):
            raise self._malformed(number, "is a collection that is not below the first")
        self._here = self._moved(original)
        if self._create and not facts.get("target"):
            described = _described(self._here, facts)
            self._make(replace(described, acl_id=self._list(described.acl_id), default_acl_id=self._list(described.default_acl_id)))

    def _make(self, item: Collection) -> None:
        """Make a collection without what other entries must be there for, unless it is there already."""
        collections = self._client.collections
        plain = tuple(replace(attribute, references="") for attribute in item.attributes)
        own = "" if self._default_acl else self._own_list(item.path)
        try:
            there: Collection | None = collections.describe(item.path)
        except NotFound:
            there = None
        (error,) = collections.create([Collection(item.path, plain, own, own, item.sensitive, item.min_cell)])
        if error is not None and not isinstance(error, Conflict):
            raise error
        if there is None or (own and there.acl_id == own):  # or it was left by a load that did not end
            self._made.append(item)

    def _own_list(self, path: str) -> str:
        """Return the id of a list of the loader's alone, the same one when the load is repeated."""
        acls = self._client.metadata_acls
        try:
            return acls.create({}, str(uuid5(_LOADING, path.casefold())))
        except Conflict:  # another user's
            return acls.create({})

    def _list(self, acl_id: str) -> str:
        """Return the id, here, of an access list of the dump."""
        return "" if self._default_acl else self._lists.get(acl_id, acl_id)

    def _restore_list(self, line: dict[str, Any]) -> None:
        """Make an access list, unless there is one of this id: that is the same list, as it is today."""
        if self._default_acl:
            return
        acl_id, owner = line["acl"], str(line.get("owner", ""))
        entries = {parse_principal(principal): parse_permissions(str(letters)) for principal, letters in line["entries"].items()}
        acls = self._client.metadata_acls
        (present,) = acls.get([acl_id])
        if acl_id == _ROOT_ACL_ID and not _is_same(present.acl, owner, entries):  # every site has a list of this id
            self._lists[acl_id] = self._give(acls.create(entries), owner)
        elif present.acl is None:
            try:
                self._give(acls.create(entries, acl_id), owner)
            except Conflict:  # it is there, and the loader may not see it
                return

    def _give(self, acl_id: str, owner: str) -> str:
        """Make the dump's owner of a new list its owner here; return its id."""
        acls = self._client.metadata_acls
        (mine,) = acls.get([acl_id])
        if owner and mine.acl is not None and mine.acl.owner != owner:
            (given,) = acls.modify([acl_id], [give(f"dn:{owner}")])
            if given.error is not None:
                raise given.error
        return acl_id


def _is_same(acl: AclView | None, owner: str, entries: dict[str, int]) -> bool:
    return acl is not None and acl.owner == owner and acl.entries == entries


def _described(path: str, facts: dict[str, Any]) -> Collection:
    try:
        attributes = tuple(Attribute(**attribute) for attribute in facts["attributes"])
        acls = str(facts.get("acl_id", "")), str(facts.get("default_acl_id", ""))
        return Collection(
            path, attributes, *acls, bool(facts.get("sensitive")), int(facts.get("min_cell", 0)), dict(facts.get("checks", {}))
        )
    except (KeyError, TypeError, ValueError):
        raise Invalid.because("DUMP_MALFORMED", "the dump's collection is not described as mdm meta dump does it") from None


def _json_object(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Invalid.because("DUMP_MALFORMED", f"{file}: line {number} is not a JSON object; CSV files end in .csv, or take --csv")
    return value
