"""The de-identifier: decides from the header, then rewrites the data set under one profile and one site secret."""

import io
import itertools
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace

import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from mdm_deid.encoding.codec import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Encoding
from mdm_deid.encoding.part10 import Part10, open_part10, write_part10
from mdm_deid.outcome import Malformed, Outcome, Result
from mdm_deid.pixels.blanking import Cleaned, Uncleanable, clean
from mdm_deid.pixels.image import read_image
from mdm_deid.pixels.payload import SurplusPixels
from mdm_deid.pixels.rule import PixelRule, PixelRules
from mdm_deid.rules.engine import Pass, is_uid
from mdm_deid.rules.facts import PATIENT_ID, SOP_CLASS, SOP_INSTANCE, Facts, facts_of_bytes, facts_of_dataset
from mdm_deid.rules.operation import Rules
from mdm_deid.rules.patient import CONFLICT, Patient, PatientIdRule, patient_of_facts
from mdm_deid.rules.profile import OPTION_CODES, Profile
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.table import EDITION, known_sop_class

# PS3.16 CID 7050: what was done, in the order of the codes.
_BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS_CODE = ("113101", "Clean Pixel Data Option")
_DATES_CODE = {"remove": b"REMOVED", "shift": b"MODIFIED", "keep": b"UNMODIFIED"}
# As many as there are SOP classes, and more.
_MAX_RULES = 1024


class Deidentifier:
    """Applies a profile; safe to share between threads, and cheap to call once the first file of a SOP class is done."""

    def __init__(
        self,
        profile: Profile,
        pseudonymiser: Pseudonymiser,
        pixels: PixelRules | None = None,
        patient_ids: PatientIdRule | None = None,
    ) -> None:
        """Without pixel rules no pixel is changed, and every suspicion holds."""
        self._profile = profile
        self._patient_ids = patient_ids or PatientIdRule()
        self._pseudonymiser = pseudonymiser
        self._pixels = pixels or PixelRules()
        self._rules: dict[tuple[str, tuple[bool, ...]], Rules] = {}
        codes = [_BASIC_CODE, *(OPTION_CODES[option] for option in profile.options)]
        self._codes = sorted(codes)
        self._method = f"MDM {profile.name}, PS3.15 {EDITION}".encode("ascii", "replace")[:64]

    def judge(self, dataset: pydicom.Dataset) -> tuple[Outcome, str]:
        """Decide from a header alone, pixels unseen; the reason is empty when the instance may be released."""
        facts = facts_of_dataset(dataset)
        return self._judge(facts, self._pixels.find(facts.texts, lambda: read_image(*_start(_encode(dataset)))))

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None) -> Result:
        """De-identify a complete Part 10 file; never raises for bad input.

        `patient` is of whom its study is, which pseudonym and dates follow; a file of another patient is QUARANTINED. Without it
        the file speaks for itself.

        The result has data only when released. It holds views of `part10`, which must not change before it is written.
        """
        try:
            opened = open_part10(part10)
            facts = facts_of_bytes(opened.data, opened.start, opened.encoding)
            facts.texts.setdefault(SOP_CLASS, opened.sop_class)
            rule = self._pixels.find(facts.texts, lambda: read_image(opened.data, opened.start, opened.encoding))
            outcome, reason = self._judge(facts, rule)
            if outcome is not Outcome.RELEASED:
                return Result(outcome, reason)
            said = patient_of_facts(facts)
            if patient is not None and not self._patient_ids.same(patient, said):
                return Result(Outcome.QUARANTINED, CONFLICT)
            cleaned = _cleaned(rule, opened)
            content, counts = self._apply(opened.data, opened.start, opened.encoding, facts, patient or said, cleaned)
            if cleaned:
                opened = replace(opened, transfer_syntax=cleaned.transfer_syntax)
            data = write_part10(opened, facts.uid(SOP_CLASS), self._instance(facts), content)
            hit = tuple(number for number, edit in enumerate(self._profile.edits, 1) if edit.applies(facts.texts))
            return Result(outcome, data=data, counts=counts, pixel_rule=cleaned.rule if cleaned else "", attribute_rules=hit)
        except Malformed as error:
            return Result(Outcome.FAILED, error.reason)
        except Uncleanable as error:
            return Result(Outcome.QUARANTINED, error.reason)
        except SurplusPixels:
            return Result(Outcome.QUARANTINED, "surplus_pixels")
        except (struct.error, zlib.error, UnicodeError):
            return Result(Outcome.FAILED, "malformed")

    def deidentify_dataset(self, dataset: pydicom.Dataset) -> pydicom.Dataset:
        """Return a header as `deidentify` would write it, whatever `judge` says; pixel data is left out.

        Raises:
            Malformed: the header cannot be encoded or read with certainty.
        """
        data, encoding = _encode(dataset)
        facts = facts_of_bytes(data, 0, encoding)
        content, _ = self._apply(data, 0, encoding, facts, patient_of_facts(facts))
        return read_dataset(io.BytesIO(b"".join(content)), not encoding.explicit, encoding.little)

    def _apply(
        self, data: memoryview, start: int, encoding: Encoding, facts: Facts, patient: Patient, cleaned: Cleaned | None = None
    ) -> tuple[list[memoryview | bytes], Mapping[str, int]]:
        """Return the data set after the rules, with cleaned pixels if any, and the actions counted.

        A second pass over the data set is made only where the first one says so.
        """
        known = self._patient_ids.canonical(patient)
        offset = self._pseudonymiser.date_offset_days(known.id, known.issuer)
        rules = self._rules_for(facts)
        written = self._written(self._pseudonymiser.patient(known.id, known.issuer).encode("ascii"), encoding, cleaned)
        work = Pass(data, rules, self._pseudonymiser, offset, facts)
        content = work.data_set(start, encoding, written)
        second = work.finish(content, self._profile)
        if second is not None:
            work = Pass(data, rules, self._pseudonymiser, offset, facts, *second)
            content = work.data_set(start, encoding, written)
        return content, work.counts

    def _instance(self, facts: Facts) -> str:
        """Return the SOP Instance UID for the file meta information, equal to the data set's."""
        original = facts.uid(SOP_INSTANCE)
        if original in UID_dictionary or ("retain_uids" in self._profile.options and is_uid(original.encode("latin-1", "replace"))):
            return original
        return self._pseudonymiser.uid(original)

    def _rules_for(self, facts: Facts) -> Rules:
        """Return the rules of an instance; all SOP classes that PS3.3 does not describe share one set, so the cache is bounded."""
        sop_class = facts.uid(SOP_CLASS)
        key = sop_class if known_sop_class(sop_class) else ""
        applies = tuple(edit.applies(facts.texts) for edit in self._profile.edits)
        rules = self._rules.get((key, applies))
        if rules is None:
            if len(self._rules) >= _MAX_RULES:
                self._rules = {}
            rules = self._rules[key, applies] = Rules(self._profile, key, list(itertools.compress(self._profile.edits, applies)))
        return rules

    def _written(self, pseudonym: bytes, encoding: Encoding, cleaned: Cleaned | None) -> list[tuple[int, bytes | memoryview]]:
        """Return the elements every output carries, and those of cleaned pixels, in tag order."""
        codes = b"".join(
            encoding.item(
                encoding.element(0x00080100, b"SH", code.encode("ascii"))
                + encoding.element(0x00080102, b"SH", b"DCM")
                + encoding.element(0x00080104, b"LO", meaning.encode("ascii"))
            )
            for code, meaning in sorted([*self._codes, _CLEAN_PIXELS_CODE] if cleaned else self._codes)
        )
        values = (
            (0x00100010, b"PN", pseudonym),
            (PATIENT_ID, b"LO", pseudonym),
            (0x00120062, b"CS", b"YES"),
            (0x00120063, b"LO", self._method),
            (0x00120064, b"SQ", codes),
            (0x00280303, b"CS", _DATES_CODE[self._profile.dates]),
        )
        elements: dict[int, bytes | memoryview] = {tag: encoding.element(tag, vr, value) for tag, vr, value in values}
        return sorted((elements | (cleaned.elements if cleaned else {})).items())

    def _judge(self, facts: Facts, pixel_rule: PixelRule | None) -> tuple[Outcome, str]:
        """Decide; a suspicion about pixels does not count where a pixel rule answers it."""
        for rule in self._profile.rules:
            answered = pixel_rule is not None and rule.outcome is Outcome.QUARANTINED and rule.reason in pixel_rule.clears
            if not answered and rule.matches(facts.texts):
                return rule.outcome, rule.reason
        sop_class = facts.uid(SOP_CLASS)
        if not sop_class or not facts.uid(SOP_INSTANCE):
            return Outcome.FAILED, "no_sop_instance"
        if sop_class not in UID_dictionary and not known_sop_class(sop_class):
            return Outcome.QUARANTINED, "unknown_sop_class"
        if facts.embedded_overlay:
            return Outcome.QUARANTINED, "embedded_overlay"
        return Outcome.RELEASED, ""


