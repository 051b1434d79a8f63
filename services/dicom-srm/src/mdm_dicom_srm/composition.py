"""Puts staging together from its ports."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
from mdm.srm.v1 import srm_pb2_grpc, transfer_pb2_grpc
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.judgement import MakeDeidentifier
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.stage import metrics
from mdm_dicom_srm.stage.rpc.servicer import SrmServicer
from mdm_dicom_srm.stage.rules.book import Limits, RequestBook
from mdm_dicom_srm.stage.rules.engine import EngineLimits, HoldBack, LocatorsOf, SizeListener, StagingEngine
from mdm_dicom_srm.stage.rules.journal import Journal
from mdm_dicom_srm.stage.rules.port import AccessChecker, KeySource, Sealer
from mdm_dicom_srm.stage.rules.rights import Rechecker
from mdm_dicom_srm.stage.rules.service import Policy, StagingService
from mdm_dicom_srm.stage.sealing.sealer import ProcessSealer, ThreadSealer
from mdm_dicom_srm.stage.settings import SpoolSettings
from mdm_dicom_srm.stage.store.request import PostgresRequestStore
from mdm_dicom_srm.stage.store.spool import LocalSpool
from mdm_dicom_srm.transfer.servicer import TransferServicer

_log = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
# In one process: while one thread waits for the disk or encrypts, the other has the interpreter.
_SEAL_THREADS = 2
# The full names of the services that a stage adds to a server.
SERVICES = ("mdm.srm.v1.SrmService", "mdm.srm.v1.TransferService")


@dataclass(frozen=True)
class Stage:
    """Staging, ready to serve. Call `start` once, `stop` at the end."""

    service: StagingService
    srm: SrmServicer
    transfer: TransferServicer
    spool: LocalSpool
    sealer: Sealer
    _engine: StagingEngine
    _journal: Journal
    _book: RequestBook
    _stopped: threading.Event

    def add_to(self, server: grpc.Server) -> None:
        """Register both servicers."""
        srm_pb2_grpc.add_SrmServiceServicer_to_server(self.srm, server)
        transfer_pb2_grpc.add_TransferServiceServicer_to_server(self.transfer, server)

    def start(self) -> None:
        """Take over what an earlier process left and begin to work."""
        self._journal.start()
        self._engine.start()
        self.service.resume()
        threading.Thread(target=self._tick, name="stage-tick", daemon=True).start()

    def stop(self) -> None:
        """End watches and retrievals, save what changed; unfinished files are staged by the next process."""
        self._stopped.set()
        self.service.stop()
        self._engine.stop()
        self._journal.stop()
        self.spool.close()

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove staged copies at once, those that are being made included, pinned or not."""
        # In this order: what becomes visible between the two is removed by the second.
        self._engine.forget(guids)
        self.spool.forget(guids)

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_SECONDS):
            try:
                self._book.tick()
                self._engine.check_stalled()
            except Exception as error:
                _log.error("housekeeping of staging failed: %s", type(error).__name__)


def build_stage(
    settings: SpoolSettings,
    *,
    site: str,
    authority: str,
    pool: ConnectionPool[Any],
    pacs: Pacs,
    locators_of: LocatorsOf,
    hold_back: HoldBack,
    keys: KeySource,
    access: AccessChecker,
    make_deidentifier: MakeDeidentifier,
    generation: str = "",
    sized: SizeListener | None = None,
    threads: int = 16,
    clock: Callable[[], float] = time.time,
) -> Stage:
    """Return staging for the site whose SURLs begin with `srm://authority/`.

    `make_deidentifier` goes to worker processes: a module-level function or a functools.partial of one, with arguments that
    can be pickled. `generation` names the rules of de-identification (a digest of profile and version): when it changes, the spool
    is emptied. `sized` receives the sizes that users get. `threads` are those of the server; watches take at most half of them.

    Raises:
        ConfigurationError: the spool's directory cannot be used.
    """
    spool = LocalSpool(settings.directory, settings.quota_bytes, generation=generation, keep_free=settings.keep_free_bytes)
    metrics.watch_spool(spool)
    store = PostgresRequestStore(pool, authority)
    journal = Journal(store)
    limits = Limits(settings.request_seconds, settings.retention_seconds, settings.files_per_caller)
    book = RequestBook(spool, journal, clock, limits)
    sealer: Sealer
    if settings.processes:
        sealer = ProcessSealer(make_deidentifier, settings.processes, settings.stall_seconds)
    else:
        sealer = ThreadSealer(make_deidentifier, _SEAL_THREADS)
    engine_limits = EngineLimits(settings.retrievals, settings.stall_seconds, settings.bytes_in_flight)
    engine = StagingEngine(pacs, locators_of, keys, sealer, spool, book, engine_limits, hold_back, sized)
    policy = Policy(settings.default_pin_seconds, settings.max_pin_seconds, max(1, threads // 2))
    rights = Rechecker(access, settings.recheck_seconds)
    service = StagingService(authority, rights, store, spool, book, journal, engine.submit, policy, clock)
    return Stage(service, SrmServicer(service, site), TransferServicer(service), spool, sealer, engine, journal, book, threading.Event())
