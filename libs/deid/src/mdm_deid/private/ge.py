"""GE's containers: the protocol data block and the user defined data, built anew from what converters need."""

import gzip
import re
import struct
import zlib
from typing import Final

_LENGTH: Final = struct.Struct("<I")
_LARGEST: Final = 1 << 20
_LINE: Final = re.compile(r'(?:set )?([A-Z0-9_]{2,16}) "([^"\n]*)"').fullmatch
_NUMBER: Final = r"-?[0-9]{1,6}(\.[0-9]{0,6})?"
_OPTIONS: Final = "EPI|FMRI|DIFF|EDR|ARC|Asset|HB|Cla|MPh|MPhVar|SqP|Fast|IrP|FC|SAT|NPW|ZIP512|ZIP2"
# Keys that dcm2niix reads (nii_dicom_batch.cpp, geProtocolBlock), and what they may say.
_KEYS: Final = {
    key: re.compile(form).fullmatch
    for key, form in {
        "SLICEORDER": "[0-9]",
        "VIEWORDER": "[0-9]",
        "MBACCEL": "[0-9]{1,2}",
        "NOSLC": "[0-9]{1,4}",
        "DELACQ": f"{_NUMBER}|Minimum",
        "DELACQNOAV": _NUMBER,
        "PHASEDELAYS1": f"({_NUMBER} ?){{1,999}}",
        "PSEQ": "Gradient Echo|Spin Echo|MP-RAGE",
        "IOPT": f"(({_OPTIONS})(, )?)+",
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


def protocol_numbers(value: bytes) -> bytes | None:
    """Return a protocol data block, its length and a gzip stream of `KEY "value"` lines, with the allowed ones only.

    None if it is not that, or has none of them.
    """
    if len(value) < _LENGTH.size or not _LENGTH.size <= (length := _LENGTH.unpack_from(value)[0]) <= len(value) - _LENGTH.size:
        return None
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = inflater.decompress(value[_LENGTH.size : _LENGTH.size + length], _LARGEST)
    except zlib.error:
        return None
    if not inflater.eof:
        return None
    kept = []
    for line in text.decode("latin-1").splitlines():
        match = _LINE(line.strip())
        if match and (form := _KEYS.get(match[1])) and form(match[2]):
            kept.append(f'{match[1]} "{match[2]}"\n')
    if not kept:
        return None
    # Readers look for a line break before some keys.
    packed = gzip.compress(("\n" + "".join(kept)).encode("ascii"), mtime=0)
    return _LENGTH.pack(len(packed)) + packed


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
