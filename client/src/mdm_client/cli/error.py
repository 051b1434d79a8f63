"""Exit codes, and errors as one line or one JSON object; of many items, by cause."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mdm_wire.errors import MdmError

OK = 0
SOME_FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNAVAILABLE = 4
UNAUTHENTICATED = 5
DEFECT = 70
INTERRUPTED = 130
PIPE_CLOSED = 141
TERMINATED = 143

# By the name of the class: a command that fails before it needs the SDK does not import it.
_EXIT_CODES = {
    "Invalid": USAGE,
    "FailedPrecondition": USAGE,
    "NotFound": NOT_FOUND,
    "Forbidden": NOT_FOUND,
    "Unavailable": UNAVAILABLE,
    "TimedOut": UNAVAILABLE,
    "Exhausted": UNAVAILABLE,
    "Aborted": UNAVAILABLE,
    "Unauthenticated": UNAUTHENTICATED,
    "Cancelled": INTERRUPTED,
}


class _Warnings(logging.Handler):
    """Writes what the SDK warns of, such as a keystore that is left out, once each."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._as_json = as_json
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            show_error(message if self._as_json else f"warning: {message}", "WARNING", self._as_json)


class Terminated(BaseException):
    """SIGTERM came."""


class Interrupted(BaseException):
    """Control-C was pressed. Its own class: click writes an empty line for KeyboardInterrupt, also where JSON is expected."""


class PipeClosed(BaseException):
    """The reader of standard output has disconnected. Its own class: click would end the process with exit code 1."""


def exit_code(error: "MdmError") -> int:
    """Return the exit code of a command that failed with `error`."""
    if error.reason == "COLLECTION_NOT_FOUND":  # a query that names one is an invalid argument to the service
        return NOT_FOUND
    return _EXIT_CODES.get(type(error).__name__, SOME_FAILED)


def exit_code_of_items(total: int, failures: "list[MdmError]") -> int:
    """Return the exit code of a command on many items: that of the first error if all failed, else 1 if any did."""
    if not failures:
        return OK
    return exit_code(failures[0]) if len(failures) == total else SOME_FAILED


def show_error(message: str, reason: str, as_json: bool, **more: Any) -> None:
    """Write an error to standard error: one line, or one JSON object."""
    if as_json:
        line = json.dumps({"reason": reason, "message": message, **more}, ensure_ascii=False)
    else:
        line = f"mdm: {' '.join(message.split())}"
    click.echo(line, err=True)


def show_client_error(error: "MdmError", as_json: bool, item: str = "") -> None:
    """Write a MdmError to standard error; `item` names what it concerns where the message does not."""
    message = error.message if not item or item in error.message else f"{item}: {error.message}"
    more = {"item": item} if item else {}
    show_error(message, error.reason, as_json, code=error.code.name, **more)


@dataclass
class _Cause:
    """What went wrong, without the names of what it concerns; the first error as it came, and the items."""

    message: str
    first: "MdmError"
    items: list[str] = field(default_factory=list)


class Failures:
    """Collects failures and writes them at the end: a cause that several items share is written once, with a count."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], _Cause] = {}
        self.errors: list[MdmError] = []

    def add(self, item: str, error: "MdmError", names: Iterable[str] = ()) -> None:
        """Add a failure of an item; `names` are other words of the message for the same item, such as its GUID and its path."""
        self.errors.append(error)
        message = _without(error.message, [item, *names])
        cause = self._causes.setdefault((error.reason, message), _Cause(message, error))
        cause.items.append(item)

    def show(self, as_json: bool) -> None:
        """Write each cause to standard error: with the first item in the line, with all of them as JSON."""
        for cause in self._causes.values():
            count = len(cause.items)
            if count == 1:
                show_client_error(cause.first, as_json, cause.items[0])
                continue
            named = "" if as_json else f" (such as {cause.items[0]})"
            facts = {"code": cause.first.code.name, "count": count, "items": cause.items} if as_json else {}
            show_error(f"{count} files: {cause.message}{named}", cause.first.reason, as_json, **facts)


def _without(message: str, names: Iterable[str]) -> str:
    """Return the message without the names: what it says of each of the items."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        message = message.removeprefix(f"{name}: ").replace(f" {name}: ", " ").replace(name, "it")
    return message


@contextmanager
def about(item: str) -> Iterator[None]:
    """Let the errors of a block begin with the item they concern, where they do not name it."""
    try:
        yield
    except _client_errors() as error:
        raise (error if item in error.message else error.at(item)) from None


def run(command: Callable[[], Any], as_json: bool) -> int:
    """Run a command and return its exit code; whatever goes wrong becomes one clear error.

    A reader that goes away, such as `head`, ends it without a word, as it ends other programs.
    """
    _raise_on_sigterm()
    logging.getLogger("mdm_client").handlers = [_Warnings(as_json)]
    try:
        code = _run(command, as_json)
        sys.stdout.flush()
    except (BrokenPipeError, PipeClosed):
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        _drop_output()
        show_error(f"standard output: {error.strerror}", "LOCAL_FILE", as_json)
        return SOME_FAILED
    return code


def _run(command: Callable[[], Any], as_json: bool) -> int:
    """Run a command; write what went wrong, and return its exit code.

    Raises:
        OSError: standard output or standard error cannot be written.
    """
    try:
        result = command()
    except _client_errors() as error:
        show_client_error(error, as_json)
        return exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        if as_json:
            show_error("name a command", "USAGE", as_json)
        else:
            click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        words = error.ctx.command_path.split()[1:] if error.ctx else []  # without the program's name
        show_error(f"{error.format_message()} ({' '.join(['mdm', *words, '--help'])})", "USAGE", as_json)
        return USAGE
    except click.ClickException as error:
        show_error(error.format_message(), "USAGE", as_json)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, Interrupted):
        if sys.stderr.isatty():
            click.echo(err=True)  # behind ^C
        show_error("interrupted", "INTERRUPTED", as_json)
        return INTERRUPTED
    except Terminated:
        show_error("terminated", "TERMINATED", as_json)
        return TERMINATED
    except OSError as error:
        if error.filename is None:
            raise
        show_error(f"{os.fsdecode(error.filename)}: {error.strerror}", "LOCAL_FILE", as_json)
        return SOME_FAILED
    except Exception as error:
        if os.environ.get("MDM_DEBUG"):
            raise
        show_error(f"a defect in mdm: {type(error).__name__}: {error}; MDM_DEBUG=1 shows where", "CLIENT_DEFECT", as_json)
        return DEFECT
    return result if isinstance(result, int) else OK


def _drop_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would try to write it once more, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _client_errors() -> "tuple[type[MdmError], ...]":
    """Return what to catch; while the SDK's errors are not imported, nothing can have raised one."""
    module = sys.modules.get("mdm_wire.errors")
    return (module.MdmError,) if module else ()


def _raise_on_sigterm() -> None:
    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
