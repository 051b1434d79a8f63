"""An encoder of its own for building inputs, so that the engine is not tested with itself; and the engine's parts."""

import dataclasses
import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import data_store
import pydicom
import pytest
from mdm_deid import Deidentifier, Profile, Pseudonymiser
from mdm_testing.process import require_program

LONG = ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]
CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = {
    "implicit": ("1.2.840.10008.1.2", False, "<"),
    "explicit": ("1.2.840.10008.1.2.1", True, "<"),
    "big": ("1.2.840.10008.1.2.2", True, ">"),
    "deflated": ("1.2.840.10008.1.2.1.99", True, "<"),
}


class Builder:
    """Writes elements, items and Part 10 files in one transfer syntax."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.syntax, self.explicit, self.order = SYNTAXES[name]

    def element(self, tag: int, vr: str, value: bytes, undefined: bool = False) -> bytes:
        value += b"\0" * (len(value) % 2)
        length = 0xFFFFFFFF if undefined else len(value)
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            head += struct.pack("<I", length)
        elif vr in LONG:
            head += vr.encode() + b"\0\0" + struct.pack(self.order + "I", length)
        else:
            head += vr.encode() + struct.pack(self.order + "H", length)
        return head + value + (struct.pack(self.order + "HHI", 0xFFFE, 0xE0DD, 0) if undefined else b"")

    def item(self, content: bytes, undefined: bool = False) -> bytes:
        pack = lambda tag, length: struct.pack(self.order + "HHI", 0xFFFE, tag, length)  # noqa: E731
        if undefined:
            return pack(0xE000, 0xFFFFFFFF) + content + pack(0xE00D, 0)
        return pack(0xE000, len(content)) + content

    def file(self, elements: dict[int, bytes], sop_class: str = CT, preamble: bytes = bytes(128)) -> bytes:
        """Return a Part 10 file; UIDs of class, instance and study and a patient id are there unless given."""
        elements = {
            0x00080016: self.element(0x00080016, "UI", sop_class.encode()),
            0x00080018: self.element(0x00080018, "UI", b"1.2.3.4.5"),
            0x00100020: self.element(0x00100020, "LO", b"PATIENT-0815"),
            0x0020000D: self.element(0x0020000D, "UI", b"1.2.3.4"),
        } | elements
        body = b"".join(elements[tag] for tag in sorted(elements))
        if self.name == "deflated":
            deflater = zlib.compressobj(wbits=-15)
            body = deflater.compress(body) + deflater.flush()
        meta = Builder("explicit")
        group = meta.element(0x00020002, "UI", sop_class.encode()) + meta.element(0x00020010, "UI", self.syntax.encode())
        group += meta.element(0x00020013, "SH", b"VENDOR_CANARY") + meta.element(0x00020016, "AE", b"AE_CANARY")
        length = meta.element(0x00020000, "UL", struct.pack("<I", len(group)))
        return preamble + b"DICM" + length + group + body


@pytest.fixture(scope="session", params=list(SYNTAXES))
def builder(request: pytest.FixtureRequest) -> Builder:
    return Builder(request.param)


@pytest.fixture(scope="session")
def builders() -> dict[str, Builder]:
    return {name: Builder(name) for name in SYNTAXES}


@pytest.fixture(scope="session")
def explicit() -> Builder:
    return Builder("explicit")


@pytest.fixture(scope="session")
def implicit() -> Builder:
    return Builder("implicit")


@pytest.fixture(scope="session")
def pseudonymiser() -> Pseudonymiser:
    return Pseudonymiser(b"0123456789abcdef0123456789abcdef")


@pytest.fixture(scope="session")
def basic(pseudonymiser: Pseudonymiser) -> Deidentifier:
    return Deidentifier(Profile.shipped("basic"), pseudonymiser)


@pytest.fixture(scope="session")
def unjudged(pseudonymiser: Pseudonymiser) -> Deidentifier:
    """The basic profile without quarantine, so that every kind of object goes through the rules."""
    return Deidentifier(dataclasses.replace(Profile.shipped("basic"), rules=()), pseudonymiser)


@pytest.fixture(scope="session")
def strict(pseudonymiser: Pseudonymiser) -> Deidentifier:
    return Deidentifier(dataclasses.replace(Profile.shipped("strict"), rules=()), pseudonymiser)


@pytest.fixture(scope="session", params=["basic", "strict"])
def closed(request: pytest.FixtureRequest, unjudged: Deidentifier, strict: Deidentifier) -> Deidentifier:
    """Either profile that lets no row of the table through."""
    return {"basic": unjudged, "strict": strict}[request.param]


@pytest.fixture(scope="session")
def research(pseudonymiser: Pseudonymiser) -> Deidentifier:
    return Deidentifier(dataclasses.replace(Profile.shipped("research"), rules=()), pseudonymiser)


@pytest.fixture(scope="session")
def ct_small() -> bytes:
    return (Path(pydicom.__file__).parent / "data/test_files/CT_small.dcm").read_bytes()


@pytest.fixture(scope="session")
def real_files() -> list[Path]:
    """Every DICOM file that pydicom and pydicom-data install; read from disk, nothing is downloaded."""
    folders = (Path(pydicom.__file__).parent / "data/test_files", Path(data_store.__file__).parent / "data")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if path.read_bytes()[128:132] == b"DICM"]


@cache
def errors_of(path: Path) -> frozenset[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return frozenset(re.sub(r"UID (<[^>]*>|[0-9.]+)", "UID", line) for line in lines if line.startswith("Error"))


@pytest.fixture
def new_errors() -> Callable[[Path, Path], list[str]]:
    """What dciodvfy has against an output and not against its input, without the UIDs it quotes."""
    require_program("dciodvfy", "dicom3tools")
    return lambda before, after: sorted(errors_of(after) - errors_of(before))
