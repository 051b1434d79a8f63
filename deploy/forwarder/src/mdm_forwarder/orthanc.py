"""The part of Orthanc's REST interface that forwarding needs."""

import re
from collections.abc import Sequence

import httpx

from mdm_forwarder.delivery import NOT_NEGOTIATED, Sent, TargetDown, final_reason

#: Name of dicom-srm's Storage SCP among Orthanc's modalities, and of the account that Orthanc knows.
TARGET = "mdm"
HTTP_USER = "mdm"
# How Orthanc 1.10 and 1.12 word C-STORE failures in `Details`.
_STATUS = re.compile(r"DIMSE status 0x([0-9A-Fa-f]{4})")
_NO_CONTEXT = "No valid presentation context was negotiated"


class OrthancSource:
    """Orthanc as a source: lists new instances, and makes Orthanc send them to dicom-srm."""

    def __init__(self, url: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, auth=(HTTP_USER, password), timeout=120, trust_env=False)

    def stored_since(self, cursor: int) -> tuple[list[str], int]:
        """Return instances stored after the change number `cursor`, and the number of the last change seen."""
        response = self._client.get("/changes", params={"since": cursor, "limit": 500})
        response.raise_for_status()
        answer = response.json()
        stored = [change["ID"] for change in answer["Changes"] if change["ChangeType"] == "NewInstance"]
        return stored, int(answer["Last"])

    def send(self, instances: Sequence[str]) -> Sent:
        """Make Orthanc send instances to dicom-srm; those that no longer exist count as accepted.

        Raises:
            TargetDown: dicom-srm does not answer.
        """
        if self._store(instances).status_code == httpx.codes.OK:
            return Sent(set(instances))
        if self._client.post(f"/modalities/{TARGET}/echo", json={"Timeout": 5}).status_code != httpx.codes.OK:
            raise TargetDown("dicom-srm does not answer C-ECHO")
        accepted, refused = set[str](), dict[str, str]()
        for instance in instances:
            response = self._store([instance])
            if response.status_code == httpx.codes.OK or self._is_deleted(instance):
                accepted.add(instance)
            elif reason := _final_reason(response):
                refused[instance] = reason
        return Sent(accepted, refused)

    def _store(self, instances: Sequence[str]) -> httpx.Response:
        request = {"Resources": list(instances), "Synchronous": True, "Timeout": 30}
        return self._client.post(f"/modalities/{TARGET}/store", json=request)

    def _is_deleted(self, instance: str) -> bool:
        return self._client.get(f"/instances/{instance}").status_code == httpx.codes.NOT_FOUND


def _final_reason(response: httpx.Response) -> str:
    """Return why an instance must not be sent again; empty if it may be, or if Orthanc gives no reason."""
    try:
        details = str(response.json().get("Details", ""))
    except (ValueError, AttributeError):
        return ""
    if _NO_CONTEXT in details:
        return NOT_NEGOTIATED
    found = _STATUS.search(details)
    return final_reason(int(found[1], 16)) if found else ""
