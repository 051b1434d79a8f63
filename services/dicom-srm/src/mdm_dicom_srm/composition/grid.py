"""The grid services of the site, as dicom-srm reaches them."""

from dataclasses import dataclass

import grpc
from mdm_client.keystore.client import KeystoreClient, KeystoreServer
from mdm_client.keystore.manager import KeyManager
from mdm_service.settings import ConfigurationError
from mdm_wire import dn
from mdm_wire.channel import check_identity, open_channel
from mdm_wire.errors import MdmError
from mdm_wire.tls import TlsFiles

from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.grid.catalog import GridCatalog
from mdm_dicom_srm.grid.inventory import GridInventory
from mdm_dicom_srm.grid.keystore import GridKeys
from mdm_dicom_srm.grid.metadata import GridMetadata
from mdm_dicom_srm.register.rules.names import Names


@dataclass(frozen=True)
class GridServices:
    """Open channels to catalog and metadata, and the keystores together."""

    tls: TlsFiles
    authority: str
    catalog_channel: grpc.Channel
    metadata_channel: grpc.Channel
    keystores: KeystoreClient
    servers: tuple[KeystoreServer, ...]

    @property
    def catalog(self) -> GridCatalog:
        """Names and replicas of the site."""
        return GridCatalog(self.catalog_channel, self.authority)

    @property
    def metadata(self) -> GridMetadata:
        """Entries of the site."""
        return GridMetadata(self.metadata_channel)

    @property
    def keys(self) -> GridKeys:
        """Keys on every keystore."""
        return GridKeys(self.keystores)

    @property
    def subject(self) -> str:
        """This service's own subject."""
        return dn.of_certificate(check_identity(self.tls))

    def inventory(self, names: Names) -> GridInventory:
        """Return what the grid holds of the site, as its dicom-srm sees it."""
        caller = self.subject
        manager = KeyManager(self.keystores, self.servers, caller)
        return GridInventory(self.catalog, self.metadata, self.keys, manager, names, caller)


def open_grid(settings: Settings) -> GridServices:
    """Open channels to the grid services; connections are made by the first calls.

    Raises:
        ConfigurationError: certificate or key cannot be used, or an address is none.
    """
    grid = settings.grid
    tls = TlsFiles(grid.certificate, grid.key, grid.ca)
    try:
        catalog, metadata = open_channel(grid.catalog, tls), open_channel(grid.metadata, tls)
        servers = tuple(KeystoreServer(item.name, item.index, open_channel(item.addresses, tls)) for item in grid.keystores)
        return GridServices(tls, settings.authority, catalog, metadata, KeystoreClient(servers, grid.threshold), servers)
    except MdmError as error:
        raise ConfigurationError(f"grid: {error.message}") from error
