"""Access lists of subtrees, and who may do what in them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mdm_catalog.rules.model import EntryKind, Target
from mdm_service.access.acl import AclChange, Action
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.permission import Permission

from services.catalog.tests.world.access import OK, Path, World

_OPEN = Permission.LIST | Permission.TRAVERSE


@dataclass
class Uses:
    """How often a list is used in a subtree, and how often outside."""

    files: int = 0
    directories: int = 0
    links: int = 0
    outside: int = 0


def lists(world: World, who: Caller, target: Target) -> tuple[dict[UUID, Uses], int] | str:
    """Return the lists of a subtree that the caller is shown, and how much it is not; or why not."""
    top = world.find(who, target)
    if reason := world.may_see(who, top):
        return reason
    opened = _opened(world, who, top)
    inside = [top, *(child for path in opened for child in world.children(path))]
    found: dict[UUID, Uses] = {}
    for path in inside:
        thing = world.things[path]
        uses = found.setdefault(thing.acl, Uses())
        uses.files += thing.kind is EntryKind.FILE
        uses.directories += thing.directory
        uses.links += thing.kind is EntryKind.SYMLINK
        if thing.default not in (None, thing.acl):
            found.setdefault(thing.default, Uses()).directories += 1
    everywhere = Counter(acl for thing in world.things.values() for acl in {thing.acl, thing.default} - {None})
    for acl, uses in found.items():
        uses.outside = everywhere[acl] - uses.files - uses.directories - uses.links
    shown = {acl: uses for acl, uses in found.items() if world.held(who, acl) & (Permission.GET | Permission.CHANGE_ACL)}
    closed = sum(world.things[path].directory for path in inside) - len(opened)
    return shown, max(len(found) - len(shown), closed)


def _opened(world: World, who: Caller, top: Path) -> list[Path]:
    if not world.things[top].directory or not world.holds(who, top, _OPEN):
        return []
    return [top, *(path for child in world.children(top) for path in _opened(world, who, child))]


def modify(world: World, who: Caller, target: Target, changes: Sequence[AclChange], *, shared: bool) -> dict[UUID, str] | str:
    """Change the lists of a subtree; return why each stays as it is."""
    found = lists(world, who, target)
    if isinstance(found, str):
        return found
    reasons: dict[UUID, str] = {}
    for acl, uses in sorted(found[0].items()):
        reasons[acl] = _modify(world, who, acl, changes, others=0 if shared else uses.outside)
    return reasons


def _modify(world: World, who: Caller, acl: UUID, changes: Sequence[AclChange], others: int) -> str:
    if not world.held(who, acl) & Permission.CHANGE_ACL:
        return "ACL_CHANGE_FORBIDDEN"
    if others:
        return "ACL_SHARED"
    present = world.acls[acl]
    owner, entries = present.owner, dict(present.entries)
    for change in changes:
        principal, given = change.entry.principal, change.entry.permissions
        before = entries.get(principal, Permission.NONE)
        if change.action is Action.SET_OWNER:
            owner = principal.removeprefix("dn:")
        else:
            entries[principal] = {Action.GRANT: before | given, Action.REVOKE: before & ~given, Action.SET: given}[change.action]
    entries = {principal: bits for principal, bits in entries.items() if bits}
    if owner != present.owner and who.dn != present.owner:
        return "ACL_OWNER_FORBIDDEN"
    if who.dn != owner and not any(bits & Permission.CHANGE_ACL for principal, bits in entries.items() if principal in who.principals):
        return "ACL_CONTROL_LOST"
    if (owner, entries) != (present.owner, present.entries):
        present.owner, present.entries, present.rev = owner, entries, present.rev + 1
    return OK


@dataclass
class Report:
    """Who holds something: files and the entries by which, per subject."""

    files: int = 0
    hidden: int = 0
    holders: dict[str, tuple[int, set[str]]] = field(default_factory=dict)


def report(world: World, who: Caller, target: Target, needed: Permission, people: Sequence[Caller], named: Callable) -> Report | str:
    """Tell who of `people` holds `needed` on the files at and below something, as far as `named` in its lists; or why not."""
    top = world.find(who, target)
    operator = who.has_role(OPERATOR)
    if operator and target.lfn is None:
        top = world.by_number(target) or top
    there = not isinstance(top, str) and top in world.things
    reason = OK if operator and there else world.may(who, top, Permission.CHANGE_ACL)
    if reason:
        return reason
    files = [path for path in [top, *world.below(top)] if world.things[path].kind is EntryKind.FILE]
    on_view = Permission.GET | Permission.CHANGE_ACL
    shown = [path for path in files if operator or world.held(who, world.things[path].acl) & on_view]
    looked_at = {path for file in files for path in (file, *_above(file))} | {top, *_above(top)}
    looked_at |= {path for path in world.below(top) if world.things[path].directory}
    subjects = named({world.things[path].acl for path in looked_at})
    answer = Report(len(files), len(files) - len(shown))
    for subject in [*(person for person in people if person.dn in subjects - world.banned), Caller("")]:
        reached = [path for path in shown if not world.way(subject, path) and world.holds(subject, path, needed)]
        by = {principal for path in reached for principal in _by(world, subject, world.things[path].acl, needed)}
        if reached:
            answer.holders[subject.dn or "authenticated"] = (len(reached), by)
    return answer


def _above(path: Path) -> list[Path]:
    return [path[:depth] for depth in range(len(path))]


def _by(world: World, subject: Caller, acl: UUID, needed: Permission) -> set[str]:
    if world.acls[acl].owner == subject.dn:
        return {"owner"}
    entries = world.acls[acl].entries.items()
    return {principal for principal, bits in entries if principal in subject.principals and bits & needed}
