"""One process of a site's dicom-srm: the parts that its rooms share, and which spool, name and AE title are its own."""

import functools
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mdm_service.process.main import Runtime
from mdm_service.settings import Address, ConfigurationError

from mdm_dicom_srm.composition.database import SiteDatabase, open_database
from mdm_dicom_srm.composition.deidentification import Deidentification, load_deidentification
from mdm_dicom_srm.composition.grid import GridServices, open_grid
from mdm_dicom_srm.composition.result import open_results
from mdm_dicom_srm.config import Settings, SpoolSettings
from mdm_dicom_srm.door import composition as door
from mdm_dicom_srm.door.http.listener import Limits, Listener
from mdm_dicom_srm.door.store.known import PostgresKnownCopies
from mdm_dicom_srm.grid.catalog import CatalogAccess, GridCatalog
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.pacs_set import Health, PacsSet, answers, open_pacs
from mdm_dicom_srm.register.rules.scanner import look_for
from mdm_dicom_srm.register.worker import SizeCorrection
from mdm_dicom_srm.result.composition import KeptResults
from mdm_dicom_srm.site_secret import derive_key
from mdm_dicom_srm.stage import composition as stage
from mdm_dicom_srm.stage.rules.move_title import MoveTitle
from mdm_dicom_srm.stage.rules.port import DrawnFor, NothingKept, Registrations, Sources
from mdm_dicom_srm.stage.store.instance import PostgresInstances, PostgresMoveTitles
from mdm_dicom_srm.stage.store.request import PostgresRequestStore
from mdm_dicom_srm.stage.store.site import PostgresSiteStore


@dataclass(frozen=True)
class Site:
    """What the rooms share; `spool` and `instance` are this process's own."""

    settings: Settings
    database: SiteDatabase
    deid: Deidentification
    grid: GridServices
    catalog: GridCatalog
    pacs: PacsSet
    destination: MoveDestination
    healths: Mapping[str, Health]
    sizes: SizeCorrection
    results: KeptResults | None
    spool: SpoolSettings
    instance: str

    @property
    def asks(self) -> dict[str, Callable[[], object]]:
        """What asks each PACS whether it answers, by the name under which that is reported."""
        return {"pacs" if len(self.healths) == 1 else f"pacs.{name}": health.ask for name, health in self.healths.items()}

    def move_title(self) -> MoveTitle:
        """Return what makes sure that no other instance has the AE title to which this one has PACS send."""
        settings = self.settings
        title = settings.scp.ae_title if settings.retrieves_by_c_move else ""
        return MoveTitle(PostgresMoveTitles(self.database.pool, self.instance), title, settings.spool.lost_seconds)


def open_site(settings: Settings, runtime: Runtime) -> Site:
    """Open what the rooms share.

    Raises:
        ConfigurationError: a file cannot be used, or settings contradict each other.
    """
    database = open_database(settings, runtime.database)
    grid = open_grid(settings)
    catalog = grid.catalog
    destination = MoveDestination(settings.scp.ae_title)
    pacs = open_pacs(settings.pacs, destination)
    runtime.on_stop(pacs.close)
    return Site(
        settings,
        database,
        load_deidentification(settings, database.secret),
        grid,
        catalog,
        pacs,
        destination,
        {name: Health(member.ping) for name, member in pacs.members.items()},
        SizeCorrection(database.registrations, catalog),
        open_results(settings, database),
        *own_part(settings, runtime.worker),
    )


def build_staging(site: Site, generation: str, drawn: DrawnFor) -> stage.Stage:
    """Return staging at this instance; `generation` is a digest of all rules, `drawn` returns those that people drew.

    Raises:
        ConfigurationError: the spool's directory cannot be used.
    """
    settings, database, instance = site.settings, site.database, site.instance
    description_key = derive_key(database.secret, "stage-description")
    requests = PostgresRequestStore(database.pool, settings.authority, instance, database.sealer, description_key)
    return stage.build_stage(
        site.spool,
        place=stage.Place(settings.site, settings.authority, database.names.root, instance),
        stores=stage.Stores(
            requests,
            PostgresSiteStore(database.pool, instance, requests.find),
            PostgresInstances(database.pool, instance, socket.gethostname()),
        ),
        sources=Sources(
            site.pacs,
            site.grid.keystores,
            Registrations(
                database.registrations.locators_of,
                database.queue.hold_back,
                site.sizes.note,
                functools.partial(look_for, database.scans),
                database.decisions.released,
            ),
            functools.partial(answers, site.healths),
            site.results or NothingKept(),
        ),
        catalog=CatalogAccess(site.grid.catalog_channel),
        make_deidentifier=site.deid.make,
        generation=generation,
        threads=settings.threads,
        drawn=drawn,
        forgotten=PostgresKnownCopies(database.pool, generation).forget,
    )


def build_door(site: Site, runtime: Runtime, staging: stage.Stage, generation: str) -> Listener | None:
    """Return the HTTPS door, None where the site has none. One port can have one listener: of several workers the first has it.

    Raises:
        ConfigurationError: it cannot be listened on.
    """
    settings = site.settings.door
    if settings is None or runtime.worker > 1:
        return None
    opening = door.Opening(
        Address(host=settings.host, port=settings.port),
        settings.url,
        settings.instances,
        settings.pin_seconds,
        Limits(settings.threads, settings.requests_per_caller),
    )
    copies = PostgresKnownCopies(site.database.pool, generation)
    parts = door.Staging(staging.rules, staging.spool.sizes)
    return door.build_door(opening, site.settings.tls, runtime.authenticator, parts, staging.place, copies)


def own_part(settings: Settings, worker: int) -> tuple[SpoolSettings, str]:
    """Return the spool and the name of an instance; each of several workers is one, with its share of the spool.

    Raises:
        ConfigurationError: a PACS is to send by C-MOVE, which only the worker with the Storage SCP could take.
    """
    own = settings.spool.model_copy(update={"processes": settings.spool.processes_of(settings.workers)})
    if not worker:
        return own, settings.instance
    if settings.retrieves_by_c_move:
        message = "workers: retrieve by wado-rs or c-get: what c-move brings reaches one worker only; or run instances of their own"
        raise ConfigurationError(message)
    share = {"directory": settings.spool.directory / str(worker), "quota_bytes": settings.spool.quota_bytes // settings.workers}
    return own.model_copy(update=share), f"{settings.instance}.{worker}"
