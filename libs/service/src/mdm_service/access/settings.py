"""Access control lists in configuration files, written alike everywhere."""

from collections.abc import Callable, Iterable
from typing import Annotated
from uuid import UUID

from mdm_wire.dn import canonical
from mdm_wire.errors import MdmError
from mdm_wire.permission import canonical_principal, parse_permissions
from pydantic import AfterValidator, Field

from mdm_service.access.acl import Acl, AclEntry
from mdm_service.settings import Section

#: The ACL of the root of a service's tree always has this id; the configuration decides what is in it.
ROOT_ACL_ID = UUID("00000000-0000-4000-8000-000000000001")


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps what `parse` accepts, in its canonical form where it has one."""

    def check(value: str) -> str:
        try:
            parsed = parse(value)
        except MdmError as error:
            raise ValueError(error.message) from None
        return parsed if isinstance(parsed, str) else value

    return AfterValidator(check)


class AclEntrySettings(Section):
    """What one principal may do: a principal as in an ACL and letters of `pdrwlxgs`."""

    principal: Annotated[str, _checked(canonical_principal)]
    permissions: Annotated[str, Field(min_length=1), _checked(parse_permissions)]


def _once(entries: tuple[AclEntrySettings, ...]) -> tuple[AclEntrySettings, ...]:
    if len({entry.principal for entry in entries}) != len(entries):
        raise ValueError("a principal has at most one entry")
    return entries


#: The entries of one ACL, at most one per principal.
AclEntries = Annotated[tuple[AclEntrySettings, ...], Field(max_length=300), AfterValidator(_once)]


class RootSettings(Section):
    """The ACL of the root of a service's tree, which what is made below inherits unless it is given another."""

    owner: Annotated[str, _checked(canonical)]
    entries: AclEntries = ()

    def acl(self) -> Acl:
        """Return the ACL these settings describe."""
        return Acl(ROOT_ACL_ID, self.owner, acl_entries(self.entries))


def acl_entries(settings: Iterable[AclEntrySettings]) -> tuple[AclEntry, ...]:
    """Return configured entries as an ACL holds them, in order of principal."""
    entries = (AclEntry(entry.principal, parse_permissions(entry.permissions)) for entry in settings)
    return tuple(sorted(entries, key=lambda entry: entry.principal))
