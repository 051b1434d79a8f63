"""The de-identifier: decides from the header, then rewrites the data set under one profile and one site secret."""

import io
import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from mdm_deid.encoding.codec import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Encoding
from mdm_deid.encoding.part10 import Part10, open_part10, write_part10
from mdm_deid.encoding.vr import with_known_vrs
from mdm_deid.outcome import Malformed, Outcome, Result, Withheld
from mdm_deid.pixels.blanking import Cleaned, clean
from mdm_deid.pixels.image import read_image
from mdm_deid.pixels.rule import PixelRule, PixelRules
from mdm_deid.rules.engine import Pass, Written
from mdm_deid.rules.facts import (
    DATES_MODIFIED,
    METHOD,
    METHOD_CODES,
    PATIENT_ID,
    SOP_CLASS,
    SOP_INSTANCE,
    Facts,
    facts_of_bytes,
    facts_of_dataset,
)
from mdm_deid.rules.operation import Rules
from mdm_deid.rules.patient import CONFLICT, Patient, PatientIdRule, patient_of_facts
from mdm_deid.rules.payload import Payload, examine
from mdm_deid.rules.profile import OPTION_CODES, Profile
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.record import BASIC, CLEAN_PIXELS, Record, code_items, read_record
from mdm_deid.rules.replacement import Replacements, is_uid
from mdm_deid.rules.table import EDITION, known_sop_class

_DATES_TERM = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}
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
        self._codes = [BASIC, *(OPTION_CODES[option][0] for option in profile.options)]
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
            return with_known_vrs(lambda opened: self._deidentify(opened, patient), open_part10(part10))
        except Malformed as error:
            return Result(Outcome.FAILED, error.reason)
        except Withheld as error:
            return Result(Outcome.QUARANTINED, error.reason)
        except (struct.error, zlib.error, UnicodeError):
            return Result(Outcome.FAILED, "malformed")

    def _deidentify(self, opened: Part10, patient: Patient | None) -> Result:
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
        payload = examine(opened, facts, replaced=cleaned is not None)
        content, counts = self._apply(opened.data, opened.start, opened.encoding, facts, patient or said, cleaned, payload)
        if cleaned:
            opened = replace(opened, transfer_syntax=cleaned.transfer_syntax)
        data = write_part10(opened, facts.uid(SOP_CLASS), self._instance(facts), content)
        hit = tuple(number for number, edit in enumerate(self._profile.edits, 1) if edit.applies(facts.texts))
        return Result(outcome, data=data, counts=counts, pixel_rule=cleaned.rule if cleaned else "", attribute_rules=hit)

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
        self,
        data: memoryview,
        start: int,
        encoding: Encoding,
        facts: Facts,
        patient: Patient,
        cleaned: Cleaned | None = None,
        payload: Payload = Payload(),  # noqa: B008 - it cannot change
    ) -> tuple[list[memoryview | bytes], Mapping[str, int]]:
        """Return the data set after the rules, with cleaned pixels if any, and the actions counted.

        A second pass over the data set is made only where the first one says so.
        """
        known = self._patient_ids.canonical(patient)
        rules = self._rules_for(facts)
        record = read_record(data, facts.record, encoding, facts.charset)
        pixels = dict.fromkeys(payload.dropped, b"") | (cleaned.elements if cleaned else {})
        codes = [*self._codes, CLEAN_PIXELS] if cleaned else self._codes
        written = self._written(self._pseudonymiser.patient(known.id, known.issuer).encode("ascii"), record, codes, encoding, pixels)
        replacements = Replacements(self._pseudonymiser, (known.id, known.issuer))
        work = Pass(data, rules, replacements, facts, payload)
        content = work.data_set(start, encoding, written)
        second = work.finish(content, self._profile)
        if second is not None:
            work = Pass(data, rules, replacements, facts, payload, *second)
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

    def _written(
        self,
        pseudonym: bytes,
        record: Record,
        codes: Sequence[str],
        encoding: Encoding,
        pixels: Mapping[int, bytes | memoryview],
    ) -> list[tuple[int, Written]]:
        """Return the elements every output carries, and those that replace others, empty ones to leave them out, in tag order.

        What earlier steps said of their method can be cleaned only when all of the file is known.
        """
        dates = _DATES_TERM[self._profile.dates]
        values = (
            (0x00100010, b"PN", pseudonym),
            (PATIENT_ID, b"LO", pseudonym),
            (0x00120062, b"CS", b"YES"),
            (METHOD_CODES, b"SQ", code_items(record.codes_with(codes, dates), encoding)),
            (DATES_MODIFIED, b"CS", record.dates_with(dates).encode("ascii")),
        )
        elements: dict[int, Written] = {tag: encoding.element(tag, vr, value) for tag, vr, value in values}
        elements[METHOD] = lambda cleaner: encoding.element(METHOD, b"LO", record.methods_with(self._method, cleaner))
        return sorted((elements | dict(pixels)).items())

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
        if not facts.frames:
            return Outcome.QUARANTINED, "pixel_layout"
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
