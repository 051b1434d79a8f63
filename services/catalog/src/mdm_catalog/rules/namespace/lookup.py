"""Finding what targets name, in a handful of queries however many there are."""

from collections.abc import Collection, Sequence

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Forbidden, Invalid, MdmError, Unauthenticated
from mdm_wire.path import ROOT, Lfn, split
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, file_outcome_of, outcome_of
from mdm_catalog.rules.model import ROOT_ID, Chain, EntryKind, EntryView, Node, Resolution, Target
from mdm_catalog.rules.namespace.link import Lead, follow_directories, lead_of, too_many_links, visible_link
from mdm_catalog.rules.port import Reading, Store, Subjects
from mdm_catalog.rules.value import MAX_LINKS


def locate(reading: Reading, rights: Rights, targets: Sequence[Target], *, follow: bool = True) -> list[Location]:
    """Return where each target is, in the order asked; directories shared by several are looked up once.

    Links on a path are followed; with `follow`, also one that a path ends at. `rights` then know what decides about the targets.
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
    reading: Reading, caller: Caller, targets: Sequence[Target], *, with_replicas: bool, follow: bool = True
) -> list[EntryView | MdmError]:
    """Return the entries that the caller may see, in the order asked; a link itself unless `follow`."""
    rights = Rights(reading, caller)
    locations = locate(reading, rights, targets, follow=follow)
    seen = [outcome_of(item, rights.unseen(item)) for item in locations]
    ids = {node.id for node in seen if isinstance(node, Node)}
    entries = reading.entries(ids)
    replicas = reading.replicas(ids) if with_replicas else {}
    return [
        EntryView(item.lfn, entries[node.id], rights.under(node.acl_id), replicas.get(node.id, ())) if isinstance(node, Node) else node
        for item, node in zip(locations, seen, strict=True)
    ]


def resolve(reading: Reading, caller: Caller, targets: Sequence[Target]) -> list[Resolution | MdmError]:
    """Return where the files are that the caller may read, in the order asked."""
    rights = Rights(reading, caller)
    locations = locate(reading, rights, targets)
    readable = [file_outcome_of(item, rights.refusal(item, Permission.READ)) for item in locations]
    surls = reading.available({node.id for node in readable if isinstance(node, Node)})
    results: list[Resolution | MdmError] = []
    for item, node in zip(locations, readable, strict=True):
        if isinstance(node, MdmError):
            results.append(node)
        else:
            assert node.guid is not None
            results.append(Resolution(node.guid, item.lfn, surls.get(node.id, ()), node.size))
    return results


def check_access(
    store: Store, subjects: Subjects, subject: str, targets: Sequence[Target], needed: Permission
) -> Sequence[Node | MdmError]:
    """Return the files on which a subject holds all of `needed`, by what the catalog itself knows of its groups.

    Raises:
        Invalid: the subject is not a DN, or no permission is asked.
    """
    if not needed:
        raise Invalid("PERMISSIONS_MISSING", "permissions is empty: say what is to be checked.")
    try:
        caller = subjects.caller_for(subject)
    except Unauthenticated as error:
        return [Forbidden(error.reason, error.message) for _ in targets]

    def check(reading: Reading) -> list[Node | MdmError]:
        rights = Rights(reading, caller)
        return [file_outcome_of(item, rights.refusal(item, needed)) for item in locate(reading, rights, targets)]

    return store.read(check)


def _by_lfn(reading: Reading, rights: Rights, lfns: Collection[Lfn], follow: bool) -> dict[Lfn, tuple[Chain, Node | None] | MdmError]:
    found: dict[Lfn, tuple[Chain, Node | None] | MdmError] = {}
    at: dict[Lfn, Lead] = {lfn: lfn for lfn in lfns}
    for _ in range(MAX_LINKS + 1):
        step = _once(reading, rights, {lead for lead in at.values() if not isinstance(lead, MdmError)})
        found |= {asked: lead if isinstance(lead, MdmError) else step[lead] for asked, lead in at.items()}
        ends = {asked: found[asked] for asked in at}
        rights.load(end[1].acl_id for end in ends.values() if not isinstance(end, MdmError) and end[1] and end[1].kind == EntryKind.SYMLINK)
        at = {}
        for asked, end in ends.items():
            if follow and not isinstance(end, MdmError) and end[1] is not None and visible_link(rights, end[0], end[1]):
                at[asked] = lead_of(end[0].lfn, end[1])
        if not at:
            return found
    return found | dict.fromkeys(at, too_many_links())


def _once(reading: Reading, rights: Rights, lfns: Collection[Lfn]) -> dict[Lfn, tuple[Chain, Node | None] | MdmError]:
    """Return what stands at each path, links on the way followed and the last name not."""
    places = {lfn: split(lfn) for lfn in lfns}
    leads, chains = follow_directories(reading, rights, {parent for parent, _ in places.values()})
    found: dict[Lfn, tuple[Chain, Node | None] | MdmError] = {}
    wanted: dict[Lfn, tuple[Chain, str]] = {}
    for lfn, (parent, name) in places.items():
        lead = leads[parent]
        if isinstance(lead, MdmError):
            found[lfn] = lead
        elif lfn == ROOT:
            found[lfn] = (Chain(ROOT, ROOT_ID, chains[lead].default_acl_id, (), True), reading.root())
        else:
            wanted[lfn] = (chains[lead], name)
    nodes = reading.children({(chain.directory_id, name) for chain, name in wanted.values() if chain.complete})
    for lfn, (chain, name) in wanted.items():
        found[lfn] = (chain, nodes.get((chain.directory_id, name)) if chain.complete else None)
    return found
