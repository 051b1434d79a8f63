"""Settings of the metadata service."""

from mdm_service.acl_settings import RootSettings
from mdm_service.settings import Section, ServiceSettings
from pydantic import Field


class QuerySettings(Section):
    """What one query may cost."""

    statement_seconds: float = Field(default=30.0, gt=0)
    max_rows: int = Field(default=10_000_000, ge=1)


class MetadataSettings(ServiceSettings):
    """Everything the service is told."""

    root: RootSettings
    query: QuerySettings = QuerySettings()
