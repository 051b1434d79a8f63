"""Scopes and scans as messages."""

from datetime import date, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.srm.v1 import registration_pb2 as pb
from mdm_wire.errors import Invalid

from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.register.rules.scan import Scan


def scope_from_proto(message: pb.Scope) -> Scope:
    """Return the scope that a message describes.

    Raises:
        Invalid: SCOPE_MALFORMED, a date is none.
    """
    return Scope(
        study_uids=tuple(message.study_instance_uids),
        series_uids=tuple(message.series_instance_uids),
        patient_ids=tuple(message.patient_ids),
        accession_numbers=tuple(message.accession_numbers),
        modalities=tuple(message.modalities),
        since=_date("since", message.since),
        until=_date("until", message.until),
    )


def scan_to_proto(scan: Scan) -> pb.Scan:
    """Return the message that describes a scan."""
    return pb.Scan(
        scan_id=str(scan.id),
        action=pb.ScanAction.Value(f"SCAN_ACTION_{scan.action}"),
        dry_run=scan.dry_run,
        requested_by=scan.by,
        reason_given=scan.note,
        state=pb.ScanState.Value(f"SCAN_STATE_{scan.state}"),
        reason=scan.reason,
        create_time=timestamp(scan.created_at),
        modify_time=timestamp(scan.modified_at),
        studies=scan.studies,
        inspected=scan.inspected,
        failed_studies=scan.failed_studies,
        counts=pb.ScanCounts(**scan.counts.to_dict()),
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a moment as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _date(name: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Invalid("SCOPE_MALFORMED", "The scope's dates are written as 2026-01-31.", fields={name: "not a date"}) from None
