"""What `check-config --connect` tries: each connection of dicom-srm, by the calls that it would make; nothing is changed."""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any
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

from mdm_dicom_srm.config import GridSettings, KeystoreSettings, PacsSettings, Settings, Way
from mdm_dicom_srm.grid.call import calling
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.c_move import CMove, MoveDestination
from mdm_dicom_srm.pacs.dimse import silence_dicom
from mdm_dicom_srm.pacs.pacs_set import open_adapter, open_dicomweb, open_pool
from mdm_dicom_srm.pacs.wado_rs import WadoRs

#: A study that no PACS has: asking for it takes every step of a retrieval but the last.
_NO_STUDY = "2.25.294382651037856217740914468203573415921"
_NO_FILE = UUID(int=0)
_NOBODY = "CN=nobody"


def targets(settings: Settings, seconds: float) -> list[Target]:
    """Return the PACS by each adapter and operation, and each address of catalog, metadata and keystores."""
    silence_dicom()
    return [*_pacs(settings.pacs, MoveDestination(settings.scp.ae_title), seconds), *_grid_targets(settings.grid, settings.vo, seconds)]


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


def _pacs(tables: Sequence[PacsSettings], destination: MoveDestination, seconds: float) -> list[Target]:
    several = len(tables) > 1
    return [
        Target(f"pacs{f'.{settings.name}' if several else ''} {operation}", ask)
        for settings in tables
        for operation, ask in _operations(settings, destination, seconds).items()
    ]


def _operations(settings: PacsSettings, destination: MoveDestination, seconds: float) -> dict[str, Callable[[], str]]:
    """Return the operations that the ways to a PACS need, each once, and what asks for them."""

    def opened(way: Way, ask: Callable[[Any], str | None]) -> str:
        with closing(open_adapter(settings, way, seconds, destination)) as adapter:
            return ask(adapter) or "answers"

    def qido() -> str:
        with closing(open_dicomweb(settings, seconds)) as web:
            return _answers(web.ping())

    def echo() -> str:
        with closing(open_pool(settings, seconds)) as pool:
            return _answers(pool.echo())

    asks: dict[str, Callable[[], str]] = {}
    for way in settings.retrieve:
        if way == "wado-rs":
            asks |= {"QIDO-RS": qido, "WADO-RS": partial(opened, way, _headers)}
        else:
            asks |= {"C-ECHO": echo, "C-FIND": partial(opened, way, _listing)}
            asks["C-MOVE" if way == "c-move" else "C-GET"] = partial(opened, way, lambda adapter: adapter.offers())
    return asks


def _answers(secured: str) -> str:
    return f"answers, {secured}" if secured else "answers"


def _headers(adapter: WadoRs) -> str:
    return "answers, but has a study that does not exist" if list(adapter.headers(_NO_STUDY)) else ""


def _listing(adapter: CGet | CMove) -> str:
    return "answers, but has a study that does not exist" if list(adapter.listing(_NO_STUDY)) else ""


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
