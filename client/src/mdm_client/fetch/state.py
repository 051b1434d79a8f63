"""What the states of staged files are to whoever wants the files."""

from mdm.srm.v1 import srm_pb2
from mdm_wire.errors import NO_SUCH_FILE, Code, MdmError, make_error

_CODES = {
    srm_pb2.STATUS_CODE_INVALID_PATH: Code.NOT_FOUND,
    srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE: Code.PERMISSION_DENIED,
    srm_pb2.STATUS_CODE_FILE_LOST: Code.NOT_FOUND,
    srm_pb2.STATUS_CODE_FAILURE: Code.PERMISSION_DENIED,
    srm_pb2.STATUS_CODE_NO_FREE_SPACE: Code.RESOURCE_EXHAUSTED,
    srm_pb2.STATUS_CODE_INVALID_REQUEST: Code.INVALID_ARGUMENT,
    srm_pb2.STATUS_CODE_INTERNAL_ERROR: Code.INTERNAL,
}
_EXPLANATIONS = {
    srm_pb2.STATUS_CODE_INVALID_PATH: NO_SUCH_FILE,
    srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE: "you may not read it",
    srm_pb2.STATUS_CODE_FILE_LOST: "the PACS no longer has the image",
    srm_pb2.STATUS_CODE_NO_FREE_SPACE: "the site's spool is full; try again later",
    srm_pb2.STATUS_CODE_FILE_UNAVAILABLE: "the site cannot give it now; try again later",
}


def error_of(name: str, status: srm_pb2.FileStatus) -> MdmError:
    """Return the error that the state of a file is to whoever wants it under a name."""
    reason = srm_pb2.StatusCode.Name(status.status).removeprefix("STATUS_CODE_")
    code = _CODES.get(status.status, Code.UNAVAILABLE)
    why = status.explanation or _EXPLANATIONS.get(status.status, reason)
    return make_error(code, reason, f"{name}: {why}")
