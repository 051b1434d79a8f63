"""Finding what targets name, in a handful of queries however many there are."""

from collections.abc import Collection, Sequence

from mdm_wire.errors import MdmError
from mdm_wire.path import ROOT, Lfn, split

from mdm_catalog.rules.access import Located, Rights
from mdm_catalog.rules.link import Lead, follow_directories, lead_of, too_many_links, visible_link
from mdm_catalog.rules.model import ROOT_ID, Chain, EntryKind, Node, Target
from mdm_catalog.rules.port import Reading
from mdm_catalog.rules.value import MAX_LINKS


def locate(reading: Reading, rights: Rights, targets: Sequence[Target], *, follow: bool = True) -> list[Located]:
    """Return where each target is, in the order asked; directories shared by several are looked up once.

    Links on a path are followed; with `follow`, also one that a path ends at. `rights` then know what decides about the targets.
    """
    named = _by_lfn(reading, rights, {target.lfn for target in targets if target.lfn is not None}, follow)
    guids = reading.by_guid({target.guid for target in targets if target.guid is not None})
    surls = reading.by_surl({target.surl for target in targets if target.surl is not None})
    parents = {node.parent_id for node in (*guids.values(), *surls.values()) if node.parent_id is not None}
    chains = reading.climb(parents)

    def place(target: Target) -> Located:
        if target.lfn is not None:
            found = named[target.lfn]
            return Located(target, None, None, found) if isinstance(found, MdmError) else Located(target, *found)
        node = guids.get(target.guid) if target.guid is not None else surls.get(target.surl or "")
        chain = chains.get(node.parent_id) if node is not None and node.parent_id is not None else None
        return Located(target, chain, node)

    located = [place(target) for target in targets]
    rights.load_located(located)
    return located


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
