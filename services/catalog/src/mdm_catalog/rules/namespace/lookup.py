"""Finding the entries that targets name, following links, in a handful of queries however many targets there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from mdm_service.identity.caller import Caller
from mdm_wire import path
from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError, Unauthenticated
from mdm_wire.path import ROOT, Lfn, split
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, entry_of, file_of
from mdm_catalog.rules.model import ROOT_ID, Chain, EntryKind, EntryView, Node, Resolution, Target
from mdm_catalog.rules.port import ReadTransaction, Store, Subjects
from mdm_catalog.rules.value import MAX_LINKS

# The path after following all links that the caller may see, or the error if it cannot be followed.
Destination: TypeAlias = Lfn | MdmError


def follow_directories(
    reading: ReadTransaction, rights: Rights, directories: Collection[Lfn]
) -> tuple[dict[Lfn, Destination], dict[Lfn, Chain]]:
    """Return the destination of each directory's path, and the chains of the destinations. Paths without links need no more queries.

    A link is followed for those who may see it: `x` on every directory above, and `l` on the last of them or `g` on the link.
    For others the path ends at the link, as if it did not exist.
    """
    chains = reading.walk(directories)
    destinations: dict[Lfn, Destination] = {lfn: lfn for lfn in directories}
    unfinished = {lfn: lfn for lfn in directories if not chains[lfn].complete}
    for _ in range(MAX_LINKS):
        moved = _next(reading, rights, {lfn: chains[lfn] for lfn in unfinished.values()})
        unfinished = {asked: moved[lfn] for asked, lfn in unfinished.items() if lfn in moved}  # type: ignore[misc]  # errors go below
        destinations |= unfinished
        unfinished = {asked: destination for asked, destination in unfinished.items() if not isinstance(destination, MdmError)}
        chains |= reading.walk(set(unfinished.values()) - chains.keys())
        unfinished = {asked: lfn for asked, lfn in unfinished.items() if not chains[lfn].complete}
        if not unfinished:
            return destinations, chains
    moved = _next(reading, rights, {lfn: chains[lfn] for lfn in unfinished.values()})
    return destinations | dict.fromkeys((asked for asked, lfn in unfinished.items() if lfn in moved), too_many_links()), chains


def visible_link(rights: Rights, chain: Chain, node: Node | None) -> bool:
    """Return whether `node`, at the end of `chain`, is a link that the caller may see and thus follow."""
    return node is not None and node.kind == EntryKind.SYMLINK and rights.why_blocked(chain) is None and rights.sees_in(chain, node)


def link_destination(directory: Lfn, node: Node, below: tuple[str, ...] = ()) -> Destination:
    """Return the destination of a link in `directory`, followed by the names `below`."""
    try:
        return path.follow(directory, node.link or "/", below)
    except MdmError as error:
        return error


def too_many_links() -> FailedPrecondition:
    """Return the error for a path with too many links, most likely a loop."""
    return FailedPrecondition("LINK_LOOP", f"More than {MAX_LINKS} symbolic links on the path: they may form a loop.")


def _next(reading: ReadTransaction, rights: Rights, chains: Mapping[Lfn, Chain]) -> dict[Lfn, Destination]:
    """Return the destinations of the paths that stop at a link that the caller may see, one link further."""
    stops = {}
    for lfn, chain in chains.items():
        passed, rest = path.names(lfn)[: len(chain.acl_ids) - 1], path.names(lfn)[len(chain.acl_ids) - 1 :]
        directory = Lfn("/" + "/".join(passed)) if passed else ROOT
        stops[lfn] = (replace(chain, lfn=directory, complete=True), rest)
    nodes = reading.children({(chain.directory_id, rest[0]) for chain, rest in stops.values()})
    rights.load(node.acl_id for node in nodes.values() if node.kind == EntryKind.SYMLINK)
    destinations: dict[Lfn, Destination] = {}
    for lfn, (chain, rest) in stops.items():
        node = nodes.get((chain.directory_id, rest[0]))
        if node is not None and visible_link(rights, chain, node):
            destinations[lfn] = link_destination(chain.lfn, node, rest[1:])
    return destinations


def locate(reading: ReadTransaction, rights: Rights, targets: Sequence[Target], *, follow: bool = True) -> list[Location]:
    """Return the location of each target, in the order asked; directories shared by several are looked up once.

    Links on a path are followed; with `follow`, also one that a path ends at. Afterwards `rights` has the permissions for these targets.
    """
    named = _by_lfn(reading, rights, {target.lfn for target in targets if target.lfn is not None}, follow)
    guids = reading.by_guid({target.guid for target in targets if target.guid is not None})
    surls = reading.by_surl({target.surl for target in targets if target.surl is not None})
    parents = {node.parent_id for node in (*guids.values(), *surls.values()) if node.parent_id is not None}
    chains = reading.climb(parents)

    def place(target: Target) -> Location:
        if target.lfn is not None:
            found = named[target.lfn]
            return Location(target, None, None, found) if isinstance(found, MdmError) else Location(target, *found)
        node = guids.get(target.guid) if target.guid is not None else surls.get(target.surl or "")
        chain = chains.get(node.parent_id) if node is not None and node.parent_id is not None else None
        return Location(target, chain, node)

    locations = [place(target) for target in targets]
    rights.load_locations(locations)
    return locations


def stat(
    reading: ReadTransaction, caller: Caller, targets: Sequence[Target], *, with_replicas: bool, follow: bool = True
) -> list[EntryView | MdmError]:
    """Return the entries that the caller may see, in the order asked; a link itself unless `follow`."""
    rights = Rights(reading, caller)
    locations = locate(reading, rights, targets, follow=follow)
    seen = [entry_of(item, rights.why_hidden(item)) for item in locations]
    ids = {node.id for node in seen if isinstance(node, Node)}
    entries = reading.entries(ids)
    replicas = reading.replicas(ids) if with_replicas else {}
    return [
        EntryView(item.lfn, entries[node.id], rights.permissions_under(node.acl_id), replicas.get(node.id, ()))
        if isinstance(node, Node)
        else node
        for item, node in zip(locations, seen, strict=True)
    ]


def resolve(reading: ReadTransaction, caller: Caller, targets: Sequence[Target]) -> list[Resolution | MdmError]:
    """Return the available replicas of each file that the caller may read, in the order asked."""
    rights = Rights(reading, caller)
    locations = locate(reading, rights, targets)
    readable = [file_of(item, rights.why_refused(item, Permission.READ)) for item in locations]
    surls = reading.available({node.id for node in readable if isinstance(node, Node)})
    results: list[Resolution | MdmError] = []
    for item, node in zip(locations, readable, strict=True):
        if isinstance(node, MdmError):
            results.append(node)
        else:
            assert node.guid is not None
            results.append(Resolution(node.guid, item.lfn, surls.get(node.id, ()), node.size))
    return results


def subject_of(subjects: Subjects, subject: str) -> Caller:
    """Return the caller that a subject would be, by what the catalog itself knows of its groups.

    Raises:
        Invalid: the subject is not a DN. Forbidden: it is banned.
    """
    try:
        return subjects.caller_for(subject)
    except Unauthenticated as error:
        raise Forbidden(error.reason, error.message) from None


def check_access(
    store: Store, subjects: Subjects, subject: str, targets: Sequence[Target], needed: Permission
) -> Sequence[Node | MdmError]:
    """Return the files on which a subject has all permissions `needed`; its groups are those that the catalog knows.

    Raises:
        Invalid: the subject is not a DN, or no permission is asked for.
    """
    if not needed:
        raise Invalid("PERMISSIONS_MISSING", "permissions is empty: name the permissions to check.")
    try:
        caller = subject_of(subjects, subject)
    except Forbidden as error:
        return [error for _ in targets]

    def check(reading: ReadTransaction) -> list[Node | MdmError]:
        rights = Rights(reading, caller)
        return [file_of(item, rights.why_refused(item, needed)) for item in locate(reading, rights, targets)]

    return store.read(check)


def _by_lfn(
    reading: ReadTransaction, rights: Rights, lfns: Collection[Lfn], follow: bool
) -> dict[Lfn, tuple[Chain, Node | None] | MdmError]:
    found: dict[Lfn, tuple[Chain, Node | None] | MdmError] = {}
    at: dict[Lfn, Destination] = {lfn: lfn for lfn in lfns}
    for _ in range(MAX_LINKS + 1):
        step = _once(reading, rights, {destination for destination in at.values() if not isinstance(destination, MdmError)})
        found |= {asked: destination if isinstance(destination, MdmError) else step[destination] for asked, destination in at.items()}
        ends = {asked: found[asked] for asked in at}
        rights.load(end[1].acl_id for end in ends.values() if not isinstance(end, MdmError) and end[1] and end[1].kind == EntryKind.SYMLINK)
        at = {}
        for asked, end in ends.items():
            if follow and not isinstance(end, MdmError) and end[1] is not None and visible_link(rights, end[0], end[1]):
                at[asked] = link_destination(end[0].lfn, end[1])
        if not at:
            return found
    return found | dict.fromkeys(at, too_many_links())


def _once(reading: ReadTransaction, rights: Rights, lfns: Collection[Lfn]) -> dict[Lfn, tuple[Chain, Node | None] | MdmError]:
    """Return the entry at each path; links on the way are followed, the last name is not."""
    places = {lfn: split(lfn) for lfn in lfns}
    destinations, chains = follow_directories(reading, rights, {parent for parent, _ in places.values()})
    found: dict[Lfn, tuple[Chain, Node | None] | MdmError] = {}
    wanted: dict[Lfn, tuple[Chain, str]] = {}
    for lfn, (parent, name) in places.items():
        destination = destinations[parent]
        if isinstance(destination, MdmError):
            found[lfn] = destination
        elif lfn == ROOT:
            found[lfn] = (Chain(ROOT, ROOT_ID, chains[destination].default_acl_id, (), True), reading.root())
        else:
            wanted[lfn] = (chains[destination], name)
    nodes = reading.children({(chain.directory_id, name) for chain, name in wanted.values() if chain.complete})
    for lfn, (chain, name) in wanted.items():
        found[lfn] = (chain, nodes.get((chain.directory_id, name)) if chain.complete else None)
    return found
