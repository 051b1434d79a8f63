"""Puts the results of a site together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
from mdm.srm.v1 import result_pb2_grpc
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.config import ResultsSettings
from mdm_dicom_srm.result.rpc.servicer import FULL_NAME, ResultServicer
from mdm_dicom_srm.result.rules.port import Forget, Grid, Space, Users
from mdm_dicom_srm.result.rules.publication import Publisher
from mdm_dicom_srm.result.rules.service import Limits, ResultService
from mdm_dicom_srm.result.store.local import LocalSpace
from mdm_dicom_srm.result.store.record import PostgresResults
from mdm_dicom_srm.result.worker import Housekeeping
from mdm_dicom_srm.site_secret import RecordSealer

#: The full names of the services that results add to a server.
SERVICES = (FULL_NAME,)


@dataclass(frozen=True)
class Place:
    """Which instance of which site this is, as staging says it."""

    authority: str
    root: str
    instance: str


@dataclass(frozen=True)
class KeptResults:
    """The results of a site as staging and reconciliation need them."""

    records: PostgresResults
    space: Space

    def among(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files are results."""
        return self.records.among(guids)

    def sizes(self, guids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the sizes of those files that are results and published, in bytes of ciphertext."""
        return {guid: record.size for guid, record in self.records.get(guids).items() if record.state == "PUBLISHED"}

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Write the ciphertext of a result to a file that does not exist; return its size in bytes."""
        return self.space.copy_to(guid, path)


@dataclass(frozen=True)
class Results:
    """What users are served."""

    servicer: ResultServicer
    housekeeping: Housekeeping

    def add_to(self, server: grpc.Server) -> None:
        """Register the service."""
        result_pb2_grpc.add_ResultServiceServicer_to_server(self.servicer, server)

    def start(self) -> None:
        """Begin to look after results."""
        self.housekeeping.start()

    def stop(self) -> None:
        """End."""
        self.housekeeping.stop()


def open_kept(settings: ResultsSettings, pool: ConnectionPool[Any], sealer: RecordSealer, key: bytes) -> KeptResults:
    """Return the results of a site; `key` is that of the hashes of names.

    Raises:
        ConfigurationError: the result space cannot be used.
    """
    return KeptResults(PostgresResults(pool, sealer, key), open_space(settings))


def open_space(settings: ResultsSettings) -> Space:
    """Return the result space.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if settings.s3 is not None:
        from mdm_dicom_srm.result.store.s3 import open_s3  # boto3 takes long to import

        return open_s3(settings.s3)
    assert settings.directory is not None
    return LocalSpace(settings.directory, settings.keep_free_bytes)


def build_results(
    settings: ResultsSettings,
    kept: KeptResults,
    place: Place,
    grid: Grid,
    users: Users,
    forget: Forget,
    ensure_place: Callable[[], None],
) -> Results:
    """Return the results of a site; `forget` removes staged copies, `ensure_place` makes what the grid needs before the first one."""
    publisher = Publisher(kept.records, kept.space, grid, users, forget, settings.gone_after_seconds)
    quotas = {item.group: item.quota_bytes for item in settings.quotas}
    limits = Limits(settings.quota_bytes, quotas, settings.max_file_bytes, settings.abandon_seconds)
    service = ResultService(place.root, place.instance, kept.records, kept.space, grid, users, publisher, limits)
    return Results(ResultServicer(service, place.authority), Housekeeping(publisher, ensure_place, settings.sweep_seconds))
