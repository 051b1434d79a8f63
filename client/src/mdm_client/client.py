"""One object over all services."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import grpc
from mdm_wire.channel import check_files, check_identity, open_channel
from mdm_wire.delegation import ANY_AUDIENCE
from mdm_wire.errors import Invalid
from mdm_wire.retry import RetryPolicy

from mdm_client.catalog.client import CatalogClient
from mdm_client.config import ClientConfig
from mdm_client.service import Service

# Each part is imported when it is first used: listing a directory needs neither keys nor metadata.
if TYPE_CHECKING:
    from mdm_wire.delegation import Delegation
    from mdm_wire.errors import MdmError

    from mdm_client.curator import CuratorClient
    from mdm_client.delegation import Job
    from mdm_client.fetch.download import Download, FetchOptions
    from mdm_client.fetch.plan import PlannedFile
    from mdm_client.fetch.result import ResultClient
    from mdm_client.fetch.srm import SrmClient
    from mdm_client.keystore.client import KeystoreClient, KeystoreServer
    from mdm_client.keystore.manager import KeyManager
    from mdm_client.keystore.operator import KeystoreOperator
    from mdm_client.metadata.client import MetadataClient
    from mdm_client.name_syntax import Name
    from mdm_client.site import SiteClient
    from mdm_client.subtree_acls import SubtreeAcls
    from mdm_client.volume.geometry import Volume


class Client:
    """The grid as one user sees it. Services are opened when they are first used. Thread-safe; close it, or use it in `with`."""

    def __init__(self, config: ClientConfig, policy: RetryPolicy | None = None, delegation: str = "") -> None:
        """Check the user's certificate; with the token `delegation`, a job's certificate, which acts for who signed it.

        Raises:
            Unauthenticated, Invalid: as `mdm_wire.channel.check_files`.
        """
        self.config = config
        self._policy = policy or RetryPolicy()
        self._token = delegation
        self._lock = threading.RLock()
        self._channels: dict[str, grpc.Channel] = {}
        self._sites: dict[str, SrmClient] = {}
        self._grids: dict[str, Client] = {}
        self._downloads: list[Download] = []
        check_files(config.tls)

    @classmethod
    def load(cls, path: Path | str, policy: RetryPolicy | None = None, *, delegation: Path | str | None = None) -> "Client":
        """Return a client for the configuration in a TOML file; with the file of a `delegation`, it acts for the user who made that.

        Raises:
            Invalid: as `ClientConfig.load`; DELEGATION_UNREADABLE.
        """
        if delegation is None:
            return cls(ClientConfig.load(path), policy)
        from mdm_client.delegation import read_token

        return cls(ClientConfig.load(path), policy, read_token(Path(delegation)))

    @cached_property
    def catalog(self) -> CatalogClient:
        return CatalogClient(self._channel("catalog", self.config.catalog), self._policy)

    @cached_property
    def metadata(self) -> "MetadataClient":
        from mdm_client.metadata.client import MetadataClient

        return MetadataClient(self._channel("metadata", self.config.metadata), self._policy)

    def metadata_at(self, site: str) -> "MetadataClient":
        """Return the metadata service of a site; while it is unreachable or busy, it is tried for `site_seconds` of the configuration.

        Raises:
            Invalid: SITE_UNKNOWN.
        """
        addresses = self.config.metadata_sites.get(site)
        if addresses is None:
            known = ", ".join(sorted(self.config.metadata_sites)) or "none"
            raise Invalid("SITE_UNKNOWN", f"{site}: no such site under [metadata_sites] in the configuration; there: {known}")
        return self._metadata_within(self.config.site_seconds, f"metadata {site}", addresses)

    def _metadata_within(self, seconds: float, place: str, addresses: Sequence[str]) -> "MetadataClient":
        from mdm_client.metadata.client import MetadataClient

        channel = self._channel(place, addresses, seconds / len(addresses))
        return MetadataClient(channel, replace(self._policy, retry_seconds=min(seconds, self._policy.retry_seconds)))

    def at(self, site: str) -> "Client":
        """Return the client of a site that has a grid of its own: its catalog, keystores and dicom-srm, under the certificate for it.

        Raises:
            Invalid: SITE_UNKNOWN, or errors of the site's configuration as `ClientConfig.load`. Unauthenticated: as `Client`.
        """
        file = self.config.sites.get(site)
        if file is None:
            known = ", ".join(sorted(self.config.sites)) or "none"
            raise Invalid("SITE_UNKNOWN", f"{site}: no such site under [sites] in the configuration; there: {known}")
        with self._lock:
            if site not in self._grids:
                self._grids[site] = Client.load(file, self._policy)
            return self._grids[site]

    def metadata_of(self, site: str) -> "MetadataClient":
        """Return the metadata service of a site that has a grid of its own, tried as `metadata_at` does; errors as `at`."""
        other = self.at(site)
        return other._metadata_within(self.config.site_seconds, f"metadata {site}", other.config.metadata)

    @cached_property
    def keystores(self) -> "KeystoreClient":
        """All keystores as one."""
        from mdm_client.keystore.client import KeystoreClient

        return KeystoreClient(self._keystore_servers(), self.config.threshold)

    @cached_property
    def keys(self) -> "KeyManager":
        """Operations on keys for their owners, with an answer of each keystore."""
        from mdm_client.keystore.manager import KeyManager

        return KeyManager(self.keystores, self._keystore_servers(), self.caller)

    @cached_property
    def caller(self) -> str:
        """The DN of the user's certificate, as services write it."""
        from mdm_wire import dn

        return dn.of_certificate(check_identity(self.config.tls))

    @cached_property
    def keystore_operator(self) -> "KeystoreOperator":
        """All keystores, for their operators."""
        from mdm_client.keystore.operator import KeystoreOperator

        return KeystoreOperator(self._keystore_servers(), self._policy)

    @cached_property
    def acls(self) -> "SubtreeAcls":
        """Access control of subtrees in every service at once."""
        from mdm_client.acl import AclClient
        from mdm_client.subtree_acls import SubtreeAcls

        keystores = [AclClient(Service(k.place, k.channel, self._policy)) for k in self._keystore_servers()]
        services = [AclClient(self.catalog.service), *keystores, self.metadata.acls]
        return SubtreeAcls(self.catalog, services, self.keys, self.caller)

    def delegate(self, job: "Job", names: "Sequence[Name]", seconds: int, audience: str = "") -> tuple[str, "Delegation"]:
        """Return a token by which `job` reads files and directories as this user for so long, and what it says.

        Raises:
            Invalid: DELEGATED_TWICE, or as `mdm_client.delegation`. MdmError: the catalog does not show one of them.
        """
        from mdm_client import delegation

        if self._token:
            raise Invalid("DELEGATED_TWICE", "a job cannot pass on what its user delegated to it: only the user's own key can")
        made = delegation.make_delegation(self.catalog, self.caller, job, names, seconds)
        return delegation.sign(made, self.config.tls, audience or ANY_AUDIENCE), made

    def revoke_delegation(self, delegation_id: str) -> dict[str, "MdmError | None"]:
        """Have every service of the configuration refuse a token of this user; return the error of each, by its place."""
        from mdm_client.delegation import revoke

        config = self.config
        keystores = {server.place: server.channel for server in self._keystore_servers()}
        sites = {f"srm {site}": self._channel(f"srm {site}", addresses) for site, addresses in config.srm.items()}
        others = {f"metadata {site}": addresses for site, addresses in config.metadata_sites.items() if addresses != config.metadata}
        metadata = {place: self._channel(place, addresses) for place, addresses in {"metadata": config.metadata, **others}.items()}
        channels = {**metadata, **keystores, **sites}
        services = [Service(place, channel, self._policy) for place, channel in channels.items()]
        return revoke([self.catalog.service, *services], delegation_id)

    def srm(self, site: str = "") -> "SrmClient":
        """Return a site's dicom-srm; without a name, the only one in the configuration.

        Raises:
            Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
        """
        from mdm_client.fetch.srm import SrmClient

        site = _chosen(self.config.srm, "srm", site)
        with self._lock:
            if site not in self._sites:
                self._sites[site] = SrmClient(site, self._channel(f"srm {site}", self.config.srm[site]), self._policy)
            return self._sites[site]

    def results(self, site: str = "") -> "ResultClient":
        """Return a site's result space; without a name, the only one in the configuration.

        Raises:
            Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
        """
        from mdm_client.fetch.result import ResultClient

        site = _chosen(self.config.srm, "srm", site)
        return ResultClient(site, self._channel(f"srm {site}", self.config.srm[site]), self._policy)

    def site(self, site: str = "") -> "SiteClient":
        """Return a site as its operators see it; without a name, the only one in the configuration.

        Raises:
            Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
        """
        from mdm_client.site import SiteClient

        site = _chosen(self.config.srm, "srm", site)
        return SiteClient(Service(f"srm {site}", self._channel(f"srm {site}", self.config.srm[site]), self._policy))

    def curator(self, site: str = "") -> "CuratorClient":
        """Return a site's listener for curators; without a name, the only one in the configuration.

        Raises:
            Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
        """
        from mdm_client.curator import CuratorClient

        site = _chosen(self.config.curator, "curator", site)
        return CuratorClient(Service(f"curator {site}", self._channel(f"curator {site}", self.config.curator[site]), self._policy))

    def download(
        self,
        files: "Sequence[PlannedFile]",
        directory: Path,
        options: "FetchOptions | None" = None,
        received: Callable[[int], None] | None = None,
    ) -> "Download":
        """Return a download of planned files (see `make_plan`) into `directory`; iterate its `results`.

        `received` is called in workers with each count of ciphertext bytes.
        """
        from mdm_client.fetch.download import Download, FetchOptions

        download = Download(files, directory, self.srm, self.keystores, options or FetchOptions(), received)
        self._downloads.append(download)
        return download

    def images(
        self,
        sql: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        sites: Sequence[str] | None = None,
        kind: Literal["pandas", "arrow"] = "pandas",
    ) -> Any:
        """Return the answer to a SELECT over the metadata as a pandas.DataFrame, or as a pyarrow.Table.

        `parameters` are the values of `:name` in the text; `sites` has several sites asked, whose rows are merged.

        Raises:
            Invalid: PANDAS_MISSING or PYARROW_MISSING (`mdm-client[table]` has both). MdmError: a site does not answer.
        """
        from mdm_client.metadata.table import arrow_table, data_frame

        table = data_frame if kind == "pandas" else arrow_table
        if sites is None:
            result = self.metadata.query(sql, parameters=parameters)
            return table(result.columns, result.batches())
        from mdm_client.federation.query import query_sites

        with query_sites({site: self.metadata_at(site) for site in sites}, sql, None, parameters) as answer:
            found = table(answer.columns, answer.batches())
            for error in answer.failures.values():
                raise error
            return found

    def volume(self, series: str) -> "Volume":
        """Return `array, affine` of a series, named by its UID in the grid, its directory's LFN, or the GUID of one image.

        `array[i, j, k]` counts columns, rows and slices, with rescale applied; a fourth index counts volumes (times, echoes, b-values).
        `affine` leads from indices to millimetres in RAS+, as nibabel's does. Files are in memory only.

        Raises:
            Invalid: PACKAGE_MISSING: `mdm-client[volume]` is not installed. FailedPrecondition: the images are no regular grid; the reason
                says why. MdmError: an image cannot be had.
        """
        from mdm_client.image.reader import need_packages

        need_packages("a volume", "volume", "numpy", "pydicom")
        from mdm_client.volume.series import read_volume

        return read_volume(self, series)

    def close(self) -> None:
        """Close every channel."""
        if not all(download.idle for download in self._downloads):
            # A thread that hangs in a call uses a channel, and gRPC crashes the process if that is closed.
            return
        with self._lock:
            for grid in self._grids.values():
                grid.close()
            self._grids.clear()
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _keystore_servers(self) -> "list[KeystoreServer]":
        from mdm_client.keystore.calls import KeystoreServer

        return [KeystoreServer(k.name, k.index, self._channel(f"keystore {k.name}", k.addresses)) for k in self.config.keystores]

    def _channel(self, place: str, addresses: Sequence[str], connect_seconds: float | None = None) -> grpc.Channel:
        with self._lock:
            if place not in self._channels:
                self._channels[place] = open_channel(addresses, self.config.tls, connect_seconds, self._token)
            return self._channels[place]


def _chosen(sites: Mapping[str, object], table: str, site: str) -> str:
    """Return the site that is meant: the one named, or the only one of the table.

    Raises:
        Invalid: SITE_UNKNOWN, or SITE_AMBIGUOUS where a name is needed.
    """
    known = ", ".join(sorted(sites)) or "none"
    if not site and len(sites) != 1:
        raise Invalid("SITE_AMBIGUOUS", f"name a site under [{table}] in the configuration; there: {known}")
    chosen = site or next(iter(sites))
    if chosen not in sites:
        raise Invalid("SITE_UNKNOWN", f"{chosen}: no such site under [{table}] in the configuration; there: {known}")
    return chosen
