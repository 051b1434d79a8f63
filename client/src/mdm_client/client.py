"""One object over all services."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from mdm_wire import dn
from mdm_wire.channel import check_identity, open_channel
from mdm_wire.errors import Invalid
from mdm_wire.retry import RetryPolicy

from mdm_client.catalog.client import CatalogClient
from mdm_client.config import ClientConfig
from mdm_client.service import Service

# Each part is imported when it is first used: listing a directory needs neither keys nor metadata.
if TYPE_CHECKING:
    from mdm_client.fetch.download import Download, FetchOptions
    from mdm_client.fetch.plan import PlannedFile
    from mdm_client.fetch.srm import SrmClient
    from mdm_client.keystore.client import KeystoreClient, KeystoreServer
    from mdm_client.keystore.manager import KeyManager
    from mdm_client.keystore.operator import KeystoreOperator
    from mdm_client.metadata.client import MetadataClient
    from mdm_client.subtree_acls import SubtreeAcls


class Client:
    """The grid as one user sees it. Nothing is opened before it is used; thread-safe; close it, or use it in `with`."""

    def __init__(self, config: ClientConfig, policy: RetryPolicy | None = None) -> None:
        """Check the user's certificate.

        Raises:
            Unauthenticated, Invalid: as `mdm_wire.channel.check_identity`.
        """
        self.config = config
        self._policy = policy or RetryPolicy()
        self._lock = threading.RLock()
        self._channels: dict[str, grpc.Channel] = {}
        self._sites: dict[str, SrmClient] = {}
        self._downloads: list[Download] = []
        check_identity(config.tls)

    @classmethod
    def load(cls, path: Path | str, policy: RetryPolicy | None = None) -> "Client":
        """Return a client for the configuration in a TOML file; errors as ClientConfig.load."""
        return cls(ClientConfig.load(path), policy)

    @cached_property
    def catalog(self) -> CatalogClient:
        """The file catalog."""
        return CatalogClient(self._channel("catalog", self.config.catalog), self._policy)

    @cached_property
    def metadata(self) -> "MetadataClient":
        """The metadata service."""
        from mdm_client.metadata.client import MetadataClient

        return MetadataClient(self._channel("metadata", self.config.metadata), self._policy)

    def metadata_at(self, site: str) -> "MetadataClient":
        """Return the metadata service of a site; one that is away, or busy, is tried for `site_seconds` of the configuration.

        Raises:
            Invalid: SITE_UNKNOWN.
        """
        from mdm_client.metadata.client import MetadataClient

        addresses = self.config.metadata_sites.get(site)
        if addresses is None:
            known = ", ".join(sorted(self.config.metadata_sites)) or "none"
            raise Invalid("SITE_UNKNOWN", f"{site}: no such site under [metadata_sites] in the configuration; there: {known}")
        seconds = min(self.config.site_seconds, self._policy.retry_seconds)
        channel = self._channel(f"metadata {site}", addresses, self.config.site_seconds / len(addresses))
        return MetadataClient(channel, replace(self._policy, retry_seconds=seconds))

    @cached_property
    def keystores(self) -> "KeystoreClient":
        """All keystores together."""
        from mdm_client.keystore.client import KeystoreClient

        return KeystoreClient(self._keystore_servers(), self.config.threshold)

    @cached_property
    def keys(self) -> "KeyManager":
        """Keys as people handle them: register, look, share, destroy, each answered keystore by keystore."""
        from mdm_client.keystore.manager import KeyManager

        return KeyManager(self.keystores, self._keystore_servers(), self.caller)

    @cached_property
    def caller(self) -> str:
        """Whose client this is: the DN of its certificate, as services write it."""
        return dn.of_certificate(check_identity(self.config.tls))

    @cached_property
    def keystore_operator(self) -> "KeystoreOperator":
        """All keystores, for their operator."""
        from mdm_client.keystore.operator import KeystoreOperator

        return KeystoreOperator(self._keystore_servers(), self._policy)

    @cached_property
    def acls(self) -> "SubtreeAcls":
        """Access control in every service together."""
        from mdm_client.acl import AclClient
        from mdm_client.subtree_acls import SubtreeAcls

        keystores = [AclClient(Service(k.place, k.channel, self._policy)) for k in self._keystore_servers()]
        services = [AclClient(self.catalog.service), *keystores, self.metadata.acls]
        return SubtreeAcls(self.catalog, services, self.keys, self.caller)

    def srm(self, site: str = "") -> "SrmClient":
        """Return a site's dicom-srm; without a name, the only one in the configuration.

        Raises:
            Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
        """
        from mdm_client.fetch.srm import SrmClient

        known = ", ".join(sorted(self.config.srm)) or "none"
        if not site:
            if len(self.config.srm) != 1:
                raise Invalid("SITE_AMBIGUOUS", f"name a site; in the configuration: {known}")
            site = next(iter(self.config.srm))
        if site not in self.config.srm:
            raise Invalid("SITE_UNKNOWN", f"{site}: no such site under [srm] in the configuration; there: {known}")
        with self._lock:
            if site not in self._sites:
                channel = self._channel(f"srm {site}", self.config.srm[site])
                self._sites[site] = SrmClient(site, channel, self._policy)
            return self._sites[site]

    def download(
        self,
        files: "Sequence[PlannedFile]",
        directory: Path,
        options: "FetchOptions | None" = None,
        received: Callable[[int], None] | None = None,
    ) -> "Download":
        """Return a download of planned files (see `mdm_client.fetch.plan.make_plan`) into `directory`; iterate its `results`.

        `received` is called in workers with each count of ciphertext bytes.
        """
        from mdm_client.fetch.download import Download, FetchOptions

        download = Download(files, directory, self.srm, self.keystores, options or FetchOptions(), received)
        self._downloads.append(download)
        return download

    def close(self) -> None:
        """Close every channel."""
        if not all(download.idle for download in self._downloads):
            # A thread that hangs in a call still uses a channel, and gRPC crashes the process if that is closed.
            return
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _keystore_servers(self) -> "list[KeystoreServer]":
        from mdm_client.keystore.calls import KeystoreServer

        return [KeystoreServer(k.name, k.index, self._keystore_channel(k.name)) for k in self.config.keystores]

    def _keystore_channel(self, name: str) -> grpc.Channel:
        addresses = next(k.addresses for k in self.config.keystores if k.name == name)
        return self._channel(f"keystore {name}", addresses)

    def _channel(self, place: str, addresses: Sequence[str], connect_seconds: float | None = None) -> grpc.Channel:
        with self._lock:
            if place not in self._channels:
                self._channels[place] = open_channel(addresses, self.config.tls, connect_seconds)
            return self._channels[place]
