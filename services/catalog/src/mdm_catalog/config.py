"""Settings of the catalog."""

from mdm_service.access.acl import RootSettings
from mdm_service.settings import ServiceSettings


class CatalogSettings(ServiceSettings):
    """The sections of every service, and the root directory's ACL."""

    root: RootSettings
