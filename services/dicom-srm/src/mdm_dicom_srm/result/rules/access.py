"""Who may read a result: who may read everything that it was made from."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID, uuid4

from mdm_service.access.acl import Acl
from mdm_wire.permission import Permission

from mdm_dicom_srm.result.rules.model import Access

_READING = Permission.READ | Permission.LIST | Permission.TRAVERSE | Permission.GET
_EVERYBODY = "authenticated"


def access_of(acls: Iterable[Acl], service: str) -> Access:
    """Return a new access list for what is derived from files under `acls`; without any, nobody's but the owner's.

    A principal gets what every list gives it, by an entry of its own or the one of `authenticated`. A member of a group in one list
    that stands by name in another is left out: groups change, so no list is opened further than each of its sources is.
    `service`, which owns the lists of images, is no reader.
    """
    lists = [_readers(acl, service) for acl in acls]
    if not lists:
        return Access(uuid4())
    principals = {principal for entries in lists for principal in entries}
    common = {principal: _common(lists, principal) for principal in sorted(principals)}
    return Access(uuid4(), {principal: bits for principal, bits in common.items() if bits & Permission.READ})


def by_sources(sources: Mapping[UUID, frozenset[UUID]], acls: Mapping[UUID, Acl], service: str) -> dict[UUID, Access]:
    """Return the access of results by GUID; those whose sources have the same lists share one, so that a grant is one change."""
    made: dict[frozenset[UUID], Access] = {}
    for ids in sources.values():
        if ids not in made:
            made[ids] = access_of((acls[acl_id] for acl_id in sorted(ids)), service)
    return {guid: made[ids] for guid, ids in sources.items()}


def _readers(acl: Acl, service: str) -> dict[str, int]:
    found = {entry.principal: int(entry.permissions & _READING) for entry in acl.entries if entry.principal != f"dn:{service}"}
    return found if acl.owner == service else {**found, f"dn:{acl.owner}": int(_READING)}


def _common(lists: Sequence[Mapping[str, int]], principal: str) -> int:
    bits = int(_READING)
    for entries in lists:
        bits &= entries.get(principal, 0) | entries.get(_EVERYBODY, 0)
    return bits
