"""Orthanc's REST interface as far as forwarding needs it."""

from collections.abc import Sequence

import httpx

from mdm_forwarder.delivery import TargetDown

#: Name of dicom-srm's Storage SCP among Orthanc's modalities, and of the account that Orthanc knows.
TARGET = "mdm"
HTTP_USER = "mdm"


class OrthancSource:
    """The forwarding side of Orthanc: what it stored, and having it sent to dicom-srm."""

    def __init__(self, url: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, auth=(HTTP_USER, password), timeout=120, trust_env=False)

    def stored_since(self, cursor: int) -> tuple[list[str], int]:
        """Return instances stored after the change number `cursor`, and the number of the last change seen."""
        response = self._client.get("/changes", params={"since": cursor, "limit": 500})
        response.raise_for_status()
        answer = response.json()
        stored = [change["ID"] for change in answer["Changes"] if change["ChangeType"] == "NewInstance"]
        return stored, int(answer["Last"])

    def send(self, instances: Sequence[str]) -> set[str]:
        """Have instances sent to dicom-srm and return those it accepted or that no longer exist.

        Raises:
            TargetDown: dicom-srm does not answer.
        """
        if self._store(instances):
            return set(instances)
        if self._client.post(f"/modalities/{TARGET}/echo", json={"Timeout": 5}).status_code != httpx.codes.OK:
            raise TargetDown("dicom-srm does not answer C-ECHO")
        return {instance for instance in instances if self._store([instance]) or self._is_gone(instance)}

    def _store(self, instances: Sequence[str]) -> bool:
        request = {"Resources": list(instances), "Synchronous": True, "Timeout": 30}
        return self._client.post(f"/modalities/{TARGET}/store", json=request).status_code == httpx.codes.OK

    def _is_gone(self, instance: str) -> bool:
        return self._client.get(f"/instances/{instance}").status_code == httpx.codes.NOT_FOUND
