"""Composition root of dicom-srm."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from mdm_service.process.main import Runtime, run
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.composition.database import SiteDatabase, open_database
from mdm_dicom_srm.composition.desk import Desk, open_desk
from mdm_dicom_srm.composition.grid import GridServices, open_grid
from mdm_dicom_srm.composition.result import open_reidentification, results_among, serve_results
from mdm_dicom_srm.composition.site import Site, build_door, build_staging, open_site
from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.connection_check import targets
from mdm_dicom_srm.oversight import composition as oversight
from mdm_dicom_srm.oversight.rules.face import SeriesReader
from mdm_dicom_srm.oversight.rules.site import SpoolStatus
from mdm_dicom_srm.pacs.dimse import silence_dicom
from mdm_dicom_srm.reconcile import command
from mdm_dicom_srm.reconcile import composition as reconcile
from mdm_dicom_srm.reconcile.worker import Schedule
from mdm_dicom_srm.register import composition as register
from mdm_dicom_srm.register.rules.port import Grid
from mdm_dicom_srm.result import command as reidentification
from mdm_dicom_srm.result import composition as result
from mdm_dicom_srm.stage import composition as stage

MIGRATIONS = ("mdm_service.delegation_migrations", "mdm_dicom_srm.migrations")


def build(settings: Settings, runtime: Runtime) -> None:
    """Put the rooms together on a server and a database, and start them."""
    silence_dicom()
    # One port can have one listener: of several workers the first has the Storage SCP, and the one for curators.
    first = runtime.worker <= 1
    site = open_site(settings, runtime)
    desk = open_desk(settings, site.database, site.deid)
    runtime.on_stop(desk.finder.close)
    staging = build_staging(site, desk.generation, desk.drawn.drawn)
    masks = (desk.masks,) if desk.masks else ()
    for one in masks:
        one.use(SeriesReader(site.pacs, staging.sealer.perform))
    registration = _registration(site, desk, staging)
    overseeing = _oversight(site, desk, runtime, staging, registration, curators=first)
    schedule = _reconciliation(site, staging)
    door = build_door(site, runtime, staging, desk.generation)
    results = serve_results(settings, site.database, site.grid, site.results, site.instance, staging.forget)
    resulting = (results,) if results else ()

    for room in (staging, registration, overseeing, *resulting):
        room.add_to(runtime.server)
    for full_name in (*stage.SERVICES, *register.SERVICES, *oversight.SERVICES, *(result.SERVICES if results else ())):
        runtime.add_service(full_name)
    for name, ask in site.asks.items():
        runtime.watch(name, ask)
    if first:
        runtime.on_stop(registration.watch())
    scp, scheduled = (registration.scp,) if first else (), (schedule,) if schedule else ()
    working = (site.sizes, staging, site.move_title(), registration.workers, registration.inspections, *masks)
    for part in (*working, *scp, overseeing, *resulting, *scheduled, *((door,) if door else ())):
        runtime.on_stop(part.stop)
        part.start()


def _registration(site: Site, desk: Desk, staging: stage.Stage) -> register.Registration:
    database = site.database
    hospital = register.Hospital(site.pacs, site.destination, desk.judge(staging))
    grid = Grid(site.grid.keys, site.grid.metadata, site.catalog, staging)
    stores = (database.registry, database.scans, database.commitments)
    return register.build_registration(site.settings, *stores, database.names, hospital, grid)


def _oversight(
    site: Site, desk: Desk, runtime: Runtime, staging: stage.Stage, registration: register.Registration, *, curators: bool
) -> oversight.Oversight:
    def spool() -> SpoolStatus:
        usage = staging.spool.usage()
        return SpoolStatus(usage.quota, usage.stored, usage.pinned, usage.files)

    database, deid = site.database, site.deid
    wake, served = registration.workers.wake, desk.parts(site.pacs, staging)
    stores = (database.pool, database.sealer, database.decisions)
    parts = oversight.Parts(*stores, deid.profile.rules, deid.generation, site.asks, spool, wake, served)
    return oversight.build_oversight(site.settings, parts, runtime.authenticator, curators=curators)


def _reconciliation(site: Site, staging: stage.Stage) -> Schedule | None:
    parts = _reconcile_parts(site.database, site.grid, site.spool.directory, staging.forget)
    return reconcile.build_schedule(site.settings, parts)


def _reconcile_parts(
    database: SiteDatabase, grid: GridServices, spool: Path, forget: Callable[[Sequence[UUID]], None] | None = None
) -> reconcile.Parts:
    inventory = grid.inventory(database.names)
    results = results_among(database)
    return reconcile.Parts(database.pool, database.sealer, database.names, database.shared, inventory, spool, results, forget)


def _open_reconcile_parts(settings: Settings, pool: ConnectionPool) -> reconcile.Parts:
    """Open what `mdm-dicom-srm reconcile` needs. The spool is that of a service: this process removes nothing from it."""
    return _reconcile_parts(open_database(settings, pool), open_grid(settings), settings.spool.directory)


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["reconcile"]:
        sys.exit(command.run(sys.argv[2:], MIGRATIONS, _open_reconcile_parts))
    if sys.argv[1:2] == ["reidentify"]:
        sys.exit(reidentification.run(sys.argv[2:], MIGRATIONS, open_reidentification))
    run("dicom-srm", Settings, build, MIGRATIONS, targets)


if __name__ == "__main__":
    main()
