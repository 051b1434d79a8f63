"""Makers' private containers (Siemens, GE), built anew from the numbers that converters need."""

import gzip
import re
import struct
import zlib
from typing import Final, NamedTuple

_NUMBER: Final = r"[-+]?[0-9]{1,12}(\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})?"
_ICE: Final = r"(X|[0-9]{1,4})(_[0-9]{1,7}){11,12}"
# Elements of the image header that dcm2niix reads (nii_dicom.cpp, readCSAImageHeader), with B_matrix and the directionality
# that PS3.15 table E.3.10-1 lists, and the form of their items.
_ELEMENTS: Final = {
    "B_matrix": _NUMBER,
    "B_value": _NUMBER,
    "BandwidthPerPixelPhaseEncode": _NUMBER,
    "DiffusionDirectionality": "DIRECTIONAL|BMATRIX|ISOTROPIC|NONE",
    "DiffusionGradientDirection": _NUMBER,
    "ICE_Dims": _ICE,
    "ImaRelTablePosition": _NUMBER,
    "MosaicRefAcqTimes": _NUMBER,
    "NumberOfImagesInMosaic": _NUMBER,
    "PhaseEncodingDirectionPositive": _NUMBER,
    "ProtocolSliceNumber": _NUMBER,
    "RealDwellTime": _NUMBER,
    "SliceMeasurementDuration": _NUMBER,
    "SliceNormalVector": _NUMBER,
    "TimeAfterStart": _NUMBER,
}
_FORMS: Final = {name: re.compile(form).fullmatch for name, form in _ELEMENTS.items()}
_PROTOCOLS: Final = frozenset({"MrPhoenixProtocol", "MrProtocol"})
# Keys of the protocol that dcm2niix reads as numbers (nii_dicom_batch.cpp, siemensCsaAscii); the transmitter's amplitude, which
# follows the patient's weight, is left out.
_KEYS: Final = re.compile(
    r"sSliceArray\.(ucImageNumb(Sag|Cor|Tra)?|ucMode|lSize)"
    r"|sKSpace\.(lPhaseEncodingLines|lBaseResolution|uc2DInterpolation|ucPhasePartialFourier|dPhaseOversamplingForDialog|dPhaseResolution)"
    r"|sFastImaging\.(lEchoSpacing|lEPIFactor)"
    r"|lInvContrasts|lContrasts|dAveragesDouble|lDelayTimeInTR|al(TE|TI|TR)\[[0-9]{1,3}\]"
    r"|sDiffusion\.(dsScheme|lDiffWeightings|lDiffDirections|ulMode|alBValue\[[0-9]{1,3}\])"
    r"|sDiffusion\.sFreeDiffusionData\.(lDiffDirections|asDiffDirVector\[[0-9]{1,4}\]\.d(Sag|Cor|Tra))"
    r"|(\w{1,32}\.)?(ucReadOutMode|ucCoilCombineMode)"
    r"|sPat\.(lAccelFactPE|lAccelFact3D|dTotalAccelFact|lRefLinesPE|ucPATMode)|sSliceAcceleration\.lMultiBandFactor"
    r"|sPrepPulses\.ucMTC|sAsl\.(sPostLabelingDelay\[0\]|ulLabelingDuration)|sWi[pP]MemBlock\.a[ld]Free\[[0-9]{1,2}\]"
    r"|sRSatArray\.asElm\[1\]\.(dThickness|ulShape|sPosition\.dTra|sNormal\.dTra)"
    r"|sGRADSPEC\.((asGPAData\[0\]\.)?lOffset[XYZ]|alShimCurrent\[[0-9]\])"
).fullmatch
_LINE: Final = re.compile(rf"([^\s=]+)\s*=\s*({_NUMBER}|0x[0-9a-fA-F]{{1,8}})\s*(#.*)?", re.ASCII).fullmatch
# Names of sequences by which dcm2niix knows arterial spin labelling and others apart.
_SEQUENCE: Final = re.compile(
    r'(tSequenceFileName)\s*=\s*("{1,2}%(?:SiemensSeq|CustomerSeq)%\\'
    r"(?:ep2d_(?:asl|bold|diff|fid|pace|pasl|se)|tgse_asl|gre|gre_field_mapping|tfl|tse|tse_vfl"
    r'|cmrr_mbep2d_(?:bold|diff|se))"{1,2})',
    re.ASCII,
).fullmatch
_SECTION: Final = re.compile(r"### ASCCONV BEGIN[^\n]*###[^\n]*\n(.*?)### ASCCONV END ###", re.DOTALL).search

