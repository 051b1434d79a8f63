"""What a profile may say, what its rules for attributes do, and where an error stands."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, ProfileError, Pseudonymiser
from mdm_deid.rules.profile import SHIPPED

CSA = "SIEMENS CSA HEADER"


@pytest.fixture
def site(tmp_path: Path, pseudonymiser: Pseudonymiser) -> Any:
    """Return what makes a de-identifier of a profile's text."""

    def make(text: str) -> Deidentifier:
        path = tmp_path / "site.toml"
        path.write_text(text)
        return Deidentifier(Profile.load(path), pseudonymiser)

    return make


def read(deidentifier: Deidentifier, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def file(builder: Any, **more: bytes) -> bytes:
    """Return a CT of a Siemens-like device with an attribute of each kind, the same again in a sequence."""
    elements = {
        0x00080020: builder.element(0x00080020, "DA", b"20200102"),
        0x00080060: builder.element(0x00080060, "CS", more.get("modality", b"CT")),
        0x00080070: builder.element(0x00080070, "LO", more.get("manufacturer", b"SIEMENS Healthineers")),
        0x00081030: builder.element(0x00081030, "LO", b"Knee of John Doe"),
        0x00100010: builder.element(0x00100010, "PN", b"Doe^John"),
        0x00180015: builder.element(0x00180015, "CS", b"KNEE"),
        0x00181030: builder.element(0x00181030, "LO", b"Protocol 5"),
        0x00290010: builder.element(0x00290010, "LO", CSA.encode()),
        0x00291010: builder.element(0x00291010, "OB", b"CSA1"),
        0x00291020: builder.element(0x00291020, "OB", b"CSA2"),
        0x50003000: builder.element(0x50003000, "OW", b"CURVE_"),
        0x60003000: builder.element(0x60003000, "OW", b"OVERLA"),
    }
    inside = b"".join(elements[tag] for tag in sorted(elements) if tag != 0x00080060)
    elements[0x52009229] = builder.element(0x52009229, "SQ", builder.item(inside))
    return builder.file(elements)


def test_rules_name_attributes_by_tag_keyword_and_pattern(builder: Any, site: Any) -> None:
    deidentifier = site(
        """
name = "site"
[[attribute]]
action = "keep"
tags = ["(0018,1030)", "50xx3000"]
[[attribute]]
action = "remove"
keywords = ["BodyPartExamined"]
[[attribute]]
action = "clean"
keywords = ["StudyDescription"]
[[attribute]]
action = "shift"
keywords = ["StudyDate"]
"""
    )
    output = read(deidentifier, file(builder))
    for level in (output, output[0x52009229].value[0]):
        assert level.ProtocolName == "Protocol 5"
        assert level[0x50003000].value == b"CURVE_"
        assert "BodyPartExamined" not in level and 0x60003000 not in level
        assert level.StudyDescription == "Knee of [...]"
        assert level.StudyDate not in ("", "20200102")
        assert not [element for element in level if element.tag.is_private]


def test_the_first_rule_that_names_an_attribute_decides_and_required_ones_stay_valid(builder: Any, site: Any) -> None:
    deidentifier = site(
        """
name = "site"
[[attribute]]
action = "replace"
keywords = ["BodyPartExamined"]
value = "LEG"
[[attribute]]
action = "keep"
tags = ["0018xxxx"]
[[attribute]]
action = "remove"
keywords = ["Modality", "SOPClassUID"]
"""
    )
    output = read(deidentifier, file(builder))
    assert (output.BodyPartExamined, output.ProtocolName) == ("LEG", "Protocol 5")
    assert output.Modality == "ANON"


@pytest.mark.parametrize(
    "condition, holds",
    [
        ('modalities = ["CT"]', True),
        ('modalities = ["MR"]', False),
        ('manufacturers = ["siemens*"]', True),
        ('manufacturers = ["GE*"]', False),
        ('sop_classes = ["1.2.840.10008.5.1.4.1.1.2"]', True),
        ('sop_classes = ["1.2.840.10008.5.1.4.1.1.4*"]', False),
        ('modalities = ["CT"]\nmanufacturers = ["GE*"]', False),
    ],
)
def test_a_rule_may_be_for_some_instances_only(builder: Any, site: Any, condition: str, holds: bool) -> None:
    deidentifier = site(f'name = "site"\n[[attribute]]\naction = "keep"\nkeywords = ["ProtocolName"]\n{condition}\n')
    assert ("ProtocolName" in read(deidentifier, file(builder))) == holds
    other = file(builder, modality=b"PT", manufacturer=b"other")
    assert ("ProtocolName" in read(deidentifier, other)) == ("sop_classes" in condition and holds)


@pytest.mark.parametrize("tags, kept", [("", [b"CSA1", b"CSA2"]), ('tags = ["0029xx10"]', [b"CSA1"])])
def test_private_attributes_stay_by_creator(builder: Any, site: Any, tags: str, kept: list[bytes]) -> None:
    deidentifier = site(f'name = "site"\n[[attribute]]\naction = "keep"\nprivate_creator = "{CSA}"\n{tags}\n')
    output = read(deidentifier, file(builder))
    for level in (output, output[0x52009229].value[0]):
        assert [element.value for element in level if element.tag.is_private] == [CSA, *kept]


def test_a_safe_private_attribute_can_be_removed(builder: Any, site: Any) -> None:
    safe = {
        0x00190010: builder.element(0x00190010, "LO", b"SIEMENS MR HEADER"),
        0x0019100C: builder.element(0x0019100C, "IS", b"1000"),
        0x0019100D: builder.element(0x0019100D, "CS", b"BIPOLAR"),
    }
    rule = '[[attribute]]\naction = "remove"\nprivate_creator = "SIEMENS MR HEADER"\ntags = ["0019xx0d"]\n'
    output = read(site(f'name = "site"\noptions = ["retain_safe_private"]\n{rule}'), builder.file(safe))
    assert [element.tag for element in output if element.tag.is_private] == [0x00190010, 0x0019100C]


def test_an_allow_list_may_be_extended(builder: Any, site: Any) -> None:
    rule = '[[attribute]]\naction = "keep"\nkeywords = ["Manufacturer"]\n'
    output = read(site(f'name = "site"\nbase = "strict"\n{rule}'), file(builder))
    assert output.Manufacturer == "SIEMENS Healthineers"
    assert "ProtocolName" not in output
    alone = read(site('name = "site"\nallow = ["SOPClassUID", "SOPInstanceUID"]'), file(builder))
    assert "BodyPartExamined" not in alone and alone.Modality == "CT"


def test_strict_leaves_no_text_at_all(builder: Any, strict: Deidentifier) -> None:
    output = read(strict, file(builder))
    text = [element for element in output.iterall() if element.VR in ("LO", "SH", "LT", "ST", "UT", "UC", "PN") and element.value]
    ours = {0x00100010, 0x00100020, 0x00120063, 0x00080100, 0x00080102, 0x00080104}
    assert {int(element.tag) for element in text} <= ours


@pytest.mark.parametrize("data, stays", [(b"\1\2", True), (b"\1\2Anybody^Else", False)])
def test_overlays_that_draw_a_region_stay_under_clean_graphics_and_others_go(builder: Any, site: Any, data: bytes, stays: bool) -> None:
    four = struct.pack(builder.order + "H", 4)

    def overlay(group: int, kind: bytes) -> dict[int, bytes]:
        values = (
            (0x10, "US", four),
            (0x11, "US", four),
            (0x22, "LO", b"ROI by Doe"),
            (0x40, "CS", kind),
            (0x3000, "OW", data),
            (0x4000, "LT", b"seen, John"),
        )
        return {group << 16 | element: builder.element(group << 16 | element, vr, value) for element, vr, value in values}

    elements = overlay(0x6000, b"R") | overlay(0x6002, b"G") | {0x00100010: builder.element(0x00100010, "PN", b"Doe^John")}
    elements |= {0x50003000: builder.element(0x50003000, "OW", b"\1\2")}
    output = read(site('name = "site"\noptions = ["clean_graphics"]'), builder.file(elements))
    kept = [element.tag for element in output if element.tag.group >= 0x5000]
    assert kept == ([0x60000010, 0x60000011, 0x60000022, 0x60000040, 0x60003000, 0x60004000] if stays else [])
    assert not stays or (output[0x60000022].value, output[0x60004000].value) == ("ROI by [...]", "seen [...]")
    assert not [e for e in read(site('name = "site"'), builder.file(elements)) if e.tag.group >= 0x5000]


@pytest.mark.parametrize(
    "text, message",
    [
        ('name = "x"\n\ncolour = 1', "line 3: unknown key 'colour'"),
        ('name = "x"\noptions = [\n  "nothing"]', "line 2: options: 'nothing' is not one of"),
        ('name = "x"\nallow = ["NoSuchWord"]', "line 2: allow: 'NoSuchWord' is not a keyword"),
        ('name = "x"\n[[rule]]\nreason = "a"\nmodalities = ["CT"]\n\n[[rule]]\nreason = 5\nmodalities = ["CT"]', "line 7: rule 2: reason"),
        ('name = "x"\n[attribute]\naction = "keep"', "line 2: attribute 1: names no attribute"),
        ('name = "x"\n[[attribute]]\naction = "burn"\ntags = ["00181030"]', "line 3: attribute 1: action: must be one of"),
        ('name = "x"\n[[attribute]]\naction = "keep"\ntags = ["0018"]', "line 4: attribute 1: tags: '0018' is not a tag"),
        ('name = "x"\n[[attribute]]\naction = "keep"\ntags = ["0019xx10"]', "is private: give its private_creator"),
        ('name = "x"\n[[attribute]]\naction = "keep"\nkeywords = ["PatientID"]', "is set by the de-identifier"),
        ('name = "x"\n[[attribute]]\naction = "keep"\ntags = ["0010xxxx"]', "is set by the de-identifier"),
        ('name = "x"\n[[attribute]]\naction = "keep"\nkeywords = ["PatientBirthDate"]', "ages above 89"),
        ('name = "x"\n[[attribute]]\naction = "replace"\nkeywords = ["StudyDate"]', "value: must be a non-empty string"),
        ('name = "x"\n[[attribute]]\naction = "keep"\nkeywords = ["StudyDate"]\nvalue = "1"', "line 5: attribute 1: value: has no meaning"),
        ('name = "x"\n[[attribute]]\naction = "shift"\nkeywords = ["Modality"]', "shift does not go with .0008,0060., whose VR is CS"),
        ('name = "x"\n[[attribute]]\naction = "clean"\nkeywords = ["Rows"]', "clean does not go with"),
        ('name = "x"\n[[attribute]]\naction = "uid"\ntags = ["0020xxxx"]', "uid needs one attribute"),
        ('name = "x"\n[[attribute]]\naction = "clean"\nprivate_creator = "X"', "can be kept or removed"),
        ('name = "x"\n[[attribute]]\naction = "keep"\nprivate_creator = "X"\ntags = ["0028xx10"]', "0028 is not an odd group"),
        ('name = "x"\nrule = ["a"]', "rule 1: must be a table"),
        ('name = "x"\nbase = 7', "line 2: base: must be a non-empty string"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        Profile.load(path)


def test_a_profile_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ProfileError, match="is not UTF-8"):
        Profile.load(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_profiles_travel_to_workers_and_have_a_fingerprint(name: str) -> None:
    profile = Profile.shipped(name)
    again = pickle.loads(pickle.dumps(profile))
    assert again == profile
    assert again.fingerprint() == profile.fingerprint()
    assert len({Profile.shipped(other).fingerprint() for other in SHIPPED}) == len(SHIPPED)


def test_words_of_a_site_may_stay_in_text_that_is_cleaned(tmp_path: Path, pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    path = tmp_path / "site.toml"
    path.write_text('name = "site"\nbase = "research"\nwords = ["Röntgen", "pilvi"]\n')
    profile = Profile.load(path)
    elements = {
        0x00080005: explicit.element(0x00080005, "CS", b"ISO_IR 192"),
        0x00100010: explicit.element(0x00100010, "PN", b"Doe^John"),
        0x00081030: explicit.element(0x00081030, "LO", "RÖNTGEN doe pilvi berta".encode()),
    }
    output = b"".join(Deidentifier(profile, pseudonymiser).deidentify(explicit.file(elements)).data)
    assert "RÖNTGEN [...] pilvi [...]".encode() in output
    assert b"berta" not in output
    assert profile.fingerprint() != Profile.shipped("research").fingerprint()
    path.write_text('name = "site"\n\nwords = ["two words"]\n')
    with pytest.raises(ProfileError, match="line 3: words: 'two words' is not a word"):
        Profile.load(path)
