"""The site's database: every store that the rooms share."""

from dataclasses import dataclass
from typing import Any

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.composition.deidentification import patient_id_rule
from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Registry
from mdm_dicom_srm.register.rules.scan import ScanStores
from mdm_dicom_srm.register.store.commitment import CommitmentStore
from mdm_dicom_srm.register.store.content import ContentStore
from mdm_dicom_srm.register.store.decision import DecisionStore
from mdm_dicom_srm.register.store.inspection import InspectionStore
from mdm_dicom_srm.register.store.queue import QueueStore
from mdm_dicom_srm.register.store.registration import RegistrationStore
from mdm_dicom_srm.register.store.scan import ScanStore
from mdm_dicom_srm.register.store.shared_entry import SharedEntryStore
from mdm_dicom_srm.site_secret import RecordSealer, read_site_secret


@dataclass(frozen=True)
class SiteDatabase:
    """A site's database with what seals and names what is in it."""

    pool: ConnectionPool[Any]
    secret: bytes
    names: Names
    sealer: RecordSealer
    queue: QueueStore
    registrations: RegistrationStore
    shared: SharedEntryStore
    decisions: DecisionStore
    scans: ScanStores
    commitments: CommitmentStore

    @property
    def registry(self) -> Registry:
        """What registration writes."""
        return Registry(self.queue, self.registrations, self.shared)


def open_database(settings: Settings, pool: ConnectionPool[Any]) -> SiteDatabase:
    """Return the stores of a site.

    Raises:
        ConfigurationError: the site's secret, or a rule for patient IDs, cannot be used.
    """
    secret = read_site_secret(settings.site_secret_file)
    names, sealer = Names(settings.vo, settings.site, settings.authority, secret), RecordSealer(secret)
    return SiteDatabase(
        pool,
        secret,
        names,
        sealer,
        QueueStore(pool, sealer, names),
        RegistrationStore(pool, sealer),
        SharedEntryStore(pool, sealer, names, patient_id_rule(settings.patient_id)),
        DecisionStore(pool, names),
        ScanStores(ScanStore(pool, sealer, names), InspectionStore(pool, sealer, names), ContentStore(pool, sealer, names)),
        CommitmentStore(pool, sealer),
    )
