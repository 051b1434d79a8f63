"""Between the messages of `SrmService` and the model."""

from collections.abc import Iterable, Iterator

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.srm.v1 import srm_pb2 as pb
from mdm_wire.errors import NO_SUCH_FILE
from mdm_wire.permission import Permission
from mdm_wire.url import turl

from mdm_dicom_srm.stage.rules.active import RequestStatus
from mdm_dicom_srm.stage.rules.listing import Listed
from mdm_dicom_srm.stage.rules.model import FINISHED, PENDING, Kind, RequestSummary, StagedFile, State, token_at
from mdm_dicom_srm.stage.rules.service import Wish
from mdm_dicom_srm.stage.rules.space import Space

#: What a person reads; programs read the status and, first in the explanation, the reason.
_EXPLANATIONS = {
    State.INVALID_PATH: NO_SUCH_FILE,
    State.INVALID_REQUEST: "the SURL is given twice",
    State.AUTHORIZATION_FAILURE: "you may see it, but not read it",
    State.TOO_MANY_RESULTS: "it holds more files than one request may; ask for the directories below",
    State.NO_FREE_SPACE: "the spool is full of pinned files; release some or try again later",
    State.FILE_LIFETIME_EXPIRED: "the pin has expired; ask for the file again",
    State.FILE_LOST: "the image is not there any more",
    State.FILE_UNAVAILABLE: "cannot be staged now; try again later",
    State.FAILURE: "the image may not be released",
    State.INTERNAL_ERROR: "a defect of the service; its log has more under this code",
}


class Messages:
    """Makes messages of files, whose TURLs name the site's authority."""

    def __init__(self, authority: str) -> None:
        self._authority = authority

    def files_of(self, status: RequestStatus, token: str) -> Iterator[pb.FileStatus]:
        """Return the files of a request; those of one that brings online have no TURL."""
        return self.files(status.files, status.now, token if status.kind is Kind.GET else "")

    def files(self, files: Iterable[StagedFile], now: float = 0.0, token: str = "") -> Iterator[pb.FileStatus]:
        """Yield files, with TURLs if a token is given."""
        for file in files:
            status = pb.FileStatus(surl=file.surl, status=code(file.state), guid=str(file.guid) if file.guid else "")
            if file.state is State.FILE_PINNED and file.guid is not None:
                if token:
                    status.turl = turl(self._authority, token_at(token, file.holder), file.guid)
                status.size = file.size
                status.pin_expire_time.seconds = int(file.pin_until)
                status.remaining_pin_seconds = max(0, int(file.pin_until - now))
            elif file.state in _EXPLANATIONS:
                status.explanation = f"{file.reason or file.state}: {_EXPLANATIONS[file.state]}"
            yield status

    def with_turl(self, file: StagedFile, now: float, token: str) -> pb.FileStatus:
        """Return a file; where an instance holds it, the TURL names that, even before it is pinned."""
        [status] = self.files([file], now, token)
        if file.state in PENDING and file.guid is not None:
            status.turl = turl(self._authority, token_at(token, file.holder), file.guid)
        return status


def wish_from_proto(request: pb.PrepareToGetRequest | pb.BringOnlineRequest, kind: Kind) -> Wish:
    """Return what a caller asks for."""
    return Wish(
        surls=list(request.surls),
        kind=kind,
        pin_seconds=request.pin_seconds,
        request_seconds=request.request_seconds,
        description=request.description,
        levels=0 if request.all_levels else request.levels or 1,
    )


def code(state: State) -> pb.StatusCode.ValueType:
    """Return the code of a state."""
    return pb.StatusCode.Value(f"STATUS_CODE_{state}")


def kind_to_proto(kind: Kind) -> pb.RequestKind.ValueType:
    """Return the kind of a request."""
    return pb.RequestKind.Value(f"REQUEST_KIND_{kind}")


def moment(seconds: float) -> Timestamp:
    """Return a time, to the second."""
    return Timestamp(seconds=int(seconds))


def summary_to_proto(token: str, summary: RequestSummary | None) -> pb.RequestSummary:
    """Return a request without its files; INVALID_REQUEST for none."""
    if summary is None:
        return pb.RequestSummary(token=token, status=pb.STATUS_CODE_INVALID_REQUEST)
    files = summary.files
    total, waiting = sum(files.values()), sum(files.get(state, 0) for state in PENDING)
    pinned, finished = files.get(State.FILE_PINNED, 0), sum(files.get(state, 0) for state in FINISHED)
    return pb.RequestSummary(
        token=token,
        status=code(summary.state),
        kind=kind_to_proto(summary.kind),
        description=summary.description,
        create_time=moment(summary.created),
        files=total,
        waiting=waiting,
        pinned=pinned,
        finished=finished,
        failed=total - waiting - pinned - finished,
    )


def entry_to_proto(item: Listed, full: bool) -> pb.LsEntry:
    """Return an entry of a listing."""
    entry = item.entry
    if entry is None:
        return pb.LsEntry(surl=item.surl, status=pb.STATUS_CODE_INVALID_PATH)
    message = pb.LsEntry(
        surl=item.surl,
        status=pb.STATUS_CODE_SUCCESS,
        kind=pb.PathKind.Value(f"PATH_KIND_{entry.kind}"),
        guid=str(entry.guid) if entry.guid else "",
        size=entry.size,
        locality=pb.FileLocality.Value(f"FILE_LOCALITY_{item.locality}"),
    )
    if full:
        message.owner, message.permissions, message.sha256 = entry.owner, int(entry.permissions), entry.sha256
        message.create_time.seconds, message.modify_time.seconds = int(entry.created), int(entry.modified)
        if item.pin_until:
            message.pin_expire_time.seconds = int(item.pin_until)
    return message


def permission_to_proto(surl: str, permissions: Permission | None) -> pb.SurlPermission:
    """Return what a caller may do."""
    if permissions is None:
        return pb.SurlPermission(surl=surl, status=pb.STATUS_CODE_INVALID_PATH)
    return pb.SurlPermission(surl=surl, status=pb.STATUS_CODE_SUCCESS, permissions=int(permissions))


def space_to_proto(name: str, space: Space | None) -> pb.SpaceMetaData:
    """Return a spool; INVALID_REQUEST for none."""
    if space is None:
        return pb.SpaceMetaData(token=name, status=pb.STATUS_CODE_INVALID_REQUEST)
    usage = space.usage
    return pb.SpaceMetaData(
        token=name,
        status=pb.STATUS_CODE_SUCCESS,
        total_bytes=usage.quota,
        free_bytes=max(0, usage.quota - usage.pinned - usage.reserved),
        stored_bytes=usage.stored,
        pinned_bytes=usage.pinned,
        files=usage.files,
        default_pin_seconds=space.default_pin_seconds,
        max_pin_seconds=space.max_pin_seconds,
    )
