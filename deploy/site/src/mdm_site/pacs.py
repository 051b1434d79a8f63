"""The PACS of a site: how dicom-srm reaches it, and Orthanc's configuration."""

import json
from dataclasses import dataclass
from pathlib import PurePath

from mdm_forwarder.orthanc import HTTP_USER, TARGET

MDM_AE_TITLE = "MDM"
#: Calling AE titles, besides dicom-srm's, that our Orthanc knows: the defaults of dcmtk and pynetdicom, and spare ones.
CALLING_AE_TITLES = (
    *("STORESCU", "ECHOSCU", "FINDSCU", "GETSCU", "MOVESCU", "DCMSEND", "PYNETDICOM"),
    *("MODALITY", "TEST", "E2E", "BENCH"),
)
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Pacs:
    """How to reach a PACS. `dicomweb` is its DICOMweb root; empty, as the account is, where there is none."""

    ae_title: str
    host: str
    port: int
    dicomweb: str = ""
    user: str = ""
    password_file: PurePath | None = None


@dataclass(frozen=True)
class Orthanc:
    """One Orthanc. `peer` is the host and port of dicom-srm's Storage SCP; `callers` are AE titles that may store and query.

    Orthanc cannot bind to one interface only. If it is `local`, its HTTP server refuses remote hosts, and its DICOM server accepts the
    listed AE titles only from this machine; otherwise a network of its own has to keep others away.
    """

    ae_title: str
    port: int
    http_port: int
    storage: PurePath
    password: str
    peer: tuple[str, int]
    callers: tuple[str, ...]
    plugin: PurePath | None
    local: bool = True

    def configuration(self) -> str:
        """Return the configuration file."""
        known = {
            name.lower(): {"AET": name, "Host": _LOOPBACK, "Port": 104, "AllowEcho": True, "AllowStore": True} for name in self.callers
        }
        host, port = self.peer
        document = {
            "Name": "mdm",
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "Plugins": [str(self.plugin)] if self.plugin else [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": not self.local,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {HTTP_USER: self.password},
            "WebDavEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": self.local,
            "DicomModalities": {**known, TARGET: {"AET": MDM_AE_TITLE, "Host": host, "Port": port}},
            "DicomAssociationCloseDelay": 0,
            "UnknownSopClassAccepted": True,
            "TranscodeDicomProtocol": False,
            "MaximumPduLength": 131072,
            "LimitFindResults": 0,
            "StableAge": 5,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        }
        return json.dumps(document, indent=1) + "\n"
