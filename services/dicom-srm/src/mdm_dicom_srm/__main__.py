"""Composition root of dicom-srm."""

import functools
from pathlib import Path

from mdm.srm.v1 import registration_pb2_grpc
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_deid import PatientIdRule, Profile, ProfileError
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.patient import PatientIdError, rule_of
from mdm_deid.rules.profile import SHIPPED
from mdm_service.access.acl import AclEntry
from mdm_service.access.settings import acl_entries
from mdm_service.errors import ConfigurationError
from mdm_service.process.main import Runtime, run
from mdm_wire.channel import open_channel
from mdm_wire.errors import MdmError
from mdm_wire.tls import TlsFiles

from mdm_dicom_srm import dicom_log
from mdm_dicom_srm.check import targets
from mdm_dicom_srm.composition import SERVICES as STAGE_SERVICES
from mdm_dicom_srm.composition import build_stage
from mdm_dicom_srm.config import AclSettings, GridSettings, PatientIdSettings, Settings
from mdm_dicom_srm.deidentification import generation, make_deidentifier
from mdm_dicom_srm.grid.access import CatalogAccess
from mdm_dicom_srm.grid.catalog import GridCatalog
from mdm_dicom_srm.grid.keystore import GridKeys
from mdm_dicom_srm.grid.metadata import GridMetadata
from mdm_dicom_srm.pacs.fallback import open_pacs
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.record_seal import RecordSealer
from mdm_dicom_srm.register.metrics import watch_registrations
from mdm_dicom_srm.register.rpc.servicer import FULL_NAME, RegistrationServicer
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.description import Describer
from mdm_dicom_srm.register.rules.judge import PooledJudge, Rejudge
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.port import Grid, Judge
from mdm_dicom_srm.register.rules.service import RegistrationService
from mdm_dicom_srm.register.rules.site import SiteAcls
from mdm_dicom_srm.register.rules.size import SizeCorrection
from mdm_dicom_srm.register.store.queue import RegistrationStore
from mdm_dicom_srm.register.store.shared import SharedStore
from mdm_dicom_srm.register.worker import Workers

MIGRATIONS = ("mdm_dicom_srm.migrations",)
_SECRET_BYTES = 32


def build(settings: Settings, runtime: Runtime) -> None:
    """Put registration, staging and transfer together on a server and a database."""
    dicom_log.silence()
    secret = _site_secret(settings.site_secret_file)
    profile, pixels = _profile(settings.deid.profile), _pixel_rules(settings.deid.pixel_rules)
    names = Names(settings.vo, settings.site, settings.authority, secret)
    patient_ids = _patient_ids(settings.patient_id)
    sealer = RecordSealer(secret)
    store = RegistrationStore(runtime.database, sealer, names)
    shared = SharedStore(runtime.database, sealer, names, patient_ids)
    pacs = open_pacs(settings.pacs)
    tls = TlsFiles(settings.grid.certificate, settings.grid.key, settings.grid.ca)
    try:
        catalog = open_channel(settings.grid.catalog, tls)
        metadata = open_channel(settings.grid.metadata, tls)
        keystores = _keystores(settings.grid, tls)
    except MdmError as error:
        raise ConfigurationError(f"grid: {error.message}") from error

    rules = generation(profile, secret, pixels, settings.deid.self_check, patient_ids)
    grid_catalog = GridCatalog(catalog, settings.authority)
    sizes = SizeCorrection(store, grid_catalog)
    stage = build_stage(
        settings.spool,
        site=settings.site,
        authority=settings.authority,
        pool=runtime.database,
        pacs=pacs,
        locators_of=store.locators_of,
        hold_back=store.hold_back,
        keys=keystores,
        access=CatalogAccess(catalog),
        make_deidentifier=functools.partial(make_deidentifier, profile, secret, pixels, settings.deid.self_check, patient_ids),
        generation=rules,
        sized=sizes.note,
        threads=settings.threads,
    )
    stage.add_to(runtime.server)

    for full_name in STAGE_SERVICES:
        runtime.add_service(full_name)

    grid = Grid(GridKeys(keystores), GridMetadata(metadata), grid_catalog, stage)
    judge = PooledJudge(stage.sealer.judge, rules)
    workers, registration = _registration(settings, names, store, shared, pacs, judge, grid)
    registration_pb2_grpc.add_RegistrationServiceServicer_to_server(RegistrationServicer(registration), runtime.server)
    runtime.add_service(FULL_NAME)
    runtime.on_stop(watch_registrations(lambda: store.summary([])))

    runtime.watch("pacs", pacs.ping)

    scp = StorageScp(registration, settings.scp.host, settings.scp.port, settings.scp.ae_title, settings.scp.allowed_calling_ae_titles)
    for begin, end in ((sizes.start, sizes.stop), (stage.start, stage.stop), (workers.start, workers.stop), (scp.start, scp.stop)):
        runtime.on_stop(end)
        begin()


def _registration(
    settings: Settings, names: Names, store: RegistrationStore, shared: SharedStore, pacs: Pacs, judge: Judge, grid: Grid
) -> tuple[Workers, RegistrationService]:
    describer = Describer(names, attribute.load(settings.registration.attributes_file))
    acls = SiteAcls(names, _acl_entries(settings.acl))
    pipeline = Pipeline(store, shared, Rejudge(judge, pacs), describer, acls, names, grid, settings.registration.max_attempts)
    workers = Workers(
        store,
        pipeline,
        count=settings.registration.workers,
        batch=settings.registration.batch,
        lease_seconds=settings.registration.lease_seconds,
    )
    return workers, RegistrationService(store, shared, names, pacs, judge, workers.wake)


def _keystores(grid: GridSettings, tls: TlsFiles) -> KeystoreClient:
    servers = [KeystoreServer(item.name, item.index, open_channel(item.addresses, tls)) for item in grid.keystores]
    return KeystoreClient(servers, grid.threshold)


def _acl_entries(settings: AclSettings) -> dict[str, tuple[AclEntry, ...]]:
    return {
        "study": acl_entries(settings.study),
        "directory": acl_entries(settings.directory),
        "collection": acl_entries(settings.collection),
        "patients": acl_entries(settings.patients),
    }


def _site_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"site_secret_file: {error}") from error
    if len(secret) < _SECRET_BYTES:
        raise ConfigurationError(f"site_secret_file: {path}: has {len(secret)} bytes, at least {_SECRET_BYTES} random ones are needed")
    return secret


def _profile(name: str) -> Profile:
    try:
        return Profile.shipped(name) if name in SHIPPED else Profile.load(Path(name))
    except (ProfileError, OSError) as error:
        raise ConfigurationError(f"deid.profile: {error}") from error


def _patient_ids(settings: PatientIdSettings) -> PatientIdRule:
    try:
        return rule_of(settings.model_dump(exclude_unset=True))
    except PatientIdError as error:
        raise ConfigurationError(f"patient_id: {error}") from error


def _pixel_rules(name: str) -> PixelRules:
    try:
        return PixelRules.load(name)
    except (ProfileError, OSError) as error:
        raise ConfigurationError(f"deid.pixel_rules: {error}") from error


def main() -> None:
    """Run the command line."""
    run("dicom-srm", Settings, build, MIGRATIONS, targets)


if __name__ == "__main__":
    main()
