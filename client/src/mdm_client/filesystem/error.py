"""Errors of the grid as programs that read files know them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mdm_wire.errors import Forbidden, Invalid, MdmError, NotFound, Unauthenticated

_NOT_A_FILE = "NOT_A_FILE"
_NOT_A_DIRECTORY = "NOT_A_DIRECTORY"


def os_error(error: MdmError, name: str) -> OSError:
    """Return an error of the grid about a file as an OSError of the kind that the operating system would raise.

    FileNotFoundError, PermissionError (also where a certificate is refused), IsADirectoryError, NotADirectoryError; EINVAL for a name that
    no file can have; everything else, such as a site that does not answer, is EIO. The message is the grid's; the error is its cause.
    """
    number = _number(error)
    found = OSError(number, f"{os.strerror(number)}: {error.message}", name)
    found.__cause__ = error
    return found


@contextmanager
def as_os_errors(name: str) -> Iterator[None]:
    """Raise OSError, as `os_error` says, where the block raises MdmError."""
    try:
        yield
    except MdmError as error:
        raise os_error(error, name) from error


def _number(error: MdmError) -> int:
    if error.reason == _NOT_A_FILE:
        return errno.EISDIR
    if error.reason == _NOT_A_DIRECTORY:
        return errno.ENOTDIR
    if isinstance(error, NotFound):
        return errno.ENOENT
    if isinstance(error, Forbidden | Unauthenticated):
        return errno.EACCES
    if isinstance(error, Invalid) and error.reason.startswith(("LFN_", "NAME_")):
        return errno.EINVAL
    return errno.EIO
