"""The results of a site."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from mdm_deid import Pseudonymiser
from mdm_service.access.acl import acl_entries
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.composition.database import SiteDatabase, open_database
from mdm_dicom_srm.composition.grid import GridServices
from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.grid.catalog import CatalogAccess
from mdm_dicom_srm.grid.result import ResultGrid
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.pacs_set import open_pacs
from mdm_dicom_srm.result.command import Parts
from mdm_dicom_srm.result.composition import KeptResults, Place, Results, build_results, open_kept
from mdm_dicom_srm.result.rules.port import Forget
from mdm_dicom_srm.result.store.record import PostgresResults
from mdm_dicom_srm.site_secret import derive_key


def open_results(settings: Settings, database: SiteDatabase) -> KeptResults | None:
    """Return the results of a site, None if it takes none.

    Raises:
        ConfigurationError: the result space cannot be used.
    """
    if settings.results is None:
        return None
    return open_kept(settings.results, database.pool, database.sealer, _name_key(database))


def results_among(database: SiteDatabase) -> Callable[[Sequence[UUID]], set[UUID]]:
    """Return what says which files are results, also where the site takes none any more."""
    return PostgresResults(database.pool, database.sealer, _name_key(database)).among


def _name_key(database: SiteDatabase) -> bytes:
    return derive_key(database.secret, "result-name")


def open_reidentification(settings: Settings, pool: ConnectionPool[Any]) -> Parts:
    """Open what `mdm-dicom-srm reidentify` needs."""
    database = open_database(settings, pool)
    pacs = open_pacs(settings.pacs, MoveDestination(settings.scp.ae_title))
    return Parts(database.registrations.locators_of, pacs, Pseudonymiser(database.secret).uid)


def serve_results(
    settings: Settings, database: SiteDatabase, grid: GridServices, kept: KeptResults | None, instance: str, forget: Forget
) -> Results | None:
    """Return what users are served of results, None where the site takes none; `forget` removes staged copies."""
    if settings.results is None or kept is None:
        return None
    services = (grid.catalog, grid.metadata, grid.keys)
    channel, names = grid.catalog_channel, database.names
    results = ResultGrid(channel, services, names, settings.authority, grid.subject, acl_entries(settings.acl.results))
    place = Place(settings.authority, names.root, instance)
    return build_results(settings.results, kept, place, results, CatalogAccess(channel), forget, results.ensure_place)
