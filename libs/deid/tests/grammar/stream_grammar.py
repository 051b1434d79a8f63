"""Builds compressed frames, colour profiles and encapsulation by their grammars, with a text in every place where one can be.

`Grammar(random)` makes one choice after the other, so that a seed or hypothesis can repeat them. `odd` says whether a rule was broken:
what is not odd must be released, what is released must not have the text.
"""

import io
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import jpeg_ls
import numpy as np
from PIL import Image, ImageCms

TEXT = b"Wendeline Ostrogard, Kerkstraat 12, Haarlem"
ROWS, COLUMNS = 16, 24
JPEG, JPEG_LS, JPEG_2000, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.80", "4.90", "5"))
_SOI, _EOI, _SOS, _SOF, _DQT = 0xD8, 0xD9, 0xDA, 0xC0, 0xDB


def segment(marker: int, payload: bytes) -> bytes:
    """Return a marker segment of JPEG or JPEG 2000."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def pixels(seed: int, samples: int) -> np.ndarray:
    """Return an image that is neither flat nor noise."""
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    planes = [(rows * (7 + seed % 5) + columns * (3 + sample)) % 256 for sample in range(samples)]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    return image if samples > 1 else image[:, :, 0]


def jpeg_parts(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and bytes of each part of a plain frame; coded data belong to their SOS."""
    yield _SOI, frame[:2]
    at = 2
    while frame[at + 1] != _EOI:
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at + 1] == _SOS:
            while not (frame[end] == 0xFF and frame[end + 1] >= 0x80 and frame[end + 1] not in range(0xD0, 0xD8)):
                end += 1
        yield frame[at + 1], frame[at:end]
        at = end
    yield _EOI, frame[at : at + 2]


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    long = vr in (b"OB", b"OW", b"OV", b"OF", b"SQ")
    return (
        struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
        + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value)))
        + value
    )


def dicom(syntax: str, items: bytes, samples: int, frames: int, more: dict[int, bytes] | None = None) -> bytes:
    """Return a Part 10 file with encapsulated pixel data; `items` come without the delimiter."""
    number = lambda value: struct.pack("<H", value)  # noqa: E731
    photometric = {1: b"MONOCHROME2", 3: b"RGB" if syntax == RLE else b"YBR_RCT" if syntax == JPEG_2000 else b"YBR_FULL_422"}[samples]
    values = {
        (0x00080016, b"UI"): b"1.2.840.10008.5.1.4.1.1.77.1.1",
        (0x00080018, b"UI"): b"1.2.3.4.5",
        (0x0020000D, b"UI"): b"1.2.3.4",
        (0x00280002, b"US"): number(samples),
        (0x00280004, b"CS"): photometric,
        (0x00280008, b"IS"): str(frames).encode(),
        (0x00280010, b"US"): number(ROWS),
        (0x00280011, b"US"): number(COLUMNS),
        (0x00280100, b"US"): number(8),
        (0x00280101, b"US"): number(8),
        (0x00280102, b"US"): number(7),
        (0x00280103, b"US"): number(0),
    }
    if samples == 3:
        values[0x00280006, b"US"] = number(0)
    values |= {(tag, b"OV" if tag >> 16 == 0x7FE0 else b"OB"): value for tag, value in (more or {}).items()}
    body = b"".join(_element(tag, vr, value) for (tag, vr), value in sorted(values.items()))
    body += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    meta = _element(0x00020002, b"UI", values[0x00080016, b"UI"]) + _element(0x00020010, b"UI", syntax.encode())
    return bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta + body


