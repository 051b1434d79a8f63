"""Puts reconciliation together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.reconcile.rules.comparison import Comparison
from mdm_dicom_srm.reconcile.rules.model import Grid
from mdm_dicom_srm.reconcile.rules.service import Limits, Reconciliation
from mdm_dicom_srm.reconcile.store.registry import ReconciliationStore, RegistryStore
from mdm_dicom_srm.reconcile.store.spool import SpoolFiles
from mdm_dicom_srm.reconcile.worker import Schedule
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.store.shared_entry import SharedEntryStore
from mdm_dicom_srm.site_secret import RecordSealer

_HOUR = 3600


@dataclass(frozen=True)
class Parts:
    """What reconciliation needs of the others.

    `spool` is its directory, `results` returns which files are results of users: they have no registration. `forget` removes copies, None
    in a process that has no spool.
    """

    pool: ConnectionPool[Any]
    sealer: RecordSealer
    names: Names
    shared: SharedEntryStore
    grid: Grid
    spool: Path
    results: Callable[[Sequence[UUID]], set[UUID]]
    forget: Callable[[Sequence[UUID]], None] | None = None


def build_reconciliation(settings: Settings, parts: Parts, min_age: float | None = None) -> Reconciliation:
    """Return the reconciliation of a site; what is younger than `min_age` seconds (else as configured) is left alone."""
    age = settings.reconcile.min_age_seconds if min_age is None else min_age
    registry = RegistryStore(parts.pool, parts.sealer, parts.names, parts.shared, age)
    spool = SpoolFiles(parts.spool, parts.forget)
    comparison = Comparison(registry, parts.grid, spool, parts.names.collection, timedelta(seconds=age), parts.results)
    return Reconciliation(comparison, registry, parts.grid, spool, parts.names.collection)


def build_schedule(settings: Settings, parts: Parts) -> Schedule | None:
    """Return what reconciles by schedule, None where that is off."""
    chosen = settings.reconcile
    if not chosen.every_hours:
        return None
    limits = Limits(chosen.repair, chosen.max_repairs, chosen.max_share)
    return Schedule(build_reconciliation(settings, parts), ReconciliationStore(parts.pool), limits, chosen.every_hours * _HOUR)
