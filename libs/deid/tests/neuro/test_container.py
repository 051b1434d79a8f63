"""Containers of Siemens and GE: what is built anew holds the numbers of its list, and nothing of a container that is lost."""

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid.rules.container import csa_numbers, protocol_numbers, protocol_text, user_data_numbers

WriteCsa = Callable[..., bytes]
DIRECTION = (b"FD", [b"0.60000000", b"0.80000000", b"-0.00000001"])
# An independent reading of a header that was built anew: names, and the items that hold something.
_NAME, _HEAD = 64, 84


def read(content: bytes, modern: bool = True) -> dict[str, list[bytes]]:
    pos = 8 if modern else 0
    count, _ = struct.unpack_from("<II", content, pos)
    pos, found, first = pos + 8, {}, 0
    for number in range(count):
        name = content[pos : pos + _NAME].rstrip(b"\0").decode()
        items = struct.unpack_from("<i", content, pos + 76)[0]
        first = first if number else items
        pos, values = pos + _HEAD, []
        for _ in range(items):
            long, length = struct.unpack_from("<ii", content, pos)
            length = length if modern else long - first
            values.append(content[pos + 16 : pos + 16 + length].rstrip(b"\0"))
            pos += 16 + -(-length // 4) * 4
        found[name] = [value for value in values if value]
    assert pos == len(content)
    return found


@pytest.mark.parametrize("modern", [True, False], ids=["SV10", "older"])
def test_a_csa_header_keeps_its_numbers_and_no_text(write_csa: WriteCsa, modern: bool) -> None:
    content = write_csa(
        {
            "EchoLinePosition": (b"IS", [b"8", b"", b""]),
            "PatientName": (b"PN", [b"Doe^Jane"]),
            "UsedPatientWeight": (b"IS", [b"71"]),
            "B_value": (b"IS", [b"1000", b""]),
            "DiffusionGradientDirection": DIRECTION,
            "DiffusionDirectionality": (b"CS", [b"DIRECTIONAL"]),
            "B_matrix": (b"FD", [b"1"] * 6),
            "MosaicRefAcqTimes": (b"FD", [b"0.0", b"1.25e3", b" 500"]),
            "ImageHistory": (b"UN", [b"ChannelMixing:ND=true_CMM=1_CDM=1"]),
            "ICE_Dims": (b"LO", [b"X_1_1_1_1_1_1_1_1_1_1_1_106"]),
        },
        modern,
    )
    left = csa_numbers(content)
    assert left is not None and left.startswith(b"SV10") == modern
    assert read(left, modern) == {
        "B_value": [b"1000"],
        "DiffusionGradientDirection": DIRECTION[1],
        "DiffusionDirectionality": [b"DIRECTIONAL"],
        "B_matrix": [b"1"] * 6,
        "MosaicRefAcqTimes": [b"0.0", b"1.25e3", b"500"],
        "ICE_Dims": [b"X_1_1_1_1_1_1_1_1_1_1_1_106"],
    }
    assert csa_numbers(left) == left


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("B_value", [b"Doe"]),
        ("B_value", [b"1000 Doe"]),
        ("B_value", [b"1234567890123"]),
        ("DiffusionGradientDirection", [b"0.6", b"Doe^Jane", b"0"]),
        ("MosaicRefAcqTimes", [b"1\n2"]),
        ("DiffusionDirectionality", [b"DOE"]),
        ("ICE_Dims", [b"DOE_JANE_1_1_1_1_1_1_1_1_1_1_1"]),
        ("B_value\x00Doe", [b""]),
        ("UsedPatientWeight", [b"71"]),
        ("PatientID", [b"12345678"]),
    ],
)
def test_an_element_that_is_not_what_its_name_says_goes_whole(write_csa: WriteCsa, name: str, items: list[bytes]) -> None:
    content = write_csa({"B_matrix": (b"FD", [b"1"]), name: (b"DS", items)})
    left = csa_numbers(content)
    assert left is not None and read(left) == {"B_matrix": [b"1"]}
    assert csa_numbers(write_csa({name: (b"DS", items)})) is None


