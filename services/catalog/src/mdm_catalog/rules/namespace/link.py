"""Following symbolic links on paths."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeAlias

from mdm_wire import path
from mdm_wire.errors import FailedPrecondition, MdmError
from mdm_wire.path import ROOT, Lfn

from mdm_catalog.rules.access import Rights
from mdm_catalog.rules.model import Chain, EntryKind, Node
from mdm_catalog.rules.port import Reading
from mdm_catalog.rules.value import MAX_LINKS

# Where a path leads, all links followed that the caller may see, or why it leads nowhere.
Lead: TypeAlias = Lfn | MdmError


def follow_directories(reading: Reading, rights: Rights, directories: Collection[Lfn]) -> tuple[dict[Lfn, Lead], dict[Lfn, Chain]]:
    """Return where the paths of directories lead, and the chain of each such path; without links on them this costs nothing more.

    A link is followed for those who may see it: `x` on every directory above, and `l` on the last of them or `g` on the link.
    For others the path ends where the link stands, as if nothing was there.
    """
    chains = reading.walk(directories)
    leads: dict[Lfn, Lead] = {lfn: lfn for lfn in directories}
    unfinished = {lfn: lfn for lfn in directories if not chains[lfn].complete}
    for _ in range(MAX_LINKS):
        moved = _next(reading, rights, {lfn: chains[lfn] for lfn in unfinished.values()})
        unfinished = {asked: moved[lfn] for asked, lfn in unfinished.items() if lfn in moved}  # type: ignore[misc]  # errors go below
        leads |= unfinished
        unfinished = {asked: lead for asked, lead in unfinished.items() if not isinstance(lead, MdmError)}
        chains |= reading.walk(set(unfinished.values()) - chains.keys())
        unfinished = {asked: lfn for asked, lfn in unfinished.items() if not chains[lfn].complete}
        if not unfinished:
            return leads, chains
    moved = _next(reading, rights, {lfn: chains[lfn] for lfn in unfinished.values()})
    return leads | dict.fromkeys((asked for asked, lfn in unfinished.items() if lfn in moved), too_many_links()), chains


def visible_link(rights: Rights, chain: Chain, node: Node | None) -> bool:
    """Return whether `node`, at the end of `chain`, is a link that the caller may see and thus follow."""
    return node is not None and node.kind == EntryKind.SYMLINK and rights.obstacle(chain) is None and rights.sees_in(chain, node)


def lead_of(directory: Lfn, node: Node, below: tuple[str, ...] = ()) -> Lead:
    """Return where a link in `directory` leads, with the names after it."""
    try:
        return path.follow(directory, node.link or "/", below)
    except MdmError as error:
        return error


def too_many_links() -> FailedPrecondition:
    """Return the refusal for links that lead in a circle, or nearly so."""
    return FailedPrecondition("LINK_LOOP", f"The path leads through more than {MAX_LINKS} symbolic links: they may lead in a circle.")


def _next(reading: Reading, rights: Rights, chains: Mapping[Lfn, Chain]) -> dict[Lfn, Lead]:
    """Return where those paths lead that stop at a link which the caller may see."""
    stops = {}
    for lfn, chain in chains.items():
        passed, rest = path.names(lfn)[: len(chain.acl_ids) - 1], path.names(lfn)[len(chain.acl_ids) - 1 :]
        directory = Lfn("/" + "/".join(passed)) if passed else ROOT
        stops[lfn] = (replace(chain, lfn=directory, complete=True), rest)
    nodes = reading.children({(chain.directory_id, rest[0]) for chain, rest in stops.values()})
    rights.load(node.acl_id for node in nodes.values() if node.kind == EntryKind.SYMLINK)
    leads: dict[Lfn, Lead] = {}
    for lfn, (chain, rest) in stops.items():
        node = nodes.get((chain.directory_id, rest[0]))
        if node is not None and visible_link(rights, chain, node):
            leads[lfn] = lead_of(chain.lfn, node, rest[1:])
    return leads
