"""Puts registration together."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import grpc
from mdm.srm.v1 import registration_pb2_grpc
from mdm_service.access.acl import AclEntry, acl_entries
from mdm_service.settings import ConfigurationError

from mdm_dicom_srm import metrics
from mdm_dicom_srm.config import AclSettings, PolicySettings, RegistrationSettings, Settings
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.pacs.tls import client_context, server_context
from mdm_dicom_srm.register.rpc.notification import Notifications, Peer
from mdm_dicom_srm.register.rpc.servicer import FULL_NAME, RegistrationServicer
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.arrival import Arrivals
from mdm_dicom_srm.register.rules.assessor import Assessor
from mdm_dicom_srm.register.rules.commitment import Commitments
from mdm_dicom_srm.register.rules.description import Describer
from mdm_dicom_srm.register.rules.grid_writer import GridWriter, Prerequisites
from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.model import State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.policy import PolicyRule, SitePolicy
from mdm_dicom_srm.register.rules.port import Grid, Judge, Registrations, Registry
from mdm_dicom_srm.register.rules.scan import ScanStores
from mdm_dicom_srm.register.rules.scanner import Scanner, ScanService, Schedule, look_for
from mdm_dicom_srm.register.rules.service import RegistrationService
from mdm_dicom_srm.register.worker import InspectionWorkers, Workers

#: The full names of the services that registration adds to a server.
SERVICES = (FULL_NAME,)


@dataclass(frozen=True)
class Registration:
    """Registration, ready to serve; workers and Storage SCP are to be started and stopped."""

    servicer: RegistrationServicer
    scp: StorageScp
    workers: Workers
    inspections: InspectionWorkers
    _registrations: Registrations
    _inspections_waiting: Callable[[], tuple[int, float]]

    def add_to(self, server: grpc.Server) -> None:
        """Register the servicer."""
        registration_pb2_grpc.add_RegistrationServiceServicer_to_server(self.servicer, server)

    def watch(self) -> Callable[[], None]:
        """Report by metrics how many registrations are in each state, and what waits to be inspected; return a function that ends it."""
        ends = (
            metrics.watch_registrations(State, lambda: {str(state): count for state, count in self._registrations.summary([]).items()}),
            metrics.watch_inspections(self._inspections_waiting),
        )

        def end() -> None:
            for one in ends:
                one()

        return end


@dataclass(frozen=True)
class Hospital:
    """Where instances come from, and who decides about them; what a C-MOVE brings goes to `destination`."""

    pacs: Pacs
    destination: MoveDestination
    judge: Judge


def build_registration(
    settings: Settings,
    registry: Registry,
    stores: ScanStores,
    commitments: Commitments,
    names: Names,
    hospital: Hospital,
    grid: Grid,
) -> Registration:
    """Return registration for a site.

    Raises:
        ConfigurationError: the file of attributes, of the site policy, or one of the Storage SCP's TLS, cannot be read.
    """
    pacs = hospital.pacs
    describer = Describer(names, attribute.load(settings.registration.attributes_file))
    prerequisites = Prerequisites(names, grid, _acl_entries(settings.acl), describer.collections())
    missing = partial(look_for, stores)
    arrivals = Arrivals(settings.registration.arrivals_bytes)
    assessor = Assessor(hospital.judge, arrivals, pacs, describer, registry.shared.decide_patient, missing)
    writer = GridWriter(registry, grid, names, prerequisites)
    pipeline = Pipeline(registry.queue, assessor, writer, settings.registration.max_attempts)
    workers = Workers(
        registry.queue,
        pipeline,
        count=settings.registration.workers,
        batch=settings.registration.batch,
        lease_seconds=settings.registration.lease_seconds,
        own=arrivals.series,
    )
    policy = site_policy(settings.registration)
    service = RegistrationService(registry, names, pacs, hospital.judge, arrivals, workers.wake, policy)
    inspections = _inspections(settings.registration, stores, names, pacs, service)

    def wake() -> None:
        workers.wake()
        inspections.wake()

    scans = ScanService(stores, names, wake)
    scp = _storage_scp(settings, service, scans, commitments, hospital.destination)
    return Registration(RegistrationServicer(service, scans), scp, workers, inspections, registry.registrations, stores.inspections.waiting)


def _inspections(
    settings: RegistrationSettings, stores: ScanStores, names: Names, pacs: Pacs, service: RegistrationService
) -> InspectionWorkers:
    scan = settings.scan
    return InspectionWorkers(
        stores,
        Inspector(pacs, names, stores, service, settings.gone_after_seconds),
        Scanner(pacs, stores, Schedule(60 * scan.every_minutes, scan.days, 3600 * scan.all_every_hours)),
        count=settings.inspectors,
        max_attempts=settings.max_attempts,
        lease_seconds=settings.lease_seconds,
    )


def site_policy(settings: RegistrationSettings) -> SitePolicy:
    """Return the site policy, from its file if it has one.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    policy, path = settings.policy, settings.policy_file
    if path is not None:
        try:
            policy = PolicySettings.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"registration.policy_file: {path}: {error}") from error
    rules = [PolicyRule(register=rule.action == "register", **rule.model_dump(exclude={"action"})) for rule in policy.rules]
    return SitePolicy(rules, register_others=policy.register_others)


def _storage_scp(
    settings: Settings, service: RegistrationService, scans: ScanService, commitments: Commitments, destination: MoveDestination
) -> StorageScp:
    scp = settings.scp
    pacs_of = {title: pacs.name for pacs in settings.pacs for title in (pacs.ae_title, *pacs.forwards_as)}
    if len(settings.pacs) == 1:
        pacs_of |= dict.fromkeys(scp.allowed_calling_ae_titles, settings.pacs[0].name)
    tls = server_context(scp.tls) if scp.tls is not None else None
    allowed = scp.allowed_calling_ae_titles
    peers = {
        title: Peer(pacs.host, pacs.port, client_context(pacs.tls) if pacs.tls is not None else None)
        for pacs in settings.pacs
        for title in (pacs.ae_title, *pacs.forwards_as)
    }
    return StorageScp(
        service,
        scp.host,
        scp.port,
        scp.ae_title,
        allowed,
        pacs_of=pacs_of,
        destination=destination,
        tls=tls,
        notifications=Notifications(scans, commitments, scp.ae_title, peers),
    )


def _acl_entries(settings: AclSettings) -> dict[str, Sequence[AclEntry]]:
    return {
        "study": acl_entries(settings.study),
        "directory": acl_entries(settings.directory),
        "collection": acl_entries(settings.collection),
        "patients": acl_entries(settings.patients),
    }
