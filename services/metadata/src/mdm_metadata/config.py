"""Settings of the metadata service."""

from pathlib import Path
from typing import ClassVar, Self

from mdm_service.access.acl import RootSettings
from mdm_service.policy import METADATA_PEER
from mdm_service.settings import Section, ServiceSettings
from mdm_wire import dn
from mdm_wire.errors import MdmError
from pydantic import Field, model_validator

from mdm_metadata.rules.model import fold_path


class QuerySettings(Section):
    """Limits of one query."""

    statement_seconds: float = Field(default=30.0, gt=0)
    max_rows: int = Field(default=10_000_000, ge=1)


class SubscriberSettings(Section):
    """A metadata service that may copy subtrees of this one; its subject also has the role peer.metadata."""

    subject: str
    subtrees: tuple[str, ...] = Field(min_length=1)


class FeedSettings(Section):
    """Who may copy what. Changes are kept for `keep_days`; a subscriber that was disconnected longer copies everything again."""

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
    """Read-only copies of another metadata service's subtrees, under the same paths.

    `ca` has the only authorities that may have certified the origin; without it, all of `tls.ca` may.
    """

    origin: str = Field(min_length=1, max_length=64)
    addresses: tuple[str, ...] = Field(min_length=1)
    subtrees: tuple[str, ...] = Field(min_length=1)
    ca: Path | None = None


class MetadataSettings(ServiceSettings):
    """The whole configuration; see config.example.toml."""

    pools: ClassVar[int] = 2  # one writes, one reads

    root: RootSettings
    query: QuerySettings = QuerySettings()
    feed: FeedSettings = FeedSettings()
    replicas: tuple[ReplicaSettings, ...] = ()

    def copied(self) -> dict[str, tuple[str, ...]]:
        """Return the copied subtrees by origin."""
        found: dict[str, tuple[str, ...]] = {}
        for item in self.replicas:
            found[item.origin] = found.get(item.origin, ()) + item.subtrees
        return found

    @model_validator(mode="after")
    def _check_subscribers(self) -> Self:
        """Refuse a subscriber that lacks the role which the method policy demands."""
        try:
            peers = {dn.canonical(subject) for subject in self.roles.get(METADATA_PEER, ())}
            missing = self.feed.subtrees_by_subject().keys() - peers
        except MdmError as error:
            raise ValueError(f"feed.subscribers: {error.message}") from error
        if missing:
            raise ValueError(f'feed.subscribers: {min(missing)} is not under [roles] "{METADATA_PEER}"')
        return self
