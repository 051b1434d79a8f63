"""Exit codes, and errors as one line or one JSON object; errors of many items grouped by cause."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    **dict.fromkeys(("Invalid", "FailedPrecondition"), USAGE),
    **dict.fromkeys(("NotFound", "Forbidden"), NOT_FOUND),
    **dict.fromkeys(("Unavailable", "TimedOut", "Exhausted", "Aborted"), UNAVAILABLE),
    "Unauthenticated": UNAUTHENTICATED,
    "Cancelled": INTERRUPTED,
}


class _Warnings(logging.Handler):
    """Writes warnings of the SDK, such as that a keystore is left out, once each."""

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
    """SIGTERM was received."""


class Interrupted(BaseException):
    """Control-C was pressed. For KeyboardInterrupt click writes an empty line, also where JSON is expected."""


class PipeClosed(BaseException):
    """The reader of standard output has disconnected. For BrokenPipeError click ends the process with exit code 1."""


def exit_code(error: "MdmError") -> int:
    """Return the exit code of a command that failed with `error`."""
    if error.reason == "COLLECTION_NOT_FOUND":  # a query that names one is an invalid argument to the service
        return NOT_FOUND
    return _EXIT_CODES.get(type(error).__name__, SOME_FAILED)


def exit_code_of_items(total: int, failures: "list[MdmError]") -> int:
    """Return the exit code of a command on many items: if all failed, that of the first error; if some did, 1."""
    if not failures:
        return OK
    return exit_code(failures[0]) if len(failures) == total else SOME_FAILED


def report_items(items: Sequence[str], errors: "Sequence[MdmError | None]", as_json: bool) -> int:
    """Write the error of each item that failed; return the exit code."""
    failures = [(item, error) for item, error in zip(items, errors, strict=True) if error is not None]
    for item, error in failures:
        show_client_error(error, as_json, item)
    return exit_code_of_items(len(items), [error for _, error in failures])


def show_error(message: str, reason: str, as_json: bool, **more: Any) -> None:
    """Write an error to standard error: one line, or one JSON object."""
    if as_json:
        line = json.dumps({"reason": reason, "message": message, **more}, ensure_ascii=False)
    else:
        line = f"mdm: {' '.join(message.split())}"
    click.echo(line, err=True)


def show_client_error(error: "MdmError", as_json: bool, item: str = "") -> None:
    """Write a MdmError to standard error, beginning with `item` where the message does not name it."""
    message = error.message if not item or item in error.message else f"{item}: {error.message}"
    more = {"item": item} if item else {}
    show_error(message, error.reason, as_json, code=error.code.name, **more)


class Failures:
    """Collects failures and writes each cause once, with the number of its items."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], list[tuple[str, MdmError]]] = {}
        self.errors: list[MdmError] = []

    def add(self, item: str, error: "MdmError", names: Iterable[str] = ()) -> None:
        """Add the failure of an item; `names` are other names of it in the message, such as its GUID and its path."""
        self.errors.append(error)
        self._causes.setdefault((error.reason, _without(error.message, [item, *names])), []).append((item, error))

    def show(self, as_json: bool) -> None:
        """Write each cause to standard error: a line with the first item, or JSON with all items."""
        for (reason, message), failed in self._causes.items():
            (item, error), count = failed[0], len(failed)
            if count == 1:
                show_client_error(error, as_json, item)
            elif as_json:
                items = [name for name, _ in failed]
                show_error(f"{count} files: {message}", reason, as_json, code=error.code.name, count=count, items=items)
            else:
                show_error(f"{count} files: {message} (such as {item})", reason, as_json)


def _without(message: str, names: Iterable[str]) -> str:
    """Return the message without the names of an item."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        message = message.removeprefix(f"{name}: ").replace(f" {name}: ", " ").replace(name, "it")
    return message


@contextmanager
def about(item: str) -> Iterator[None]:
    """Let the errors of a block begin with `item`, where they do not name it."""
    try:
        yield
    except _client_errors() as error:
        raise (error if item in error.message else error.at(item)) from None


def run(command: Callable[[], Any], as_json: bool) -> int:
    """Run a command and return its exit code; every exception becomes one clear error.

    If the reader of standard output disconnects, such as `head`, the command ends without an error, as other programs do.
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
    except KeyboardInterrupt:  # after the command itself has ended
        return INTERRUPTED
    return code


def _run(command: Callable[[], Any], as_json: bool) -> int:
    """Run a command, write its error, and return its exit code; an OSError is one of standard output or standard error."""
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
            click.echo(err=True)  # after ^C
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
    """Discard what is still buffered: the interpreter would try to write it once more, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _client_errors() -> "tuple[type[MdmError], ...]":
    """Return the exceptions to catch: none while the SDK's errors are not imported, because nothing can have raised one."""
    module = sys.modules.get("mdm_wire.errors")
    return (module.MdmError,) if module else ()


def _raise_on_sigterm() -> None:
    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
