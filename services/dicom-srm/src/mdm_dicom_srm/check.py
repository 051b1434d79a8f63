"""What dicom-srm connects to, each as `check-config --connect` tries it: by the calls that it would make, changing nothing."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm.metadata.v1 import metadata_pb2, metadata_pb2_grpc
from mdm_service.process.target import Target
from mdm_wire.channel import open_channel
from mdm_wire.errors import Invalid
from mdm_wire.permission import Permission
from mdm_wire.tls import TlsFiles

from mdm_dicom_srm import dicom_log
from mdm_dicom_srm.config import GridSettings, KeystoreSettings, Settings
from mdm_dicom_srm.grid.error import calling
from mdm_dicom_srm.pacs.fallback import open_adapter
from mdm_dicom_srm.pacs.settings import PacsSettings

#: A study that no PACS has: asking for it takes every step of a retrieval but the last.
_NO_STUDY = "2.25.294382651037856217740914468203573415921"
_NO_FILE = UUID(int=0)
_NOBODY = "CN=nobody"


def targets(settings: Settings, seconds: float) -> list[Target]:
    """Return the PACS by each adapter and operation, and each address of catalog, metadata and keystores."""
    dicom_log.silence()
    return [*_pacs(settings.pacs, seconds), *_grid_targets(settings.grid, settings.vo, seconds)]


def _grid_targets(grid: GridSettings, vo: str, seconds: float) -> list[Target]:
    return [
        *(_grid(f"catalog {address}", grid, address, partial(_catalog, seconds)) for address in grid.catalog),
        *(_grid(f"metadata {address}", grid, address, partial(_metadata, f"/{vo}", seconds)) for address in grid.metadata),
        *(
            _grid(f"keystore {keystore.name} {address}", grid, address, partial(_keystore, keystore, seconds))
            for keystore in grid.keystores
            for address in keystore.addresses
        ),
    ]


def _pacs(settings: PacsSettings, seconds: float) -> Sequence[Target]:
    names = {"wado-rs": ("QIDO-RS", "WADO-RS"), "c-get": ("C-ECHO", "C-FIND")}

    def ping(kind: str) -> str:
        open_adapter(settings, kind, seconds).ping()
        return "answers"

    def look(kind: str) -> str:
        found = sum(1 for _ in open_adapter(settings, kind, seconds).headers(_NO_STUDY))
        return "answers" if not found else "answers, but has a study that nobody made"

    asks: tuple[Callable[[str], str], ...] = (ping, look)
    return [Target(f"pacs {name}", partial(ask, kind)) for kind in settings.retrieve for name, ask in zip(names[kind], asks, strict=True)]


def _grid(name: str, grid: GridSettings, address: str, ask: Callable[[grpc.Channel], str]) -> Target:
    def connect() -> str:
        tls = TlsFiles(grid.certificate, grid.key, grid.ca)
        with calling(""), open_channel([address], tls) as channel:
            return ask(channel)

    return Target(name, connect)


def _catalog(seconds: float, channel: grpc.Channel) -> str:
    """Ask for rights, which only the role service.dicom-srm may."""
    target = catalog_pb2.Target(guid=str(_NO_FILE))
    request = catalog_pb2.CheckAccessRequest(subject=_NOBODY, targets=[target], permissions=int(Permission.READ))
    catalog_pb2_grpc.CatalogServiceStub(channel).CheckAccess(request, timeout=seconds)
    return "serving, our role is known"


def _metadata(root: str, seconds: float, channel: grpc.Channel) -> str:
    request = metadata_pb2.ListCollectionsRequest(path=root, page_size=1)
    metadata_pb2_grpc.MetadataServiceStub(channel).ListCollections(request, timeout=seconds)
    return "serving"


def _keystore(settings: KeystoreSettings, seconds: float, channel: grpc.Channel) -> str:
    """Ask for name and index; another index than configured would mix up the shares of keys."""
    info = keystore_pb2_grpc.KeystoreServiceStub(channel).GetServerInfo(keystore_pb2.GetServerInfoRequest(), timeout=seconds)
    if info.share_index != settings.index:
        raise Invalid("WRONG_INDEX", f"it holds share {info.share_index}, not {settings.index}; correct [[grid.keystores]]")
    return f"serving, share {info.share_index}"
