"""Settings of the metadata service."""

from mdm_service import dn
from mdm_service.acl_settings import RootSettings
from mdm_service.settings import Section, ServiceSettings
from pydantic import Field

from mdm_metadata.model import fold_path


class QuerySettings(Section):
    """What one query may cost."""

    statement_seconds: float = Field(default=30.0, gt=0)
    max_rows: int = Field(default=10_000_000, ge=1)


class SubscriberSettings(Section):
    """A metadata service that may copy subtrees of this one; its subject also has the role peer.metadata."""

    subject: str
    subtrees: tuple[str, ...] = Field(min_length=1)


class FeedSettings(Section):
    """Who may copy what. Changes are kept for `keep_days`; who was away longer copies everything again."""

    subscribers: tuple[SubscriberSettings, ...] = ()
    keep_days: int = Field(default=30, ge=1)

    def subtrees_by_subject(self) -> dict[str, frozenset[str]]:
        """Return folded subtrees by canonical subject."""
        found: dict[str, frozenset[str]] = {}
        for item in self.subscribers:
            subject = dn.canonical(item.subject)
            found[subject] = found.get(subject, frozenset()) | {fold_path(path) for path in item.subtrees}
        return found


class ReplicaSettings(Section):
    """Read-only copies of another metadata service's subtrees, under the same paths."""

    origin: str = Field(min_length=1, max_length=64)
    addresses: tuple[str, ...] = Field(min_length=1)
    subtrees: tuple[str, ...] = Field(min_length=1)


class MetadataSettings(ServiceSettings):
    """Everything the service is told."""

    root: RootSettings
    query: QuerySettings = QuerySettings()
    feed: FeedSettings = FeedSettings()
    replicas: tuple[ReplicaSettings, ...] = ()