def test_text_behind_a_number_and_in_the_fields_of_an_element_goes(write_csa: WriteCsa) -> None:
    content = bytearray(write_csa({"B_value": (b"IS", [b"1000"]), "B_matrix": (b"FD", [b"1\0DOE"])}))
    content[16 + 8 : 16 + 64] = b"\0Doe^Jane" + b"Z" * 47  # behind the end of the name
    content[16 + 64 : 16 + 72] = b"JANEDOE\0"  # multiplicity and VR
    left = csa_numbers(bytes(content))
    assert left is not None
    assert not re.search(rb"Doe|JANE|DOE|ZZZ", left)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-40],
        lambda content: content[:100],
        lambda content: content.replace(b"SV10\4\3\2\1", b"SV10\1\2\3\4"),
        lambda content: b"SV11" + content[4:],
        lambda content: content[:8] + struct.pack("<I", 0) + content[12:],
        lambda content: content[:8] + struct.pack("<I", 1000) + content[12:],
        lambda content: content[:12] + struct.pack("<I", 78) + content[16:],
        lambda content: content[:92] + struct.pack("<i", -1) + content[96:],
        lambda content: content[:92] + struct.pack("<i", 1 << 30) + content[96:],
        lambda content: content[:104] + struct.pack("<i", -4) + content[108:],
        lambda content: content[:104] + struct.pack("<i", 1 << 20) + content[108:],
        lambda content: b"<XProtocol> Doe^Jane" * 20,
        lambda content: b"",
    ],
    ids=["cut", "stump", "magic", "name", "none", "many", "check", "negative", "endless", "minus", "beyond", "text", "empty"],
)
def test_a_header_in_which_the_reader_is_lost_goes_whole(write_csa: WriteCsa, spoil: Any) -> None:
    content = write_csa({"B_value": (b"IS", [b"1000"]), "DiffusionGradientDirection": DIRECTION})
    assert csa_numbers(content) is not None
    assert csa_numbers(spoil(content[: content.index(b"patient")])) is None


def test_the_protocol_in_a_header_keeps_settings_only(write_csa: WriteCsa) -> None:
    text = b'<Doe^Jane>\n### ASCCONV BEGIN ###\nsPat.lAccelFactPE = 2\ntPatientName = ""Doe""\n### ASCCONV END ###\n<Doe>'
    left = csa_numbers(write_csa({"MrPhoenixProtocol": (b"UN", [text, b""]), "tName": (b"UN", [b"Doe"])}))
    assert left is not None
    assert read(left)["MrPhoenixProtocol"] == [b"\n### ASCCONV BEGIN ###\nsPat.lAccelFactPE\t = \t2\n### ASCCONV END ###"]


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ("sKSpace.lBaseResolution = 64", True),
        ("sPat.ucPATMode\t=\t0x2", True),
        ("sWipMemBlock.adFree[4] = -2.65  # comment", True),
        ("sDiffusion.sFreeDiffusionData.asDiffDirVector[12].dSag = 0.5", True),
        (r'tSequenceFileName = ""%SiemensSeq%\ep2d_bold""', True),
        (r'tSequenceFileName = ""%CustomerSeq%\doe_ep2d""', False),
        (r'tSequenceFileName = ""%SiemensSeq%\ep2d_bold of Doe""', False),
        ('sKSpace.lBaseResolution = ""Doe""', False),
        ("sKSpace.lBaseResolution = Doe", False),
        ("sKSpace.lBaseResolution = 0xDOE", False),
        ("sPat.lAccelFactPE = 2 Doe", False),
        ("sPatient.lWeight = 71", False),
        ("lBirthDate = 19700101", False),
        ("sTXSPEC.asNucleusInfo[0].flReferenceAmplitude = 257.066", False),
        ("sPat.lAccelFactPE.Doe = 1", False),
        ("alTE[0]Doe = 1", False),
    ],
)
def test_a_line_of_a_protocol_stays_if_it_sets_a_listed_key_to_a_number(line: str, stays: bool) -> None:
    left = protocol_text(f"### ASCCONV BEGIN object=Doe ###\nlContrasts = 1\n{line}\n### ASCCONV END ###".encode())
    assert left is not None
    assert left.count(b"\n") == (4 if stays else 3)
    assert b"Doe" not in left and b"comment" not in left
    assert protocol_text(left) == left


@pytest.mark.parametrize(
    "text", [b"", b"lContrasts = 1", b"### ASCCONV BEGIN ###\nlContrasts = 1", b"### ASCCONV BEGIN ###\n### ASCCONV END ###"]
)
def test_without_a_section_nothing_of_a_protocol_stays(text: bytes) -> None:
    assert protocol_text(text) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_bytes_a_header_has_only_listed_words_and_numbers_come_out(data: st.DataObject) -> None:
    names = ["B_value", "DiffusionGradientDirection", "PatientName", "MrPhoenixProtocol"]
    parts = []
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4)):
        items = data.draw(
            st.lists(st.one_of(st.sampled_from([b"1", b"0.5", b"-2e3", b"Doe^Jane", b""]), st.binary(max_size=20)), max_size=4)
        )
        parts.append(struct.pack("<64si4siii", name.encode(), 1, b"IS", 6, len(items), 77))
        parts += [struct.pack("<iiii", len(i), len(i), 77, len(i)) + i + bytes(-len(i) % 4) for i in items]
    count = sum(len(part) == _HEAD for part in parts)
    content = bytearray(b"SV10\4\3\2\1" + struct.pack("<II", count, 77) + b"".join(parts))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    left = csa_numbers(bytes(content))
    words = set(re.findall(rb"[A-Za-z_^]{3,}", left or b""))
    listed = rb"SV10|B_value|B_matrix|Diffusion(GradientDirection|Directionality)|MrPhoenixProtocol|ASCCONV|BEGIN|END"
    assert all(re.fullmatch(listed, word) or re.fullmatch(rb"(INF|[A-Z]{2})M?", word) for word in words), left


