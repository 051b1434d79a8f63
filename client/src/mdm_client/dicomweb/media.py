"""Media types: what a request accepts, what a part is sent as, and multipart bodies."""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian

JSON, DICOM, OCTETS, ANY = "application/dicom+json", "application/dicom", "application/octet-stream", "*/*"
_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*("[^"]*"|[^;]*)')
#: What frames of each transfer syntax are, PS3.18 table 8.7.3-5.
_FRAME_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (102, 103, 104, 105, 106)), "video/mp4"),
}


@dataclass(frozen=True)
class Accepted:
    """One media type that a request accepts: of a multipart answer, that of its parts. `syntax` is empty where none is named."""

    type: str
    multipart: bool
    syntax: str = ""

    def allows(self, media_type: str) -> bool:
        """Return whether it is, or stands for, this media type."""
        group = media_type.partition("/")[0]
        return self.type in (media_type, ANY, f"{group}/*")


def parse_accept(text: str) -> list[Accepted]:
    """Return what an Accept header, or the parameter that takes its place, names, in order; nothing named is anything."""
    found = []
    for element in _ELEMENT.findall(text):
        name = element.partition(";")[0].strip().lower()
        parameters = {key.lower(): value.strip().strip('"') for key, value in _PARAMETER.findall(element)}
        if name == "multipart/related":
            found.append(Accepted(parameters.get("type", ANY).lower(), True, parameters.get("transfer-syntax", "")))
        elif name:
            found.append(Accepted(name, False, parameters.get("transfer-syntax", "")))
    return found or [Accepted(ANY, False, "*")]


def choose(accepted: Iterable[Accepted], offered: Iterable[str]) -> tuple[str, bool] | None:
    """Return the first media type offered that is accepted, and whether in parts; None if none is."""
    offers = list(offered)
    for wanted in accepted:
        for offer in offers:
            if wanted.allows(offer):
                return offer, wanted.multipart
    return None


@dataclass(frozen=True)
class FrameForm:
    """How frames are sent: their media type, transfer syntax, whether they are decoded for it, and whether in parts."""

    type: str
    syntax: str
    decoded: bool
    multipart: bool


def frame_form(accepted: Iterable[Accepted], stored: str) -> FrameForm | None:
    """Return how frames stored in a transfer syntax are sent; None if no accepted form is possible.

    They go as they are stored wherever that is accepted; a request for octets that names no transfer syntax means little endian.
    """
    native = _FRAME_TYPES.get(stored, OCTETS)
    plain = str(ExplicitVRLittleEndian)
    for wanted in accepted:
        bare = wanted.type == OCTETS and not wanted.syntax
        if wanted.syntax in ("", "*", stored) and (not bare or stored == plain):
            for kind in (OCTETS, native) if wanted.type == OCTETS else (native, OCTETS):
                if wanted.allows(kind):
                    return FrameForm(kind, stored, False, wanted.multipart or wanted.type == ANY)
        if wanted.allows(OCTETS) and (bare or wanted.syntax == plain):
            return FrameForm(OCTETS, plain, True, wanted.multipart or wanted.type == ANY)
    return None


class Multipart:
    """A multipart/related body in pieces, so that no part is copied."""

    def __init__(self, media_type: str) -> None:
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self._boundary}'

    def part(self, headers: Mapping[str, str], body: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """Yield a part."""
        lines = [f"--{self._boundary}", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}", "", ""]
        yield "\r\n".join(lines).encode()
        yield body
        yield b"\r\n"

    def end(self) -> bytes:
        """Return what follows the last part."""
        return f"--{self._boundary}--\r\n".encode()
