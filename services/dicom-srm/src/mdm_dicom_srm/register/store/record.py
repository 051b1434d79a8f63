"""What a row of `registration` keeps sealed: locator, header and judgement, each bound to its GUID and field."""

import json
from dataclasses import astuple
from uuid import UUID

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.record_seal import RecordSealer


def seal_locator(sealer: RecordSealer, guid: UUID, locator: InstanceLocator) -> bytes:
    """Return a locator sealed."""
    return sealer.seal(guid, "locator", json.dumps(astuple(locator)).encode())


def open_locator(sealer: RecordSealer, guid: UUID, sealed: bytes) -> InstanceLocator:
    """Return the locator that `seal_locator` sealed."""
    return InstanceLocator(*json.loads(sealer.open(guid, "locator", sealed)))


def seal_header(sealer: RecordSealer, guid: UUID, header: bytes | None) -> bytes | None:
    """Return a header sealed; None stays None."""
    return None if header is None else sealer.seal(guid, "header", header)


def open_header(sealer: RecordSealer, guid: UUID, sealed: bytes | None) -> bytes | None:
    """Return the header that `seal_header` sealed."""
    return None if sealed is None else sealer.open(guid, "header", sealed)


def seal_judgement(sealer: RecordSealer, guid: UUID, judgement: Judgement | None) -> bytes | None:
    """Return a judgement sealed; None stays None."""
    return None if judgement is None else sealer.seal(guid, "judgement", judgement.to_bytes())


def open_judgement(sealer: RecordSealer, guid: UUID, sealed: bytes | None) -> Judgement | None:
    """Return the judgement that `seal_judgement` sealed."""
    return None if sealed is None else Judgement.from_bytes(sealer.open(guid, "judgement", sealed))
