"""Orthanc's configuration."""

import json
from pathlib import Path

from mdm_forwarder.orthanc import HTTP_USER, TARGET
from mdm_site.configuration import MDM_AE_TITLE

from mdm_local.pacs.kind import CALLING_AE_TITLES, Pacs

_LOOPBACK = "127.0.0.1"


def configuration(pacs: Pacs, directory: Path, password: str, scp_port: int, plugin: Path | None) -> str:
    """Return Orthanc's configuration file.

    Orthanc cannot bind to one interface only: its HTTP server refuses remote hosts, its DICOM server accepts only the listed
    calling AE titles and only from this machine.
    """
    known = {
        name.lower(): {"AET": name, "Host": _LOOPBACK, "Port": 104, "AllowEcho": True, "AllowStore": True} for name in CALLING_AE_TITLES
    }
    document = {
        "Name": "mdm-local",
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "Plugins": [str(plugin)] if plugin else [],
        "HttpPort": int(pacs.http.rpartition(":")[2]),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {HTTP_USER: password},
        "WebDavEnabled": False,
        "DicomAet": pacs.ae_title,
        "DicomPort": pacs.port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {**known, TARGET: {"AET": MDM_AE_TITLE, "Host": _LOOPBACK, "Port": scp_port}},
        "DicomAssociationCloseDelay": 0,
        "UnknownSopClassAccepted": True,
        "TranscodeDicomProtocol": False,
        "MaximumPduLength": 131072,
        "LimitFindResults": 0,
        "StableAge": 5,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    return json.dumps(document, indent=1) + "\n"
