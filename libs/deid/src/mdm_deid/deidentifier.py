"""The de-identifier: decides from the header, then rewrites the data set under one profile and one site secret."""

import copy
import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.element import PIXEL_DATA, Encoding
from mdm_deid.encoding.part10 import Part10, open_part10, write_part10
from mdm_deid.encoding.remembered_run import SERIES, Piece
from mdm_deid.encoding.vr import with_known_vrs
from mdm_deid.outcome import Malformed, Outcome, Result, Withheld
from mdm_deid.pixels.blanking import BlankedPixels, blank_pixels
from mdm_deid.pixels.image import read_image
from mdm_deid.pixels.rule import PixelRule, PixelRules
from mdm_deid.rules.data_set import DataSetPass
from mdm_deid.rules.element_pass import Written
from mdm_deid.rules.facts import (
    DATES_MODIFIED,
    METHOD,
    METHOD_CODES,
    PATIENT_ID,
    PATIENT_NAME,
    SOP_CLASS,
    SOP_INSTANCE,
    Facts,
    read_facts,
)
from mdm_deid.rules.memory import IDENTITY_REMOVED, Decision, Memory, Recalled
from mdm_deid.rules.operation import Rules
from mdm_deid.rules.patient import CONFLICT, Patient, PatientIdRule, patient_of_facts
from mdm_deid.rules.payload import Payload, examine
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.record import BASIC, Record, code_items, read_record
from mdm_deid.rules.replacement import Replacements, is_uid
from mdm_deid.rules.rule import CLEAN_FACES, FACE_UNMASKED, OPTION_CODES
from mdm_deid.rules.table import EDITION, known_sop_class

_DATES_TERM = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}
#: Reasons of the shipped profiles that suspect identity in the pixels; a person who looks at the image can settle them.
PIXEL_SUSPICIONS = frozenset(
    {
        "burned_in_annotation",
        "ultrasound",
        "secondary_capture",
        "digitised_film",
        "screen_capture",
        "photograph",
        "slide_label",
        FACE_UNMASKED,
    }
)
# More than there are SOP classes.
_MAX_RULES = 1024


