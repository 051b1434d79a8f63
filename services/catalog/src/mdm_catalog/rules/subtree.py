"""Access control of a subtree: listing its ACLs, changing all of them, and reporting who has permissions."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from mdm_service.access.acl import Acl, AclEdit, AclUse
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.errors import Exhausted, FailedPrecondition, Forbidden, MdmError, NotFound, Unauthenticated
from mdm_wire.permission import AUTHENTICATED, Permission

from mdm_catalog.rules.access import Location, Rights, entry_of, not_found
from mdm_catalog.rules.model import AccessHolder, AccessReport, EntryKind, SubtreeAcl, SubtreeDirectory, Target
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import ReadTransaction, Subjects, WriteTransaction

# The most decisions of one report: subjects times directories.
_MOST_DECISIONS = 20_000_000
_OWNER = "owner"


def list_acls(reading: ReadTransaction, caller: Caller, target: Target) -> tuple[list[SubtreeAcl], int]:
    """Return the distinct ACLs of an entry and of what the caller may list below, and how many more there are.

    Returned are ACLs with `g` or `p`, as everywhere; counted are the others, or the directories that the caller may not list if
    these are more.

    Raises:
        NotFound, Forbidden: the caller may not see the entry.
    """
    rights = Rights(reading, caller)
    [location] = locate(reading, rights, [target])
    top = entry_of(location, rights.why_hidden(location))
    if isinstance(top, MdmError):
        raise top
    found, closed = reading.subtree_acls(caller, top.id)
    rights.load(acl.acl_id for acl in found)
    shown = [acl for acl in found if rights.permissions_under(acl.acl_id) & (Permission.GET | Permission.CHANGE_ACL)]
    return shown, max(len(found) - len(shown), closed)


def modify_acls(
    writing: WriteTransaction, caller: Caller, target: Target, edit: AclEdit
) -> tuple[list[tuple[SubtreeAcl, Acl | MdmError]], int]:
    """Apply changes to every ACL that `list_acls` shows and the caller may change; return each, or why it was not changed.

    Raises:
        NotFound, Forbidden: the caller may not see the entry. Invalid: a list would be too long, or an owner is no DN or can never
            call; nothing is done.
    """
    found, _ = list_acls(writing, caller, target)
    present = writing.lock_acls([item.acl_id for item in found])
    # Counted again: something outside may have been put under a list before it was locked.
    found, hidden = list_acls(writing, caller, target)
    results: list[tuple[SubtreeAcl, Acl | MdmError]] = []
    replaced: list[Acl] = []
    for item in (item for item in found if item.acl_id in present):
        try:
            after = edit.apply(present[item.acl_id], caller, AclUse(item.files + item.directories + item.links, item.outside))
        except (NotFound, Forbidden, FailedPrecondition) as error:
            results.append((item, error))
            continue
        if after is not present[item.acl_id]:
            after = Acl(after.id, after.owner, after.entries, after.rev + 1)
            replaced.append(after)
        results.append((item, after))
    writing.replace_acls(replaced)
    return results, hidden


def report_access(
    reading: ReadTransaction,
    caller: Caller,
    target: Target,
    needed: Permission,
    subjects: Subjects,
) -> AccessReport:
    """Return the subjects that have `needed` on the files at and below an entry and can reach them.

    Raises:
        NotFound, Forbidden: the caller is not an operator and does not have `p` on the entry. Exhausted: the subtree is too large.
    """
    rights = Rights(reading, caller)
    [location] = locate(reading, rights, [target])
    operator = caller.has_role(OPERATOR)
    refusal = None if operator and location.node is not None else rights.why_refused(location, Permission.CHANGE_ACL)
    if refusal is not None or location.node is None or location.chain is None:
        raise refusal or not_found()
    directories = _directories(reading, location)
    acl_ids = {*location.chain.acl_ids, location.node.acl_id, *(item.acl_id for item in directories)}
    counted = {acl_id for item in directories for acl_id in item.files}
    acls = reading.acls(acl_ids | counted)
    visible = (
        counted if operator else {item for item in counted if acls[item].permissions_of(caller) & (Permission.GET | Permission.CHANGE_ACL)}
    )
    callers = _named_callers(acls.values(), subjects)
    if len(callers) * len(directories) > _MOST_DECISIONS:
        raise Exhausted("REPORT_TOO_LARGE", "Too many subjects and directories for one report: ask for parts of the subtree.")
    holders = [_holder(subject, location.chain.acl_ids, directories, acls, visible, needed) for subject in callers]
    files = sum(count for item in directories for count in item.files.values())
    hidden = sum(count for item in directories for acl_id, count in item.files.items() if acl_id not in visible)
    return AccessReport(tuple(holder for holder in holders if holder.files), files, hidden)


def _directories(reading: ReadTransaction, location: Location) -> list[SubtreeDirectory]:
    """Return the directories at and below an entry; for a file, a directory that contains only this file."""
    assert location.node is not None and location.chain is not None
    if location.node.kind == EntryKind.DIRECTORY:
        return reading.subtree(location.node.id)
    files = {location.node.acl_id: 1} if location.node.kind == EntryKind.FILE else {}
    return [SubtreeDirectory(location.chain.directory_id, None, location.chain.acl_ids[-1], files)]


def _named_callers(acls: Iterable[Acl], subjects: Subjects) -> list[Caller]:
    """Return all subjects that the ACLs name, except banned ones, in order of name, and a caller that no ACL names."""
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
        names.update(subjects.members_of(group))
    found: list[Caller] = []
    for name in sorted(names):
        try:
            found.append(subjects.caller_for(name))
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
