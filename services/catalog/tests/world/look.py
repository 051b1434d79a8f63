"""Listing, searching and summing up."""

from collections.abc import Iterator

from mdm_catalog.rules.model import EntryKind, Target
from mdm_catalog.rules.value import Condition
from mdm_service.identity.caller import Caller
from mdm_wire.path import Lfn, names
from mdm_wire.permission import Permission

from services.catalog.tests.world.access import ABSENT, Path, World

_OPEN = Permission.LIST | Permission.TRAVERSE


def listing(world: World, who: Caller, lfn: Lfn, depth: int = 1) -> list[tuple[Path, Path]] | str:
    """Return, below a path, every path as it is shown and where it is, down to `depth` (0: everywhere); or why not.

    Below a link to a directory paths begin with the link's. A link that leads nowhere for this caller lists itself.
    """
    shown = names(lfn)
    top = world.find(who, Target(lfn=lfn))
    reason = world.may_see(who, top)
    if reason == ABSENT:
        link = world.find(who, Target(lfn=lfn), follow=False)
        if world.may_see(who, link):
            return reason
        top = link
    elif reason:
        return reason
    if not world.things[top].directory:
        return [(shown, top)]
    if reason := world.may(who, top, Permission.LIST):
        return reason
    return list(_walk(world, who, shown, top, depth or -1))


def _walk(world: World, who: Caller, shown: Path, top: Path, depth: int) -> Iterator[tuple[Path, Path]]:
    for path in world.children(top):
        below = (*shown, path[-1])
        yield below, path
        open_ = world.holds(who, top, Permission.TRAVERSE) and world.holds(who, path, Permission.LIST)
        if depth != 1 and world.things[path].directory and open_:
            yield from _walk(world, who, below, path, depth - 1)


def found(world: World, who: Caller, lfn: Lfn, condition: Condition, depth: int) -> list[Path] | str:
    """Return the paths of what meets a condition on names that begin as it says, kinds and sizes."""
    everything = listing(world, who, lfn, depth)
    return everything if isinstance(everything, str) else [shown for shown, path in everything if _meets(world, path, condition)]


def _meets(world: World, path: Path, condition: Condition) -> bool:
    thing = world.things[path]
    name = path[-1] if path else ""
    beginning = condition.name.rstrip("*")
    if condition.name and not (name.startswith(beginning) if condition.name.endswith("*") else name == beginning):
        return False
    if condition.kinds and thing.kind not in condition.kinds:
        return False
    return condition.min_size is None or (thing.size is not None and thing.size >= condition.min_size)


def usage(world: World, who: Caller, lfn: Lfn) -> list[int] | str:
    """Return files, directories, links, bytes, and directories that are closed to the caller, below a directory; or why not."""
    top = world.find(who, Target(lfn=lfn))
    reason = world.may_see(who, top) or world.may(who, top, _OPEN)
    if reason:
        return reason
    return _sum(world, who, top) if world.things[top].directory else "NOT_A_DIRECTORY"


def _sum(world: World, who: Caller, top: Path) -> list[int]:
    sums = [0, 0, 0, 0, 0]
    for path in world.children(top):
        thing = world.things[path]
        sums[{EntryKind.FILE: 0, EntryKind.DIRECTORY: 1, EntryKind.SYMLINK: 2}[thing.kind]] += 1
        sums[3] += thing.size or 0
        if thing.directory and world.holds(who, path, _OPEN):
            sums = [one + more for one, more in zip(sums, _sum(world, who, path), strict=True)]
        elif thing.directory:
            sums[4] += 1
    return sums