def _cleaned(rule: PixelRule | None, opened: Part10) -> Cleaned | None:
    return clean(rule, read_image(opened.data, opened.start, opened.encoding), opened) if rule else None


def _start(encoded: tuple[memoryview, Encoding]) -> tuple[memoryview, int, Encoding]:
    data, encoding = encoded
    return data, 0, encoding


def _encode(dataset: pydicom.Dataset) -> tuple[memoryview, Encoding]:
    """Return a header's bytes without command, file meta and pixel groups, and how they are encoded.

    Raises:
        Malformed: pydicom cannot write the values.
    """
    is_implicit, is_little = dataset.original_encoding
    encoding = IMPLICIT_LE if is_implicit else EXPLICIT_BE if is_little is False else EXPLICIT_LE
    kept = [tag for tag in dataset.keys() if 4 < tag >> 16 < 0x7FE0]  # noqa: SIM118 - values are not to be converted
    header = pydicom.Dataset({tag: dataset.get_item(tag) for tag in kept})
    # Written as it was read, raw values go out as they came, unconverted.
    header.set_original_encoding(is_implicit, is_little, dataset.original_character_set)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = encoding.little, not encoding.explicit
    try:
        write_dataset(buffer, header, dataset.get("SpecificCharacterSet", "iso8859"))
    except Exception:
        # pydicom's messages quote the values; none may travel on.
        raise Malformed("unencodable") from None
    return memoryview(buffer.getvalue()), encoding