class Deidentifier:
    """Applies a profile; safe to share between threads, and cheap to call once the first file of a SOP class is done."""

    def __init__(
        self,
        profile: Profile,
        pseudonymiser: Pseudonymiser,
        pixels: PixelRules | None = None,
        patient_ids: PatientIdRule | None = None,
        remembered: int = SERIES,
    ) -> None:
        """Without pixel rules no pixel is changed, and every suspicion holds.

        `remembered`: of so many series each thread remembers what it decided about elements, which comes to the same and is faster.
        """
        self._profile = profile
        self._patient_ids = patient_ids or PatientIdRule()
        self._pseudonymiser = pseudonymiser
        self._pixels = pixels or PixelRules()
        self._memory = Memory(remembered)
        self._rules: dict[tuple[str, tuple[bool, ...]], Rules] = {}
        self._codes = [BASIC, *(OPTION_CODES[option][0] for option in profile.options if option != CLEAN_FACES)]
        self._method = f"MDM {profile.name}, PS3.15 {EDITION}".encode("ascii", "replace")[:64]

    def with_pixels(self, pixels: PixelRules) -> "Deidentifier":
        """Return a de-identifier that differs in its pixel rules alone; what this one has prepared serves both."""
        other = copy.copy(self)
        other._pixels = pixels
        return other

    @property
    def masks_faces(self) -> bool:
        """Whether the profile asks that faces be blanked."""
        return CLEAN_FACES in self._profile.options

    def suspicions(self, texts: Mapping[int, str]) -> frozenset[str]:
        """Return those of `PIXEL_SUSPICIONS` that the profile has about an instance with these header values."""
        return frozenset(rule.reason for rule in self._profile.rules if rule.reason in PIXEL_SUSPICIONS and rule.matches(texts))

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        """De-identify a complete Part 10 file; never raises for bad input.

        `patient` is the patient of the study, from whom pseudonym and date offset follow; a file of another patient is QUARANTINED.
        Without it the file's own patient counts. `released` are reasons of `PIXEL_SUSPICIONS` that a person has settled by looking at
        the image: they do not hold it back.

        The result has data only when released. It contains views of `part10`, which must not change before it is written.
        """
        try:
            return with_known_vrs(lambda opened: self._deidentify(opened, patient, released), open_part10(part10))
        except Malformed as error:
            return Result(Outcome.FAILED, error.reason)
        except Withheld as error:
            return Result(Outcome.QUARANTINED, error.reason)
        except (struct.error, zlib.error, UnicodeError):
            return Result(Outcome.FAILED, "malformed")

    def _deidentify(self, opened: Part10, patient: Patient | None, released: frozenset[str]) -> Result:
        recalled = self._memory.recall(opened)
        facts = recalled.facts if recalled else read_facts(opened.data, opened.start, opened.encoding)
        facts.texts.setdefault(SOP_CLASS, opened.sop_class)
        rule = self._pixels.find(facts.texts, lambda: read_image(opened.data, opened.start, opened.encoding))
        settled = (rule.clears if rule else frozenset()) | (released & PIXEL_SUSPICIONS)
        outcome, reason = self._judge(facts, settled)
        if outcome is not Outcome.RELEASED:
            return Result(outcome, reason)
        said = patient_of_facts(facts)
        if patient is not None and not self._patient_ids.same(patient, said):
            return Result(Outcome.QUARANTINED, CONFLICT)
        blanked = _blanked(rule, opened)
        payload = examine(opened, facts, replaced=blanked is not None and PIXEL_DATA in blanked.elements)
        try:
            content, counts = self._apply(opened, facts, patient or said, blanked, payload, recalled)
        except Malformed:
            if recalled is None:
                raise
            # What is wrong with a file does not depend on what came before it.
            content, counts = self._apply(opened, facts, patient or said, blanked, payload, None)
        if blanked:
            opened = replace(opened, transfer_syntax=blanked.transfer_syntax)
        data = write_part10(opened, facts.uid(SOP_CLASS), self._instance(facts), content)
        hit = tuple(number for number, rule in enumerate(self._profile.attribute_rules, 1) if rule.applies(facts.texts))
        return Result(outcome, data=data, counts=counts, pixel_rule=blanked.rule if blanked else "", attribute_rules=hit)

    def _apply(
        self,
        opened: Part10,
        facts: Facts,
        patient: Patient,
        blanked: BlankedPixels | None,
        payload: Payload,
        recalled: Recalled | None,
    ) -> tuple[list[memoryview | bytes], Mapping[str, int]]:
        """Return the data set after the rules, with blanked pixels if any, and the actions counted.

        A second pass over the data set is made only where the first one says so.
        """
        data, encoding = opened.data, opened.encoding
        known = self._patient_ids.canonical(patient)
        rules = self._rules_for(facts)
        record = read_record(data, facts.record, encoding, facts.charset)
        pixels = dict.fromkeys(payload.dropped, b"") | (blanked.elements if blanked else {})
        codes = [*self._codes, *sorted(blanked.codes)] if blanked else self._codes
        written = self._written(self._pseudonymiser.patient(known.id, known.issuer).encode("ascii"), record, codes, encoding, pixels)
        replacements = Replacements(self._pseudonymiser, (known.id, known.issuer))
        pieces: Sequence[Piece[Decision]] = (Piece(opened.start, len(data), 0, None),)
        series = None
        if recalled is not None and blanked is None:
            series, pieces = recalled.series, recalled.pieces
            replacements = series.enter((rules, known, facts.charset), replacements)
        work = DataSetPass(data, rules, replacements, facts, payload, items=series.items if series else None)
        content = work.data_set(pieces, encoding, written)
        cleaner = work.finish(content, self._profile, encoding, series)
        if cleaner is not None:
            work = DataSetPass(data, rules, replacements, facts, payload, cleaner, search=True)
            content = work.data_set(pieces, encoding, written)
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
        applies = tuple(rule.applies(facts.texts) for rule in self._profile.attribute_rules)
        rules = self._rules.get((key, applies))
        if rules is None:
            if len(self._rules) >= _MAX_RULES:
                self._rules = {}
            rules = self._rules[key, applies] = Rules(self._profile, key, list(itertools.compress(self._profile.attribute_rules, applies)))
        return rules

    def _written(
        self,
        pseudonym: bytes,
        record: Record,
        codes: Sequence[str],
        encoding: Encoding,
        pixels: Mapping[int, bytes | memoryview],
    ) -> list[tuple[int, Written]]:
        """Return, in tag order, the elements that every output has and those that replace others; an empty one leaves its tag out.

        Methods that earlier steps wrote can be cleaned only when the whole file is known.
        """
        dates = _DATES_TERM[self._profile.dates]
        values = (
            (PATIENT_NAME, b"PN", pseudonym),
            (PATIENT_ID, b"LO", pseudonym),
            (IDENTITY_REMOVED, b"CS", b"YES"),
            (METHOD_CODES, b"SQ", code_items(record.codes_with(codes, dates), encoding)),
            (DATES_MODIFIED, b"CS", record.dates_with(dates).encode("ascii")),
        )
        elements: dict[int, Written] = {tag: encoding.element(tag, vr, value) for tag, vr, value in values}
        elements[METHOD] = lambda cleaner: encoding.element(METHOD, b"LO", record.methods_with(self._method, cleaner))
        return sorted((elements | dict(pixels)).items())

    def _judge(self, facts: Facts, settled: frozenset[str]) -> tuple[Outcome, str]:
        """Decide the outcome; a reason for quarantine does not count if a pixel rule clears it or a person has settled it."""
        for rule in self._profile.rules:
            if not (rule.outcome is Outcome.QUARANTINED and rule.reason in settled) and rule.matches(facts.texts):
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
        if self.masks_faces and FACE_UNMASKED not in settled and facts.may_show_face:
            return Outcome.QUARANTINED, FACE_UNMASKED
        return Outcome.RELEASED, ""


def _blanked(rule: PixelRule | None, opened: Part10) -> BlankedPixels | None:
    return blank_pixels(rule, read_image(opened.data, opened.start, opened.encoding), opened) if rule and rule.codes else None
