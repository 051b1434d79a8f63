"""The one decision about an instance, made on all of it, and the de-identifier that makes it, for registration and staging alike."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from typing import Protocol

import mdm_deid
from mdm_deid import Patient, PatientIdRule, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.deidentifier import PIXEL_SUSPICIONS
from mdm_deid.encoding.pydicom_log import silence_pydicom
from mdm_deid.faces.rule import VERSION as FACES_VERSION
from mdm_deid.outcome import Outcome, Result
from mdm_deid.pixels.drawn import DrawnRule, SiteRules
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.rule import CLEAN_FACES
from mdm_deid.rules.rule import FACE_UNMASKED as FACE_REASON
from mdm_deid.rules.table import revision
from mdm_wire.errors import Invalid

from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.site_secret import derive_key


class Deidentifier(Protocol):
    """Removes what identifies; `mdm_deid.Deidentifier` is one."""

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str]) -> Result:
        """Return the released file or why it is not released; `patient` is the one of its study, if known.

        `released` are the reasons, as de-identification spells them, for which a curator does not want it held back.
        """
        ...


#: Rules that people drew, which hold beside those of the site's file.
Drawn = tuple[DrawnRule, ...]
#: Makes a de-identifier; sent to worker processes, so a module-level function or a functools.partial of one.
MakeDeidentifier = Callable[[], Deidentifier]
#: Reasons of `decide` that say nothing about the file begin so: another attempt may end differently.
DEFECTS = ("DEFECT_", "OUT_OF_MEMORY")
#: Text was found in an image that its header does not make suspect; it was found and is blanked; the image could not be looked at.
TEXT_FOUND, TEXT_BLANKED, TEXT_NOT_CHECKED = "TEXT_FOUND", "TEXT_BLANKED", "TEXT_NOT_CHECKED"
#: A CT or MR image waits for the mask of its series' face, or no mask can be made.
FACE_UNMASKED = FACE_REASON.upper()
#: Reasons of a judgement that a curator may settle.
RELEASABLE = frozenset(reason.upper() for reason in PIXEL_SUSPICIONS) | {TEXT_FOUND, TEXT_BLANKED, TEXT_NOT_CHECKED}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the whole instance led to; `reason` is a stable code in capitals, empty when released.

    `header` is the released file up to its pixel data, and `size` all of its bytes; empty unless released. `rules` names the
    rules under which it was made (`generation`), `patient` is the study's patient at that time; under other rules, or for
    another patient, it is void. `found` are the tags whose values the self-check found in what was to be released.
    """

    outcome: Outcome
    reason: str = ""
    header: bytes = b""
    rules: str = ""
    patient: Patient | None = field(default=None, repr=False)
    found: tuple[int, ...] = ()
    size: int | None = None

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        patient = None if self.patient is None else astuple(self.patient)
        return json.dumps([self.outcome, self.reason, self.rules, patient, self.found, self.size]).encode() + b"\n" + self.header

    @classmethod
    def from_bytes(cls, data: bytes) -> "Judgement":
        """Return the judgement that `to_bytes` wrote."""
        head, _, header = data.partition(b"\n")
        # Earlier versions kept neither `found` nor `size`.
        outcome, reason, rules, patient, *later = json.loads(head)
        found, size = (*later, None, None)[:2]
        return cls(Outcome(outcome), reason, header, rules, None if patient is None else Patient(*patient), tuple(found or ()), size)


def decide(
    deidentifier: Deidentifier, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str] = frozenset()
) -> Result:
    """De-identify a complete Part 10 file as one of `patient`; a defect of the de-identifier fails the file. Never raises.

    `released` are the reasons, in capitals, that a curator has settled for this instance.
    """
    try:
        result = deidentifier.deidentify(part10, patient, frozenset(reason.lower() for reason in released))
    except MemoryError:
        return Result(Outcome.FAILED, "OUT_OF_MEMORY")
    except Exception as error:
        return Result(Outcome.FAILED, f"DEFECT_{type(error).__name__.upper()}")
    if result.outcome is Outcome.RELEASED and not result.data:
        return Result(Outcome.FAILED, "DEFECT_NO_DATA")
    return replace(result, reason=result.reason.upper())


def judge(
    deidentifier: Deidentifier, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str] = frozenset()
) -> Judgement:
    """Return what becomes of a complete Part 10 file of `patient`'s study, with the header that it leaves with; as `decide`."""
    result = decide(deidentifier, part10, patient, released)
    if result.outcome is not Outcome.RELEASED or result.data is None:
        return Judgement(result.outcome, result.reason, found=result.found)
    try:
        return Judgement(result.outcome, header=header_of(b"".join(result.data)).part10, size=sum(map(len, result.data)))
    except Invalid as error:
        return Judgement(Outcome.FAILED, error.reason)


class SiteDeidentifier:
    """The site's de-identifier, to which rules that people drew can be added; with `check` it searches every file it releases."""

    def __init__(self, own: mdm_deid.Deidentifier, profile: Profile, pixels: PixelRules, check: bool, drawn: Drawn = ()) -> None:
        self._own = own
        self._profile = profile
        self._pixels = pixels
        self._check = check
        self._drawn = drawn
        under = own.with_pixels(SiteRules(pixels, drawn, own.suspicions)) if drawn else own
        self._deidentifier: Deidentifier = CheckedDeidentifier(under, profile) if check else under
        self._latest: SiteDeidentifier | None = None

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        """Return the released file or why it is not released; see `Deidentifier`."""
        return self._deidentifier.deidentify(part10, patient, released)

    def under(self, drawn: Drawn) -> "SiteDeidentifier":
        """Return one that follows more drawn rules."""
        if not drawn:
            return self
        latest = self._latest
        if latest is None or latest._drawn != self._drawn + drawn:
            self._latest = latest = SiteDeidentifier(self._own, self._profile, self._pixels, self._check, self._drawn + drawn)
        return latest


def no_rules(_part10: bytes | memoryview) -> Drawn:
    """Return no drawn rules, whatever the image."""
    return ()


def under(deidentifier: Deidentifier, drawn: Drawn) -> Deidentifier:
    """Return a de-identifier that follows drawn rules as well."""
    if not drawn:
        return deidentifier
    if not isinstance(deidentifier, SiteDeidentifier):
        raise TypeError("only the site's de-identifier follows drawn rules")
    return deidentifier.under(drawn)


def make_deidentifier(
    profile: Profile, secret: bytes, pixels: PixelRules, check: bool, patient_ids: PatientIdRule | None = None
) -> SiteDeidentifier:
    """Return the site's de-identifier in a worker process of staging."""
    silence_pydicom()
    return SiteDeidentifier(mdm_deid.Deidentifier(profile, Pseudonymiser(secret), pixels, patient_ids), profile, pixels, check)


def generation(profile: Profile, secret: bytes, pixels: PixelRules, check: bool, patient_ids: PatientIdRule | None = None) -> str:
    """Return a digest that changes with the rules of de-identification, those of a new version of this package included."""
    compared = patient_ids or PatientIdRule()
    identities = ",".join(sorted(compared.ignored)) + ";" + ",".join(sorted(compared.in_study))
    faces = f"faces {FACES_VERSION}" if CLEAN_FACES in profile.options else ""
    rules = (faces + revision() + profile.fingerprint() + pixels.fingerprint() + str(check) + identities).encode()
    return hashlib.sha256(rules + derive_key(secret, "spool")).hexdigest()