_MAGIC: Final = b"SV10\x04\x03\x02\x01"
_HEAD, _TAG, _ITEM = struct.Struct("<II"), struct.Struct("<64si4siii"), struct.Struct("<iiii")
_CHECK: Final = 77
_CHECKS: Final = frozenset({77, 205})
_MOST_ELEMENTS, _MOST_ITEMS = 128, 4096
_GE_LENGTH: Final = struct.Struct("<I")
_GE_LARGEST: Final = 1 << 20
_GE_LINE: Final = re.compile(r'(?:set )?([A-Z0-9_]{2,16}) "([^"\n]*)"').fullmatch
_GE_NUMBER: Final = r"-?[0-9]{1,6}(\.[0-9]{0,6})?"
_GE_OPTIONS: Final = "EPI|FMRI|DIFF|EDR|ARC|Asset|HB|Cla|MPh|MPhVar|SqP|Fast|IrP|FC|SAT|NPW|ZIP512|ZIP2"
# Keys that dcm2niix reads (nii_dicom_batch.cpp, geProtocolBlock), and what they may say.
_GE_KEYS: Final = {
    key: re.compile(form).fullmatch
    for key, form in {
        "SLICEORDER": "[0-9]",
        "VIEWORDER": "[0-9]",
        "MBACCEL": "[0-9]{1,2}",
        "NOSLC": "[0-9]{1,4}",
        "DELACQ": f"{_GE_NUMBER}|Minimum",
        "DELACQNOAV": _GE_NUMBER,
        "PHASEDELAYS1": f"({_GE_NUMBER} ?){{1,999}}",
        "PSEQ": "Gradient Echo|Spin Echo|MP-RAGE",
        "IOPT": f"(({_GE_OPTIONS})(, )?)+",
    }.items()
}
# The record that the user defined data begin with says at 24 where the header is; in there, by version, flags of two bytes
# (nii_dicom.cpp, kUserDefineDataGE): EPI, phase encoding polarity, direction of ky.
_HEADER_AT: Final = 24
_SHIFTED_SINCE, _SHIFT, _KY_BACK = 25.002, 0x4C, 0x8C
_POLARITY, _EPI, _KY = 0x30, 0x3A, 0x394
_EPI_BIT, _POLARITY_BIT, _BOTTOM_UP = 0x800, 0x4, 2
_TAIL: Final = _KY + 2
_LONGEST_USER_DATA: Final = 1 << 16


class _Lost(Exception):
    """The container is malformed; nothing in it can be trusted."""


class _Element(NamedTuple):
    name: str
    vm: int
    vr: bytes
    syngo: int
    items: list[bytes]


def csa_numbers(value: bytes) -> bytes | None:
    """Return a CSA header with the numbers of the allowed elements only; None if it cannot be read, or none is there.

    Reads the format that begins with SV10 and the older one without, whose layout nibabel documents (nicom/csareader), and writes
    the one it read. Bytes between and after its elements are left out.
    """
    modern = value.startswith(_MAGIC[:4])
    try:
        elements = _read(value, modern)
    except (_Lost, struct.error):
        return None
    kept = [left for element in elements if (left := _allowed(element)) is not None]
    return _written(kept, modern) if kept else None


def protocol_text(value: bytes) -> bytes | None:
    """Return a protocol with the lines of its ASCCONV section that set an allowed key to a number, or name a known sequence.

    None without any.

    The text around the section, an XML-like copy of everything, is removed.
    """
    section = _SECTION(value.decode("latin-1"))
    lines = [line.strip() for line in section[1].splitlines()] if section else []
    settings = [match for line in lines if (match := _SEQUENCE(line)) or ((match := _LINE(line)) and _KEYS(match[1]))]
    kept = "".join(f"{setting[1]}\t = \t{setting[2]}\n" for setting in settings)
    # dcm2niix looks from the second byte on where it does not find a CSA header.
    return f"\n### ASCCONV BEGIN ###\n{kept}### ASCCONV END ###".encode("ascii") if kept else None


def _read(value: bytes, modern: bool) -> list[_Element]:
    if modern and not value.startswith(_MAGIC):
        raise _Lost
    count, check = _HEAD.unpack_from(value, len(_MAGIC) if modern else 0)
    pos = _HEAD.size + (len(_MAGIC) if modern else 0)
    if not 0 < count <= _MOST_ELEMENTS or check != _CHECK:
        raise _Lost
    elements: list[_Element] = []
    first = 0  # how many items the first element has: in the older format lengths are too long by that
    for _ in range(count):
        name, vm, vr, syngo, items, check = _TAG.unpack_from(value, pos)
        pos += _TAG.size
        if not 0 <= items <= _MOST_ITEMS or check not in _CHECKS:
            raise _Lost
        first = first if elements else items
        values: list[bytes] = []
        for _ in range(items):
            item, pos = _read_item(value, pos, None if modern else first)
            values.append(item)
        elements.append(_Element(_text(name), vm, vr, syngo, values))
    return elements


