"""Rules for logical file names."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NewType

from mdm_wire.errors import Invalid

MAX_PATH_BYTES = 1023
MAX_NAME_BYTES = 255

# An absolute path that keeps every rule of `parse`; "/" is the root.
Lfn = NewType("Lfn", str)

ROOT = Lfn("/")
# C0, DEL, C1, and the two separators that break a line: none may reach a terminal or a log through a name.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DOTS = re.compile(r"/\.\.?(/|$)")


def parse(text: str) -> Lfn:
    """Return `text` as an LFN.

    Raises:
        Invalid: LFN_INVALID: it is not absolute, is too long, is not UTF-8 or not in Unicode NFC, or contains an empty name, `.`, `..`
            or a control character.
    """
    if not text.startswith("/"):
        raise _invalid("it must be absolute: start it with '/'")
    if text == "/":
        return ROOT
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _invalid("it is not valid UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise _invalid(f"it is too long: a path has at most {MAX_PATH_BYTES:,} bytes")
    if "//" in text or text.endswith("/"):
        raise _invalid("a name is empty: write one '/' between names and none at the end")
    if "/." in text and _DOTS.search(text):
        raise _invalid("'.' and '..' are refused: write the path out")
    if not (text.isascii() and text.isprintable()):
        if _CONTROL.search(text):
            raise _invalid("control characters are refused")
        if not unicodedata.is_normalized("NFC", text):
            raise _invalid("it must be in Unicode normalisation form C (NFC)")
    if size > MAX_NAME_BYTES and any(len(name.encode()) > MAX_NAME_BYTES for name in text.split("/")):
        raise _invalid(f"it is too long: a name has at most {MAX_NAME_BYTES} bytes")
    return Lfn(text)


def split(lfn: Lfn) -> tuple[Lfn, str]:
    """Return the parent directory and the last name; for the root itself and an empty name."""
    parent, _, name = lfn.rpartition("/")
    return Lfn(parent or "/"), name


def join(parent: str, name: str) -> Lfn:
    """Return the path of `name` in the directory `parent`."""
    return Lfn(f"/{name}" if parent == "/" else f"{parent}/{name}")


def names(lfn: Lfn) -> tuple[str, ...]:
    """Return the names from the root down; none for the root.

    Comparing these tuples gives the order of listings: a directory, then its contents; siblings by the bytes of their names.
    """
    return () if lfn == ROOT else tuple(lfn[1:].split("/"))


def ancestors(lfn: Lfn) -> list[Lfn]:
    """Return the directories above `lfn`, from the root down; none for the root."""
    found: list[Lfn] = []
    while lfn != ROOT:
        lfn, _ = split(lfn)
        found.append(lfn)
    return found[::-1]


def parse_link(text: str) -> str:
    """Return `text`, the path that a symbolic link points to: an LFN, or a path relative to the link's directory.

    `..` is allowed only at the beginning of a relative path, where it means the same however the directories are linked.

    Raises:
        Invalid: it is empty or breaks the rules of LFNs.
    """
    if text.startswith("/"):
        return parse(text)
    rest = text
    while rest.startswith("../"):
        rest = rest[3:]
    if rest != "..":
        parse(f"/{rest}")
    if not rest or len(text.encode()) > MAX_PATH_BYTES:
        raise _invalid("the path of a link has 1 to 1,023 bytes")
    return text


def follow(directory: Lfn, link: str, below: Sequence[str] = ()) -> Lfn:
    """Return the path that a link in `directory` points to, followed by the names `below`; above the root is the root.

    Raises:
        Invalid: LFN_INVALID: it would be too long.
    """
    parts = [] if link.startswith("/") else list(names(directory))
    for name in link.strip("/").split("/") if link != "/" else ():
        if name == "..":
            del parts[-1:]
        else:
            parts.append(name)
    return parse("/" + "/".join((*parts, *below)))


def _invalid(problem: str) -> Invalid:
    return Invalid("LFN_INVALID", f"Not a valid LFN: {problem}.")
