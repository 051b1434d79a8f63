"""Puts together what curators and operators are served."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from mdm.srm.v1 import curator_pb2_grpc, site_pb2_grpc
from mdm_deid.rules.rule import InstanceRule
from mdm_service.identity.caller import Authenticator
from mdm_service.server.server import ServiceServer
from mdm_service.settings import Address
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.oversight.rpc import curator, site
from mdm_dicom_srm.oversight.rules import kind
from mdm_dicom_srm.oversight.rules.curation import CurationService, Decisions
from mdm_dicom_srm.oversight.rules.desk import DeskService, Effects, FindLines, Records
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.picture import Instances
from mdm_dicom_srm.oversight.rules.site import Dependencies, SiteService, SpoolStatus
from mdm_dicom_srm.oversight.store.forwarder import ForwarderFile
from mdm_dicom_srm.oversight.store.kind import KindStore
from mdm_dicom_srm.oversight.store.pixel_rule import PixelRuleStore
from mdm_dicom_srm.oversight.store.quarantine import QuarantineStore
from mdm_dicom_srm.oversight.store.site import SiteStore
from mdm_dicom_srm.site_secret import RecordSealer

_log = logging.getLogger(__name__)
#: The full names of the services that operators get on the server of the grid's side.
SERVICES = (site.FULL_NAME,)


@dataclass(frozen=True)
class DeskParts:
    """What the desk needs: names of kinds, the PACS, where images are de-identified, the rules that hold, and staged copies."""

    names: KindNames
    instances: Instances
    pixel_rules: PixelRuleStore
    find_lines: FindLines
    effects: Effects


@dataclass(frozen=True)
class Parts:
    """What oversight needs of the others.

    `rules` are those of the profile, `generation` the digest of all rules of de-identification; `asks` ask what the service depends on;
    `wake` is called when something was queued.
    """

    pool: ConnectionPool[Any]
    sealer: RecordSealer
    decisions: Decisions
    rules: Sequence[InstanceRule]
    generation: str
    asks: Mapping[str, Callable[[], object]]
    spool: Callable[[], SpoolStatus]
    wake: Callable[[], None]
    desk: DeskParts


@dataclass(frozen=True)
class Oversight:
    """What operators are served on the grid's side, and curators by a second gRPC server on the hospital's, if there is one."""

    servicer: site.SiteServicer
    dependencies: Dependencies
    curators: ServiceServer | None

    def add_to(self, server: grpc.Server) -> None:
        """Register what operators are served."""
        site_pb2_grpc.add_SiteServiceServicer_to_server(self.servicer, server)

    def start(self) -> None:
        """Serve curators in the background."""
        if self.curators is not None:
            self.curators.start()
            _log.info("serving curators", extra={"port": self.curators.port})

    def stop(self) -> None:
        """End; calls under way may finish."""
        if self.curators is not None:
            self.curators.stop()
        self.dependencies.close()


def build_oversight(settings: Settings, parts: Parts, authenticator: Authenticator, *, curators: bool) -> Oversight:
    """Return oversight for a site; it serves curators, too, if asked, with the service's own certificate and the same checks.

    Raises:
        ConfigurationError: the address for curators cannot be listened on.
    """
    dependencies = Dependencies(parts.asks)
    forwarder = ForwarderFile(settings.scp.forwarder_status_file)
    policy = policy_of(settings, parts.generation)
    service = SiteService(SiteStore(parts.pool), dependencies, parts.spool, policy, forwarder.status)
    listener = None
    if settings.curator is not None and curators:
        address = Address(host=settings.curator.host, port=settings.curator.port)
        listener = ServiceServer(address, settings.tls, authenticator, threads=settings.curator.threads)
        quarantine = QuarantineStore(parts.pool, parts.sealer)
        curation = CurationService(quarantine, parts.decisions, parts.rules, parts.desk.names, parts.wake)
        servicer = curator.CuratorServicer(curation, _desk(parts, quarantine))
        curator_pb2_grpc.add_CuratorServiceServicer_to_server(servicer, listener.grpc)
        listener.add_service(curator.FULL_NAME)
    return Oversight(site.SiteServicer(service, settings.site), dependencies, listener)


def _desk(parts: Parts, quarantine: QuarantineStore) -> DeskService:
    desk, rules = parts.desk, parts.rules
    kinds = KindStore(parts.pool, parts.sealer, desk.names, lambda header: kind.read(header, rules).kind)
    return DeskService(Records(quarantine, kinds, desk.names, desk.pixel_rules), desk.instances, rules, desk.find_lines, desk.effects)


def policy_of(settings: Settings, generation: str) -> dict[str, str]:
    """Return the settings that decide about images, by their names in the configuration."""
    return {
        "deid.profile": settings.deid.profile,
        "deid.pixel_rules": settings.deid.pixel_rules or "none",
        "deid.self_check": str(settings.deid.self_check).lower(),
        "deid.text.policy": settings.deid.text.policy,
        "deid.text.modalities": ", ".join(settings.deid.text.modalities) or "none",
        "revision of the rules": generation[:16],
        "patient_id.ignored_in_study": ", ".join(settings.patient_id.ignored_in_study) or "none",
        "patient_id.ignored": ", ".join(settings.patient_id.ignored) or "none",
        "scp.allowed_calling_ae_titles": ", ".join(settings.scp.allowed_calling_ae_titles),
        "registration.policy": str(settings.registration.policy_file or _rules(len(settings.registration.policy.rules))),
        "registration.attributes_file": str(settings.registration.attributes_file or "shipped"),
        "curator": f"{settings.curator.host}:{settings.curator.port}" if settings.curator else "none",
    }


def _rules(count: int) -> str:
    return f"{count} rules" if count else "none"