def _read_item(value: bytes, pos: int, surplus: int | None) -> tuple[bytes, int]:
    """Return an item's value and where the next one begins; `surplus` is what the older format's lengths have too much."""
    long, length, check, _ = _ITEM.unpack_from(value, pos)
    pos += _ITEM.size
    length = length if surplus is None else long - surplus
    if length < 0 or pos + length > len(value) or check not in _CHECKS:
        raise _Lost
    return value[pos : pos + length], pos + -(-length // 4) * 4


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("latin-1")


def _allowed(element: _Element) -> _Element | None:
    """Return the part of an element that may be kept: all items if each is well-formed; of a protocol, its numbers."""
    texts = [_text(item).strip() for item in element.items]
    if element.name in _PROTOCOLS:
        protocols = [left for text in texts if (left := protocol_text(text.encode("latin-1"))) is not None]
        return element._replace(items=protocols[:1]) if protocols else None
    form = _FORMS.get(element.name)
    if form is None or not any(texts) or not all(form(text) for text in texts if text):
        return None
    return element._replace(items=[text.encode("ascii") for text in texts])


def _written(elements: list[_Element], modern: bool) -> bytes:
    surplus = 0 if modern else len(elements[0].items)
    parts = [_MAGIC if modern else b"", _HEAD.pack(len(elements), _CHECK)]
    for element in elements:
        vm = element.vm if 0 <= element.vm <= _MOST_ITEMS else 0
        vr = element.vr[:2] if element.vr[:2].isalpha() and element.vr[:2].isupper() else b"UN"
        syngo = element.syngo if 0 <= element.syngo < 100 else 0
        parts.append(_TAG.pack(element.name.encode("ascii"), vm, vr, syngo, len(element.items), _CHECK))
        for item in element.items:
            content = item + b"\0" if item else b""
            length = len(content)
            parts += [_ITEM.pack(length + surplus, length, _CHECK, length), content, bytes(-length % 4)]
    return b"".join(parts)


def protocol_numbers(value: bytes) -> bytes | None:
    """Return a protocol data block, its length and a gzip stream of `KEY "value"` lines, with the allowed ones only.

    None if it is not that, or has none of them.
    """
    if len(value) < _GE_LENGTH.size or not _GE_LENGTH.size <= (length := _GE_LENGTH.unpack_from(value)[0]) <= len(value) - _GE_LENGTH.size:
        return None
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = inflater.decompress(value[_GE_LENGTH.size : _GE_LENGTH.size + length], _GE_LARGEST)
    except zlib.error:
        return None
    if not inflater.eof:
        return None
    kept = []
    for line in text.decode("latin-1").splitlines():
        match = _GE_LINE(line.strip())
        if match and (form := _GE_KEYS.get(match[1])) and form(match[2]):
            kept.append(f'{match[1]} "{match[2]}"\n')
    if not kept:
        return None
    # Readers look for a line break before some keys.
    packed = gzip.compress(("\n" + "".join(kept)).encode("ascii"), mtime=0)
    return _GE_LENGTH.pack(len(packed)) + packed


def user_data_numbers(value: bytes) -> bytes | None:
    """Return the user defined data with nothing but version, EPI flag, phase encoding polarity and ky direction.

    None if the header they stand in is not there.
    """
    if not _TAIL <= len(value) <= _LONGEST_USER_DATA:
        return None
    start = int.from_bytes(value[_HEADER_AT : _HEADER_AT + 2], "little")
    if start < _HEADER_AT + 2 or len(value) < start + _TAIL:
        return None
    version = struct.unpack_from("<f", value, start)[0]
    if not 5.0 <= version <= 40.0:
        return None
    moved = _SHIFT if version >= _SHIFTED_SINCE else 0
    left = bytearray(len(value))
    left[_HEADER_AT : _HEADER_AT + 2] = start.to_bytes(2, "little")
    struct.pack_into("<f", left, start, round(version, 3))
    for offset, bit in ((_POLARITY, _POLARITY_BIT), (_EPI, _EPI_BIT)):
        at = start + moved + offset
        struct.pack_into("<H", left, at, struct.unpack_from("<H", value, at)[0] & bit)
    at = start + _KY + (moved - _KY_BACK if moved else 0)
    if struct.unpack_from("<H", value, at)[0] == _BOTTOM_UP:
        struct.pack_into("<H", left, at, _BOTTOM_UP)
    return bytes(left)