def block(*lines: str, pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    packed = pack("\n".join(lines).encode())
    return struct.pack("<I", len(packed)) + packed


def unblock(content: bytes | None) -> list[str]:
    assert content is not None
    assert struct.unpack_from("<I", content)[0] == len(content) - 4
    assert content[4:].startswith(b"\x1f\x8b\x08\0\0\0\0\0")  # no name, no comment, no time
    return gzip.decompress(content[4:]).decode("ascii").split("\n")[1:-1]


def test_ge_protocol_keeps_the_listed_keys_with_what_they_may_say() -> None:
    kept = [
        'PSEQ "Gradient Echo"',
        'IOPT "EDR, EPI, FMRI, ARC, HB"',
        'SLICEORDER "1"',
        'NOSLC "45"',
        'DELACQ "Minimum"',
        'DELACQNOAV "0.35"',
    ]
    gone = [
        'SEDESC "Doe"',
        'IOPT "EPI, Doe"',
        'PSEQ "Doe"',
        'SLICEORDER "Doe"',
        'NOSLC "123456"',
        'ENTRY "Head First"',
        "Doe",
        'VIEWORDER "1" Doe',
    ]
    assert unblock(protocol_numbers(block(*gone, *kept))) == kept
    named = lambda text: gzip.compress(text)[:3] + b"\x08" + gzip.compress(text)[4:10] + b"Doe^Jane\0" + gzip.compress(text)[10:]  # noqa: E731
    assert unblock(protocol_numbers(block(*kept, pack=named))) == kept


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1\0\0\0",
        block('SLICEORDER "1"')[:-1],
        block('SLICEORDER "1"', pack=lambda text: gzip.compress(text)[:-9]),
        block('SLICEORDER "1"', pack=zlib.compress),
        block('SLICEORDER "1"', pack=lambda text: text),
        block('PATIENT "Doe"'),
        block("x" * (3 << 20)),
    ],
    ids=["empty", "no data", "cut", "cut inside", "zlib", "plain", "no key", "bomb"],
)
def test_a_protocol_block_that_is_none_goes(content: bytes) -> None:
    assert protocol_numbers(content) is None


def user_data(version: float, start: int = 64, length: int = 2200) -> bytearray:
    data = bytearray((b"Doe^Jane " * length)[:length])
    struct.pack_into("<H", data, 24, start)
    if start + 4 <= length:
        struct.pack_into("<f", data, start, version)
    return data


@pytest.mark.parametrize(("version", "moved", "back"), [(16.0, 0, 0), (25.002, 0x4C, 0x8C), (26.002, 0x4C, 0x8C)])
def test_ge_user_data_keeps_version_and_three_flags(version: float, moved: int, back: int) -> None:
    data = user_data(version)
    places = [64 + moved + 0x30, 64 + moved + 0x3A, 64 + moved + 0x394 - back]
    for at, value in zip(places, (0xFFFF, 0xFFFF, 2), strict=True):
        struct.pack_into("<H", data, at, value)
    left = user_data_numbers(bytes(data))
    assert left is not None and len(left) == len(data)
    assert [struct.unpack_from("<H", left, at)[0] for at in places] == [0x4, 0x800, 2]
    assert sum(map(bool, left)) <= 2 + 4 + 3
    assert struct.unpack_from("<f", left, 64) == struct.unpack_from("<f", data, 64)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(915), user_data(26.0, start=4000), user_data(26.0, start=2), user_data(3.0), user_data(float("nan")), bytes(1 << 20)],
    ids=["empty", "short", "beyond", "before", "version", "nan", "long"],
)
def test_user_data_that_are_none_go(data: bytes) -> None:
    assert user_data_numbers(bytes(data)) is None


def test_no_random_bytes_get_through() -> None:
    generator = random.Random(7)
    for function in (csa_numbers, protocol_text, protocol_numbers, user_data_numbers):
        for start in (b"", b"SV10\4\3\2\1", b"SV10\4\3\2\1\1\0\0\0\x4d\0\0\0", b"\1\0\0\0\x4d\0\0\0", b"### ASCCONV BEGIN ###\n"):
            for _ in range(100):
                left = function(start + generator.randbytes(generator.randrange(2000)))
                assert left is None or (function is user_data_numbers and sum(map(bool, left)) <= 10)
