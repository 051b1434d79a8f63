"""Puts staging together."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import grpc
from mdm.srm.v1 import srm_pb2_grpc

from mdm_dicom_srm import metrics
from mdm_dicom_srm.config import SpoolSettings
from mdm_dicom_srm.judgement import MakeDeidentifier
from mdm_dicom_srm.stage.rpc.servicer import SrmRules, SrmServicer
from mdm_dicom_srm.stage.rpc.transfer import TransferServicer
from mdm_dicom_srm.stage.rules.active import RequestLimits
from mdm_dicom_srm.stage.rules.control import RequestControl
from mdm_dicom_srm.stage.rules.instance import Instance
from mdm_dicom_srm.stage.rules.journal import RequestJournal
from mdm_dicom_srm.stage.rules.kept_copy import KeptCopies
from mdm_dicom_srm.stage.rules.listing import Listing
from mdm_dicom_srm.stage.rules.port import AccessChecker, Catalog, DrawnFor, Instances, RequestStore, Sealer, SiteStore, Sources, Usage
from mdm_dicom_srm.stage.rules.recheck import Rechecker
from mdm_dicom_srm.stage.rules.request import Requests
from mdm_dicom_srm.stage.rules.retrieval import FilesInWork, RetrievalLimits, Retriever
from mdm_dicom_srm.stage.rules.retrieval_queue import RetrievalQueue
from mdm_dicom_srm.stage.rules.service import Lifetimes, StagingService
from mdm_dicom_srm.stage.rules.space import Spaces
from mdm_dicom_srm.stage.rules.target import SurlParser, TargetResolver
from mdm_dicom_srm.stage.sealing.processes import ProcessSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_dicom_srm.stage.store.spool import LocalSpool

_log = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
# In one process: while one thread waits for the disk or encrypts, another runs Python code.
_SEAL_THREADS = 2
# The full names of the services that a stage adds to a server.
SERVICES = ("mdm.srm.v1.SrmService", "mdm.srm.v1.TransferService")


class CatalogAccess(AccessChecker, Catalog, Protocol):
    """The catalog as staging asks it on behalf of users."""


@dataclass(frozen=True)
class Stores:
    """What staging keeps in the site's database."""

    requests: RequestStore
    site: SiteStore
    instances: Instances


@dataclass(frozen=True)
class Place:
    """Which instance of which site this is: SURLs begin with `srm://authority/`, names of files with `root`."""

    site: str
    authority: str
    root: str
    instance: str


@dataclass(frozen=True)
class Stage:
    """Staging, ready to serve. Call `start` once, `stop` at the end."""

    rules: SrmRules
    place: Place
    spool: LocalSpool
    sealer: Sealer
    _queue: RetrievalQueue
    _journal: RequestJournal
    _requests: Requests
    _instance: Instance
    _stopped: threading.Event = field(default_factory=threading.Event)

    def add_to(self, server: grpc.Server) -> None:
        """Register both servicers."""
        place = self.place
        srm_pb2_grpc.add_SrmServiceServicer_to_server(SrmServicer(self.rules, place.authority, place.site, place.instance), server)
        TransferServicer(self.rules.service, place.authority).add_to(server)

    def start(self) -> None:
        """Take the instance's name, take over what an earlier process left and begin to work.

        Raises:
            ConfigurationError: an instance of the same name is serving on another machine.
        """
        self._instance.register()
        self._journal.start()
        self._queue.start()
        self.rules.service.resume()
        self._instance.start()
        threading.Thread(target=self._tick, name="stage-tick", daemon=True).start()

    def stop(self) -> None:
        """End watches and retrievals, save what changed; unfinished files are staged by the next process."""
        self._stopped.set()
        self.rules.service.stop()
        self._queue.stop()
        self._instance.stop()
        self._journal.stop()
        self.spool.close()

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove staged copies, those that are being made included, pinned or not, at every instance.

        Raises:
            Unavailable: an instance that is serving has not removed its copies yet; ask again.
        """
        self._instance.forget(guids)

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_SECONDS):
            try:
                self.rules.service.submit(self._requests.tick())
                self._queue.check_stalled()
            except Exception as error:
                _log.error("housekeeping of staging failed: %s", type(error).__name__)


def build_stage(
    settings: SpoolSettings,
    *,
    place: Place,
    stores: Stores,
    sources: Sources,
    catalog: CatalogAccess,
    make_deidentifier: MakeDeidentifier,
    generation: str = "",
    threads: int = 16,
    drawn: DrawnFor = lambda _part10: (),
    forgotten: Callable[[Sequence[UUID]], object] = lambda _guids: None,
    clock: Callable[[], float] = time.time,
) -> Stage:
    """Return staging at one place.

    `make_deidentifier` goes to worker processes: a module-level function or a functools.partial of one, with arguments that
    can be pickled. `generation` names the rules of de-identification (a digest of profile and version): when it changes, the spool
    is emptied. `threads` are those of the server; watches take at most half of them. `drawn` returns the rules that people drew.
    `forgotten` is called with files of which this instance has removed its copies, as they were changed or removed.

    Raises:
        ConfigurationError: the spool's directory cannot be used.
    """
    spool = LocalSpool(
        settings.directory,
        settings.quota_bytes,
        generation=generation,
        instance=place.instance,
        keep_free=settings.keep_free_bytes,
    )
    journal = RequestJournal(stores.requests, stores.site)
    requests = Requests(spool, journal, stores.site, clock, RequestLimits(settings.retention_seconds, settings.files_per_caller))
    sealer: Sealer
    if processes := settings.processes_of(workers=1):
        sealer = ProcessSealer(make_deidentifier, processes, settings.stall_seconds, drawn)
    else:
        sealer = ThreadSealer(make_deidentifier, _SEAL_THREADS, drawn)
    limits = RetrievalLimits(settings.retrievals, settings.stall_seconds, settings.bytes_in_flight)
    work = FilesInWork(requests)
    copies = KeptCopies(sources.kept, spool, work, settings.retrievals)
    queue = RetrievalQueue(sources.registrations, Retriever(sources, sealer, spool, work, limits), work, limits, copies)
    lifetimes = Lifetimes(
        settings.default_pin_seconds,
        settings.max_pin_seconds,
        max(1, threads // 2),
        settings.request_seconds,
        settings.max_request_seconds,
    )
    surls = SurlParser(place.authority, place.root)
    service = StagingService(
        TargetResolver(surls, catalog), Rechecker(catalog, settings.recheck_seconds), requests, queue, lifetimes, clock
    )
    rules = SrmRules(
        service,
        RequestControl(surls, catalog, requests, journal, service, lifetimes),
        Listing(surls, catalog, spool, requests, sources),
        Spaces(lambda: {**stores.instances.usages(), place.instance: spool.usage()}, lifetimes),
    )

    def usage() -> Usage:
        found = spool.usage()
        metrics.note_spool(found.quota, found.stored, found.pinned)
        return found

    def forget(guids: Sequence[UUID]) -> None:
        # In this order: what becomes visible between the two is removed by the second.
        work.forget(guids)
        spool.forget(guids)
        forgotten(guids)

    instance = Instance(stores.instances, stores.site, requests, usage, service.submit, forget, spool.found, settings.lost_seconds)
    return Stage(rules, place, spool, sealer, queue, journal, requests, instance)
