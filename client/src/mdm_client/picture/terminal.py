"""What a terminal can draw, by asking it; its size in characters and pixels."""

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

#: A question in kitty's protocol, the size of a character (XTWINOPS 16), and primary device attributes, which every terminal answers.
_QUESTIONS = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[16t\x1b[c"
_ATTRIBUTES = re.compile(rb"\x1b\[\?([0-9;]*)c")
_CELL = re.compile(rb"\x1b\[6;([0-9]{1,4});([0-9]{1,4})t")
_KITTY = re.compile(rb"\x1b_Gi=31;OK\x1b\\")
_SIXEL = b"4"
_ANSWER_SECONDS = 0.5
_ANSWER_BYTES = 4096
_USUAL_CELL = (10, 20)
_USUAL_SIZE = (80, 24)


@dataclass(frozen=True)
class Terminal:
    """How to draw (a name of `PROTOCOLS`), the columns and rows there are, and the pixels of one character (width, height)."""

    protocol: str
    size: tuple[int, int] = _USUAL_SIZE
    cell: tuple[int, int] = _USUAL_CELL


def detect(protocol: str = "", environment: Mapping[str, str] = os.environ) -> Terminal:
    """Return what the terminal of standard output can draw: by its answers, else by TERM and COLORTERM; `protocol` is taken as it is.

    Without a terminal, or with one of no colours, it is plain characters.
    """
    if not sys.stdout.isatty():
        return Terminal(protocol or "plain")
    size = _size()
    answer = b"" if environment.get("TERM") == "dumb" else _ask()
    cell = _cell(answer) or _cell_of_window(size)
    return Terminal(protocol or _by_answer(answer) or _by_names(environment), size, cell)


def _by_answer(answer: bytes) -> str:
    if _KITTY.search(answer):
        return "kitty"
    found = _ATTRIBUTES.search(answer)
    return "sixel" if found and _SIXEL in found[1].split(b";")[1:] else ""


def _by_names(environment: Mapping[str, str]) -> str:
    """Return the way to draw with characters that the environment's names promise (https://no-color.org, COLORTERM, terminfo's names)."""
    name = environment.get("TERM", "")
    if environment.get("NO_COLOR") or name in ("", "dumb"):
        return "plain"
    if environment.get("COLORTERM") in ("truecolor", "24bit") or name.endswith("-direct"):
        return "blocks"
    return "blocks256" if "256color" in name or name.startswith(("xterm", "screen", "tmux")) else "plain"


def _size() -> tuple[int, int]:
    with suppress(OSError):
        found = os.get_terminal_size(sys.stdout.fileno())
        if found.columns and found.lines:
            return found.columns, found.lines
    return _USUAL_SIZE


def _cell(answer: bytes) -> tuple[int, int] | None:
    found = _CELL.search(answer)
    cell = (int(found[2]), int(found[1])) if found else (0, 0)
    return cell if min(cell) > 0 else None


def _cell_of_window(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a character by the size of the window in pixels, if the terminal's driver knows it."""
    with suppress(ImportError, OSError):
        import fcntl
        import struct
        import termios

        _, _, width, height = struct.unpack("4H", fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8)))
        if width and height:
            return max(width // size[0], 1), max(height // size[1], 1)
    return _USUAL_CELL


def _ask() -> bytes:
    """Return what the terminal answers within half a second; nothing where it cannot be asked, as in the background."""
    try:
        file = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        with _unbuffered(file):
            os.write(file, _QUESTIONS)
            return _answer(file)
    except OSError:
        return b""
    finally:
        os.close(file)


def _answer(file: int) -> bytes:
    found = b""
    end = time.monotonic() + _ANSWER_SECONDS
    while (left := end - time.monotonic()) > 0 and len(found) < _ANSWER_BYTES and not _ATTRIBUTES.search(found):
        if not select.select([file], [], [], left)[0]:
            break
        part = os.read(file, 1024)
        if not part:
            break
        found += part
    return found


@contextmanager
def _unbuffered(file: int) -> Iterator[None]:
    """Have the terminal neither echo nor hold back what it is sent, as long as the block runs.

    Raises:
        OSError: it cannot be set, or this process is in the background, where setting it would stop it.
    """
    try:
        import termios
        import tty
    except ImportError:
        raise OSError("no terminal here") from None
    if os.tcgetpgrp(file) != os.getpgrp():
        raise OSError("in the background")
    try:
        before = termios.tcgetattr(file)
        tty.setcbreak(file)
    except termios.error as error:
        raise OSError("no terminal here") from error
    try:
        yield
    finally:
        termios.tcsetattr(file, termios.TCSAFLUSH, before)
