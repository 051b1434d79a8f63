"""Access control lists in PostgreSQL, the same in every service, and the port by which a service counts their uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import psycopg
from mdm_wire.errors import Invalid
from mdm_wire.permission import Permission

from mdm_service.access.acl import MAX_ENTRIES, Acl, AclEntry, AclUse


@dataclass(frozen=True)
class AclScope:
    """The objects that changes of ACLs are meant for: those with these keys, or all of the collection `path`.

    With a path, keys are those of entries in that collection. An empty scope means any one object.
    """

    keys: tuple[str, ...] = ()
    path: str = ""


class AclUses(Protocol):
    """Counts what refers to ACLs in one service's tables."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return the use of an ACL. Objects of the scope that do not exist count for nothing."""


def insert(connection: psycopg.Connection, acl: Acl) -> bool:
    """Store a new ACL; return False, changing nothing, when the id is taken."""
    row = connection.execute(
        "INSERT INTO acl (id, owner) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING RETURNING id", (acl.id, acl.owner)
    ).fetchone()
    if row is not None:
        _insert_entries(connection, acl)
    return row is not None


def load(connection: psycopg.Connection, ids: Sequence[UUID], *, lock: bool = False) -> dict[UUID, Acl]:
    """Return the ACLs that exist among `ids`; `lock` keeps them from changing until the transaction ends."""
    if lock:
        connection.execute("SELECT FROM acl WHERE id = ANY (%s) ORDER BY id FOR UPDATE", (list(ids),))
    owners = connection.execute("SELECT id, owner, rev FROM acl WHERE id = ANY (%s)", (list(ids),)).fetchall()
    entries: dict[UUID, list[AclEntry]] = {}
    rows = connection.execute(
        "SELECT acl_id, principal, permissions FROM acl_entry WHERE acl_id = ANY (%s) ORDER BY principal", (list(ids),)
    )
    for acl_id, principal, permissions in rows:
        entries.setdefault(acl_id, []).append(AclEntry(principal, Permission(permissions)))
    return {acl_id: Acl(acl_id, owner, tuple(entries.get(acl_id, ())), rev) for acl_id, owner, rev in owners}


def replace(connection: psycopg.Connection, acl_id: UUID, owner: str, entries: Iterable[AclEntry]) -> Acl:
    """Give an existing ACL this owner and these entries; return the result.

    Raises:
        Invalid: there would be more than 300.
    """
    changed = tuple(sorted((entry for entry in entries if entry.permissions), key=lambda entry: entry.principal))
    if len(changed) > MAX_ENTRIES:
        raise Invalid("ACL_TOO_LONG", f"An ACL has at most {MAX_ENTRIES} entries: use a group.")
    row = connection.execute("UPDATE acl SET owner = %s, rev = rev + 1 WHERE id = %s RETURNING owner, rev", (owner, acl_id)).fetchone()
    assert row is not None
    connection.execute("DELETE FROM acl_entry WHERE acl_id = %s", (acl_id,))
    acl = Acl(acl_id, row[0], changed, row[1])
    _insert_entries(connection, acl)
    return acl


def replace_all(connection: psycopg.Connection, acls: Sequence[Acl]) -> None:
    """Store new owners and entries of existing ACLs and increment `rev`, in four statements however many there are.

    Raises:
        Invalid: one would have more than 300 entries.
    """
    if any(len(acl.entries) > MAX_ENTRIES for acl in acls):
        raise Invalid("ACL_TOO_LONG", f"An ACL has at most {MAX_ENTRIES} entries: use a group.")
    ids = [acl.id for acl in acls]
    connection.execute(
        "UPDATE acl SET owner = n.owner, rev = acl.rev + 1 FROM unnest(%b::uuid[], %b::text[]) AS n (id, owner) WHERE acl.id = n.id",
        (ids, [acl.owner for acl in acls]),
    )
    connection.execute("DELETE FROM acl_entry WHERE acl_id = ANY (%b)", (ids,))
    rows = [(acl.id, entry.principal, int(entry.permissions)) for acl in acls for entry in acl.entries]
    if not rows:
        return
    connection.execute(
        "INSERT INTO acl_entry (acl_id, principal, permissions) SELECT * FROM unnest(%b::uuid[], %b::text[], %b::integer[])",
        ([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]),
    )


def ensure(connection: psycopg.Connection, acl: Acl) -> None:
    """Create an ACL, or give an existing one exactly this owner and these entries."""
    if insert(connection, acl):
        return
    present = load(connection, [acl.id], lock=True)[acl.id]
    if present.owner != acl.owner or set(present.entries) != set(acl.entries):
        replace(connection, acl.id, acl.owner, acl.entries)


def _insert_entries(connection: psycopg.Connection, acl: Acl) -> None:
    connection.execute(
        "INSERT INTO acl_entry (acl_id, principal, permissions) SELECT %s, * FROM unnest(%s::text[], %s::integer[])",
        (acl.id, [entry.principal for entry in acl.entries], [int(entry.permissions) for entry in acl.entries]),
    )
