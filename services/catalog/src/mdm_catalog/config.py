"""Settings of the catalog."""

from collections.abc import Callable
from typing import TypeVar

from mdm_service.acl import AclEntry, canonical_principal, parse_permissions
from mdm_service.dn import canonical
from mdm_service.errors import MdmError
from mdm_service.settings import Section, ServiceSettings
from pydantic import Field, field_validator

T = TypeVar("T")


class RootEntry(Section):
    """What one principal may do at the root: a principal as in an ACL and letters of `pdrwlxgs`."""

    principal: str
    permissions: str = Field(min_length=1)

    @field_validator("principal")
    @classmethod
    def _principal(cls, value: str) -> str:
        return _checked(canonical_principal, value)

    @field_validator("permissions")
    @classmethod
    def _permissions(cls, value: str) -> str:
        _checked(parse_permissions, value)
        return value


class RootSettings(Section):
    """The ACL of the root directory, which what is made below inherits unless it is given another."""

    owner: str
    entries: tuple[RootEntry, ...] = Field(default=(), max_length=300)

    @field_validator("owner")
    @classmethod
    def _owner(cls, value: str) -> str:
        return _checked(canonical, value)

    @field_validator("entries")
    @classmethod
    def _once(cls, value: tuple[RootEntry, ...]) -> tuple[RootEntry, ...]:
        if len({entry.principal for entry in value}) != len(value):
            raise ValueError("a principal has at most one entry")
        return value

    def acl_entries(self) -> tuple[AclEntry, ...]:
        """Return the entries as the ACL holds them."""
        return tuple(AclEntry(entry.principal, parse_permissions(entry.permissions)) for entry in self.entries)


class CatalogSettings(ServiceSettings):
    """The sections of every service, and the root directory's ACL."""

    root: RootSettings


def _checked(parse: Callable[[str], T], value: str) -> T:
    """Return what `parse` makes of a value, its errors as pydantic expects them."""
    try:
        return parse(value)
    except MdmError as error:
        raise ValueError(error.message) from None
