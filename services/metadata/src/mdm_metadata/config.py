"""Settings of the metadata service."""

from typing import Self
from uuid import UUID

from mdm_service.acl import Acl, AclEntry, canonical_principal, parse_permissions
from mdm_service.dn import canonical
from mdm_service.errors import MdmError
from mdm_service.settings import Section, ServiceSettings
from pydantic import Field, model_validator

#: The ACL of the root collection always has this id; the configuration decides what is in it.
ROOT_ACL_ID = UUID("00000000-0000-4000-8000-000000000001")


class RootSettings(Section):
    """Who owns the root collection, and who else may do what there: principal → letters such as `rwlg`."""

    owner: str
    acl: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            self.as_acl()
        except MdmError as error:
            raise ValueError(error.message) from None
        return self

    def as_acl(self) -> Acl:
        """Return the ACL of the root collection."""
        entries = (AclEntry(canonical_principal(name), parse_permissions(letters)) for name, letters in self.acl.items())
        return Acl(ROOT_ACL_ID, canonical(self.owner), tuple(sorted(entries, key=lambda entry: entry.principal)))


class QuerySettings(Section):
    """What one query may cost."""

    statement_seconds: float = Field(default=30.0, gt=0)
    max_rows: int = Field(default=10_000_000, ge=1)


class MetadataSettings(ServiceSettings):
    """Everything the service is told."""

    root: RootSettings
    query: QuerySettings = QuerySettings()
