"""Orthanc: its configuration, its REST interface as far as forwarding needs it."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx

from mdm_local.pacs.delivery import TargetDown
from mdm_local.pacs.kind import CALLING_AE_TITLES, HTTP_USER, MDM_AE_TITLE, Pacs

_TARGET = "mdm"  # name of dicom-srm's Storage SCP within Orthanc
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
        "DicomModalities": {**known, _TARGET: {"AET": MDM_AE_TITLE, "Host": _LOOPBACK, "Port": scp_port}},
        "DicomAssociationCloseDelay": 0,
        "UnknownSopClassAccepted": True,
        "TranscodeDicomProtocol": False,
        "MaximumPduLength": 131072,
        "LimitFindResults": 0,
        "StableAge": 5,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    return json.dumps(document, indent=1) + "\n"


class OrthancSource:
    """The forwarding side of Orthanc: what it stored, and having it sent to dicom-srm."""

    def __init__(self, url: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, auth=(HTTP_USER, password), timeout=120, trust_env=False)

    def stored_since(self, cursor: int) -> tuple[list[str], int]:
        """Return instances stored after the change number `cursor`, and the number of the last change seen."""
        answer = self._client.get("/changes", params={"since": cursor, "limit": 500}).raise_for_status().json()
        stored = [change["ID"] for change in answer["Changes"] if change["ChangeType"] == "NewInstance"]
        return stored, int(answer["Last"])

    def send(self, instances: Sequence[str]) -> set[str]:
        """Have instances sent to dicom-srm and return those it accepted or that no longer exist.

        Raises:
            TargetDown: dicom-srm does not answer.
        """
        if self._store(instances):
            return set(instances)
        if self._client.post(f"/modalities/{_TARGET}/echo", json={"Timeout": 5}).status_code != httpx.codes.OK:
            raise TargetDown("dicom-srm does not answer C-ECHO")
        return {instance for instance in instances if self._store([instance]) or self._is_gone(instance)}

    def _store(self, instances: Sequence[str]) -> bool:
        request = {"Resources": list(instances), "Synchronous": True, "Timeout": 30}
        return self._client.post(f"/modalities/{_TARGET}/store", json=request).status_code == httpx.codes.OK

    def _is_gone(self, instance: str) -> bool:
        return self._client.get(f"/instances/{instance}").status_code == httpx.codes.NOT_FOUND