class Grammar:
    """Makes one input; every method takes its choices from the same source."""

    def __init__(self, source: random.Random, may_be_odd: bool = True) -> None:
        self._random = source
        self._may_be_odd = may_be_odd
        self.odd = False

    def pick(self, *options: Any) -> Any:
        return options[self._random.randrange(len(options))]

    def often(self) -> bool:
        return self._random.randrange(3) > 0

    def breaks(self) -> bool:
        """Return whether a rule is to be broken here, and note it."""
        broken = self._may_be_odd and self._random.randrange(24) == 0
        self.odd |= broken
        return broken

    def text(self) -> bytes:
        return self.pick(b"", b"note: ", bytes(3)) + TEXT + self.pick(b"", b"\0", b"\xff\xd9", b"\xff\xfe\0\2")

    # JPEG and JPEG-LS

    def jpeg(self) -> tuple[bytes, int]:
        """Return a JPEG frame and its samples per pixel."""
        samples, buffer = self.pick(1, 3), io.BytesIO()
        mode = {"quality": self.pick(40, 90), "progressive": self.pick(False, True), "restart_marker_blocks": self.pick(0, 1)}
        Image.fromarray(pixels(self._random.randrange(9), samples)).save(buffer, "JPEG", **mode)
        return self._adorned(buffer.getvalue()), samples

    def jpeg_ls(self) -> tuple[bytes, int]:
        """Return a JPEG-LS frame and its samples per pixel."""
        frame = jpeg_ls.encode(np.ascontiguousarray(pixels(self._random.randrange(9), 1)))
        return self._adorned(bytes(frame), segment(0xE8, b"mrfx\0" + self.text())), 1

    def _adorned(self, frame: bytes, first: bytes = b"") -> bytes:
        out = b""
        for marker, part in jpeg_parts(frame):
            if marker == _SOI:
                out += part + first
                continue
            # CharLS reads nothing between the only scan and the end.
            if marker != _EOI or not first:
                out += b"".join(self._extra() for _ in range(self.pick(0, 0, 1, 2))) + self._fill()
            if marker == _EOI and self.breaks():
                return out + self.pick(b"", self.text())
            if marker == _SOS and self.breaks():
                part += self.text()
            out += part
        if self.breaks():
            return out + self.pick(frame, b"\xff\xd8" + self._extra())
        return out + self.pick(b"", b"", self.text().replace(b"\xff\xd8", b""), b"\xff" * 5)

    def _fill(self) -> bytes:
        return b"\xff" * self.pick(0, 0, 1, 2, 7)

    def _extra(self) -> bytes:
        """Return a segment that no decoder needs, or one that breaks the grammar."""
        if self.breaks():
            return self._broken_segment()
        text = self.text()
        return self._fill() + self.pick(
            segment(0xFE, text),
            segment(0xE1, b"Exif\0\0" + text),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text),
            segment(0xE2, b"ICC_PROFILE\0\1\1" + text),
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\3\3" + (text * 3)[:27]),
            segment(0xE0, b"JFIF\0\1\1" + text[:5] + bytes(2)),
            segment(0xE0, b"JFXX\0\x10" + text),
            segment(0xED, b"Photoshop 3.0\0" + text),
            segment(0xEE, b"Adobe" + text[:6] + b"\1" + text),
            segment(0xE8, b"SPIFF\0\1\2\0\3" + (text * 2)[:20]),
            segment(0xE8, b"\0\0\0\1" + text),
            segment(self._random.randrange(0xE0, 0xF0), text),
        )

    def _broken_segment(self) -> bytes:
        text = self.text()
        return self.pick(
            b"\xff\xfe\0\1" + text,
            b"\xff\xfe\xff\xf0" + text,
            b"\xff\x01" + text,
            segment(0x02, text),
            segment(0xF0, text),
            segment(0xDE, text),
            segment(_DQT, b"\3" + (text * 2)[:64]),
            segment(0xC4, b"\0" + b"\0\0\0\0\0" + bytes([len(text)]) + bytes(10) + text),
            segment(0xF8, b"\2\1\1" + text),
            segment(0xDD, b"\0\0" + text),
            segment(_SOF, b"\x08\0\x10\0\x18\1\1\x11\0" + text),
            text,
            b"\0" + segment(0xFE, text),
            b"\xff\0" + text,
            b"\xff\xd8" + segment(0xFE, text),
            b"\xff\xd0" + text,
        )

    # JPEG 2000

    def jpeg_2000(self) -> tuple[bytes, int]:
        """Return a codestream, some in a JP2 file, and its samples per pixel."""
        samples, buffer = self.pick(1, 3), io.BytesIO()
        mode = {"tile_size": self.pick((COLUMNS, ROWS), (8, 8)), "plt": self.pick(False, True), "num_resolutions": 2}
        Image.fromarray(pixels(self._random.randrange(9), samples)).save(buffer, "JPEG2000", no_jp2=True, **mode)
        if self.often():
            return self._codestream(buffer.getvalue(), may_be_open=True), samples
        return self._jp2(self._codestream(buffer.getvalue(), may_be_open=False), samples), samples

    def _codestream(self, frame: bytes, may_be_open: bool) -> bytes:
        at, out, open_end = 2, frame[:2], False
        while frame[at + 1] != 0x90:
            end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
            out += frame[at:end] + b"".join(self._extra_2000() for _ in range(self.pick(0, 0, 1, 2)))
            at = end
        while frame[at + 1] == 0x90:
            length = int.from_bytes(frame[at + 6 : at + 10], "big") or len(frame) - 2 - at
            extra = b"".join(self._extra_2000() for _ in range(self.pick(0, 0, 1)))
            body = frame[at + 12 : at + length] + (self.text() if self.breaks() else b"")
            open_end = self.pick(False, may_be_open and at + length == len(frame) - 2)
            said = 0 if open_end else 12 + len(extra) + len(body)
            said += self.pick(5, 1000) if self.breaks() else 0
            out += frame[at : at + 6] + struct.pack(">I", said) + frame[at + 10 : at + 12] + extra + body
            at += length
        if self.breaks():
            return out + self.text()
        # OpenJPEG takes an open end for the end of the file.
        after = b"" if open_end else self.pick(b"", b"", b"\0", TEXT)
        return out + b"\xff\xd9" + (frame if self.breaks() else after)

    def _extra_2000(self) -> bytes:
        text = self.text()
        if self.breaks():
            broken = (
                segment(0x66, text),
                segment(0xFE, text),
                b"\xff\x64\0\1" + text,
                b"\xff\x64\xff\xf0" + text,
                text,
                b"\xff\x30" + text,
            )
            return self.pick(*broken, segment(0x53, text), segment(0x63, TEXT[:19]), segment(0x52, bytes(10) + text))
        return self.pick(*(segment(0x64, registration + text) for registration in (b"\0\0", b"\0\1", b"Wd")))

    def _jp2(self, codestream: bytes, samples: int) -> bytes:
        box = self._box
        text, colours = self.text(), struct.pack(">I", 16 if samples == 3 else 17)
        size = struct.pack(">IIHBBBB", ROWS, COLUMNS, samples, 7, 7, 0, 0)
        profile = b"colr", b"\2\0\0" + self.profile() if samples == 3 and self.often() else b"\1\0\0" + colours
        head = box(b"ihdr", size) + box(*profile) + self.pick(b"", box(b"xml ", text), box(b"uuid", text))
        out = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 " + self.pick(b"", TEXT[:4])) + box(b"jp2h", head)
        for _ in range(self.pick(0, 1, 2)):
            kind = self.pick(b"xml ", b"uuid", b"asoc", b"lbl ", b"jp2i", b"uinf", b"free", b"nota")
            out += struct.pack(">I4sQ", 1, kind, 16 + len(text)) + text if self.pick(False, True) else box(kind, text)
        if self.breaks():
            out += self.pick(text, struct.pack(">I", 5) + text, box(b"jp2c", codestream), struct.pack(">I", 1 << 20) + b"xml " + text)
        if self.pick(False, True):
            return out + bytes(4) + b"jp2c" + codestream
        return out + box(b"jp2c", codestream) + self.pick(b"", box(b"xml ", text))

    @staticmethod
    def _box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    # RLE

    def rle(self) -> tuple[bytes, int]:
        """Return an RLE frame and its samples per pixel."""
        samples = self.pick(1, 3)
        image = pixels(self._random.randrange(9), samples).reshape(ROWS * COLUMNS, samples)
        header, body = [samples], b""
        for sample in range(samples):
            header.append(64 + len(body))
            plane = image[:, sample].tobytes()
            coded = b"".join(bytes([len(part) - 1]) + part for part in (plane[at : at + 100] for at in range(0, len(plane), 100)))
            coded += self.pick(b"", b"\x80", TEXT)
            if self.breaks():
                coded = self.pick(coded[: len(coded) // 2], b"\x03abcd" + coded)
            body += coded + b"\0" * (len(coded) % 2)
        unused = bytes(60 - 4 * samples)
        if self.breaks():
            unused = TEXT[: len(unused)]
            header[0] += self.pick(0, 1)
        if self.breaks():
            header[1] += 64
            body = (TEXT * 2)[:64] + body
        return struct.pack(f"<{samples + 1}I", *header) + unused + body, samples

    # Colour profiles

    def profile(self) -> bytes:
        """Return an ICC profile with texts."""
        original = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        count = int.from_bytes(original[128:132], "big")
        entries = [struct.unpack_from(">4sII", original, 132 + 12 * number) for number in range(count)]
        contents = [(name, original[at : at + size]) for name, at, size in entries if name not in (b"desc", b"cprt")]
        for name in (b"desc", b"cprt", self.pick(b"dmnd", b"vued", b"meta", b"mmod", TEXT[:4])):
            contents.append((name, b"text\0\0\0\0" + TEXT + b"\0"))
        if self.breaks():
            contents.append((b"lumi", self.pick(b"text\0\0\0\0", b"none") + TEXT))
        table, body, start = b"", b"", 132 + 12 * len(contents)
        for name, content in contents:
            gap = self.pick(b"", b"", TEXT)
            longer = content + self.pick(b"", TEXT)
            table += struct.pack(">4sII", name, start + len(body) + len(gap), len(longer) + (1 << 16 if self.breaks() else 0))
            body += gap + longer
        head = bytearray(original[:128])
        head[48:56], head[80:84] = TEXT[:8], TEXT[:4]
        head[:4] = struct.pack(">I", start + len(body))
        return bytes(head) + struct.pack(">I", len(contents)) + table + body + self.pick(b"", TEXT)

    # Encapsulation

    def encapsulated(self, frames: list[bytes]) -> tuple[bytes, dict[int, bytes]]:
        """Return the items of pixel data, and the values of an extended offset table if there is one."""
        fragments, starts, split = list[bytes](), list[int](), False
        for frame in frames:
            whole = frame + b"\0" * (len(frame) % 2)
            cut = self._random.randrange(2, len(whole), 2) if self.pick(False, False, True) else 0
            starts.append(sum(8 + len(fragment) for fragment in fragments))
            fragments += [whole[:cut], whole[cut:]] if cut else [whole]
            split |= bool(cut)
        needs_table = split and len(frames) > 1
        table = struct.pack(f"<{len(starts)}I", *starts) if needs_table or self.pick(False, True) else b""
        if self.breaks():
            table = self.pick((TEXT * 2)[: 4 * len(frames)], TEXT[:40], b"" if needs_table else TEXT[:4])
        extended = dict[int, bytes]()
        if not table and not split and self.pick(False, True):
            lengths = [len(frame) for frame in frames]
            extended = {0x7FE00001: struct.pack(f"<{len(starts)}Q", *starts), 0x7FE00002: struct.pack(f"<{len(lengths)}Q", *lengths)}
            if self.pick(False, True):
                extended[self.pick(*extended)] = TEXT + b"\0" * (-len(TEXT) % 8)
        items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content for content in (table, *fragments))
        return items, extended


FORMATS: dict[str, Callable[[Grammar], tuple[bytes, int]]] = {
    JPEG: Grammar.jpeg,
    JPEG_LS: Grammar.jpeg_ls,
    JPEG_2000: Grammar.jpeg_2000,
    RLE: Grammar.rle,
}
