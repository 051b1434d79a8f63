"""Access control of a subtree as a whole: its lists, one change of all of them, and who may do what."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from mdm_service.access.acl import Acl
from mdm_service.access.change import AclChange, changed
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.errors import Exhausted, FailedPrecondition, Forbidden, MdmError, NotFound, Unauthenticated
from mdm_wire.permission import AUTHENTICATED, Permission

from mdm_catalog.rules.access import Located, Rights, not_found, outcome_of
from mdm_catalog.rules.lookup import locate
from mdm_catalog.rules.model import AccessHolder, AccessReport, EntryKind, SubtreeAcl, SubtreeDirectory, Target
from mdm_catalog.rules.port import Reading, Writing

# What a report may look at: subjects times directories.
_MOST_DECISIONS = 20_000_000
_OWNER = "owner"


def list_acls(reading: Reading, caller: Caller, target: Target) -> tuple[list[SubtreeAcl], int]:
    """Return the distinct ACLs of an entry and of what the caller may list below, and how much it was not shown.

    Shown are ACLs with `g`; counted are the others, or the directories that the caller may not look into if these are more.

    Raises:
        NotFound, Forbidden: the caller may not see the entry.
    """
    rights = Rights(reading, caller)
    [located] = locate(reading, rights, [target])
    top = outcome_of(located, rights.unseen(located))
    if isinstance(top, MdmError):
        raise top
    found, closed = reading.subtree_acls(caller, top.id)
    rights.load(acl.acl_id for acl in found)
    shown = [acl for acl in found if rights.under(acl.acl_id) & Permission.GET]
    return shown, max(len(found) - len(shown), closed)


def modify_acls(
    writing: Writing, caller: Caller, target: Target, changes: Sequence[AclChange], *, include_shared: bool
) -> tuple[list[tuple[SubtreeAcl, Acl | MdmError]], int]:
    """Apply changes to every ACL that `list_acls` shows and the caller may change; return each, or why it stays as it is.

    Raises:
        NotFound, Forbidden: the caller may not see the entry. Invalid: a list would be too long, or an owner is no DN; nothing is done.
    """
    found, hidden = list_acls(writing, caller, target)
    present = writing.lock_acls([item.acl_id for item in found])
    results: list[tuple[SubtreeAcl, Acl | MdmError]] = []
    replaced: list[Acl] = []
    for item in found:
        if item.shared_outside and not include_shared:
            results.append((item, _shared()))
            continue
        try:
            after = changed(present.get(item.acl_id), caller, changes)
        except (NotFound, Forbidden) as error:
            results.append((item, error))
            continue
        if after is not present[item.acl_id]:
            after = Acl(after.id, after.owner, after.entries, after.rev + 1)
            replaced.append(after)
        results.append((item, after))
    writing.replace_acls(replaced)
    return results, hidden


def report_access(
    reading: Reading,
    caller: Caller,
    target: Target,
    needed: Permission,
    caller_for: Callable[[str], Caller],
    members_of: Callable[[str], Iterable[str]],
) -> AccessReport:
    """Return who holds `needed` on the files at and below an entry and can get there.

    Raises:
        NotFound, Forbidden: the caller is no operator and does not hold `p` on the entry. Exhausted: the subtree is too large.
    """
    rights = Rights(reading, caller)
    [located] = locate(reading, rights, [target])
    operator = caller.has_role(OPERATOR)
    refusal = None if operator and located.node is not None else rights.refusal(located, Permission.CHANGE_ACL)
    if refusal is not None or located.node is None or located.chain is None:
        raise refusal or not_found()
    directories = _directories(reading, located)
    acl_ids = {*located.chain.acl_ids, located.node.acl_id, *(item.acl_id for item in directories)}
    counted = {acl_id for item in directories for acl_id in item.files}
    acls = reading.acls(acl_ids | counted)
    visible = (
        counted if operator else {item for item in counted if acls[item].permissions_of(caller) & (Permission.GET | Permission.CHANGE_ACL)}
    )
    subjects = _subjects(acls.values(), caller_for, members_of)
    if len(subjects) * len(directories) > _MOST_DECISIONS:
        raise Exhausted("REPORT_TOO_LARGE", "Too many people and directories for one report: ask for parts of the subtree.")
    holders = [_holder(subject, located.chain.acl_ids, directories, acls, visible, needed) for subject in subjects]
    files = sum(count for item in directories for count in item.files.values())
    hidden = sum(count for item in directories for acl_id, count in item.files.items() if acl_id not in visible)
    return AccessReport(tuple(holder for holder in holders if holder.files), files, hidden)


def _directories(reading: Reading, located: Located) -> list[SubtreeDirectory]:
    """Return the directories at and below an entry; for a file one that stands for its own, with nothing else in it."""
    assert located.node is not None and located.chain is not None
    if located.node.kind == EntryKind.DIRECTORY:
        return reading.subtree(located.node.id)
    files = {located.node.acl_id: 1} if located.node.kind == EntryKind.FILE else {}
    return [SubtreeDirectory(located.chain.directory_id, None, located.chain.acl_ids[-1], files)]


def _subjects(acls: Iterable[Acl], caller_for: Callable[[str], Caller], members_of: Callable[[str], Iterable[str]]) -> list[Caller]:
    """Return everyone whom the ACLs name, banned ones left out, and a stranger; in order of name."""
    names: set[str] = set()
    groups: set[str] = set()
    for acl in acls:
        names.add(acl.owner)
        for entry in acl.entries:
            kind, _, value = entry.principal.partition(":")
            if kind == "dn":
                names.add(value)
            elif kind == "group":
                groups.add(value)
    for group in groups:
        names.update(members_of(group))
    found: list[Caller] = []
    for name in sorted(names):
        try:
            found.append(caller_for(name))
        except Unauthenticated:
            continue
    return [*found, Caller("")]


def _holder(
    subject: Caller,
    above: Sequence[UUID],
    directories: Sequence[SubtreeDirectory],
    acls: Mapping[UUID, Acl],
    visible: set[UUID],
    needed: Permission,
) -> AccessHolder:
    held = {acl_id: acl.permissions_of(subject) for acl_id, acl in acls.items()}
    name = subject.dn or AUTHENTICATED
    if not all(held[acl_id] & Permission.TRAVERSE for acl_id in above):
        return AccessHolder(name, 0, ())
    reached: set[int] = set()
    files = 0
    by: set[str] = set()
    top = directories[0].id
    for item in directories:
        if (item.id == top or item.parent_id in reached) and held[item.acl_id] & Permission.TRAVERSE:
            reached.add(item.id)
            for acl_id, count in item.files.items():
                if acl_id in visible and held[acl_id] & needed == needed:
                    files += count
                    by |= _by(acls[acl_id], subject, needed)
    return AccessHolder(name, files, tuple(sorted(by)))


def _by(acl: Acl, subject: Caller, needed: Permission) -> set[str]:
    if acl.owner == subject.dn:
        return {_OWNER}
    return {entry.principal for entry in acl.entries if entry.principal in subject.principals and entry.permissions & needed}


def _shared() -> MdmError:
    return FailedPrecondition("ACL_SHARED", "This list guards something outside too and was left as it is.")
