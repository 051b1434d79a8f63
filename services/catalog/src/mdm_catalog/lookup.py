"""Finding what targets name, in a handful of queries however many there are."""

from collections.abc import Sequence

from mdm_catalog.access import Located
from mdm_catalog.model import ROOT_ID, Chain, Node, Target
from mdm_catalog.path import ROOT, Lfn, split
from mdm_catalog.port import Reading


def locate(reading: Reading, targets: Sequence[Target]) -> list[Located]:
    """Return where each target is, in the order asked; directories shared by several are looked up once."""
    named = _by_lfn(reading, [target.lfn for target in targets if target.lfn is not None])
    guids = reading.by_guid({target.guid for target in targets if target.guid is not None})
    surls = reading.by_surl({target.surl for target in targets if target.surl is not None})
    parents = {node.parent_id for node in (*guids.values(), *surls.values()) if node.parent_id is not None}
    chains = reading.climb(parents)

    def place(target: Target) -> Located:
        if target.lfn is not None:
            return Located(target, *named[target.lfn])
        node = guids.get(target.guid) if target.guid is not None else surls.get(target.surl or "")
        chain = chains.get(node.parent_id) if node is not None and node.parent_id is not None else None
        return Located(target, chain, node)

    return [place(target) for target in targets]


def _by_lfn(reading: Reading, lfns: Sequence[Lfn]) -> dict[Lfn, tuple[Chain, Node | None]]:
    places = {lfn: split(lfn) for lfn in lfns}
    chains = reading.walk({parent for parent, _ in places.values()})
    nodes = reading.children(
        {(chains[parent].directory_id, name) for lfn, (parent, name) in places.items() if lfn != ROOT and chains[parent].complete}
    )
    found: dict[Lfn, tuple[Chain, Node | None]] = {}
    for lfn, (parent, name) in places.items():
        chain = chains[parent]
        if lfn == ROOT:
            found[lfn] = (Chain(ROOT, ROOT_ID, chain.default_acl_id, (), True), reading.root())
        else:
            found[lfn] = (chain, nodes.get((chain.directory_id, name)) if chain.complete else None)
    return found
