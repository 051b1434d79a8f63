"""Summing up directories."""

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.path import Lfn, join
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Rights, not_found
from mdm_catalog.rules.model import EntryKind, Target, Usage
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import Reading
from mdm_catalog.rules.value import MAX_SIZE


def sum_up(reading: Reading, caller: Caller, lfn: Lfn, depth: int) -> list[Usage]:
    """Return what is below a directory, and below each directory down to `depth` under it, in order of path.

    Only what the caller may list is counted.

    Raises:
        NotFound, Forbidden: the caller may not list the directory. Invalid: it is not a directory.
    """
    rights = Rights(reading, caller)
    [location] = locate(reading, rights, [Target(lfn=lfn)])
    refusal: MdmError | None = rights.unseen(location) or rights.refusal(location, Permission.LIST | Permission.TRAVERSE)
    if refusal is not None or location.node is None:
        raise refusal or not_found()
    if location.node.kind != EntryKind.DIRECTORY:
        raise Invalid("NOT_A_DIRECTORY", "Only a directory has a usage.")
    totals: dict[tuple[str, ...], list[int]] = {}
    for names, *own in reading.usage(caller, location.node.id, depth):
        for length in range(len(names) + 1):
            total = totals.setdefault(names[:length], [0] * len(own))
            for place, amount in enumerate(own):
                total[place] += amount
    return [_usage(lfn, names, *total) for names, total in sorted(totals.items(), key=lambda item: [name.encode() for name in item[0]])]


def _usage(top: Lfn, names: tuple[str, ...], files: int, directories: int, links: int, size: int, closed: int) -> Usage:
    lfn = top
    for name in names:
        lfn = join(lfn, name)
    return Usage(lfn, files, directories, links, min(size, MAX_SIZE), closed)
