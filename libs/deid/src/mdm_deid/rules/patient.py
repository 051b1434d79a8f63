"""The patient of a file, and whether two files of one study are of the same patient."""

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed
from mdm_deid.rules.facts import STUDY, Facts, read_facts

#: Differences that a site may ignore. An absent id or issuer differs from every one that is given.
EVERYWHERE: Final = ("issuer", "leading-zeros", "blanks", "case")
IN_STUDY: Final = (*EVERYWHERE, "absent-id", "absent-issuer")
CONFLICT: Final = "patient_conflict"
_TABLE: Final = "patient_id"


@dataclass(frozen=True, slots=True, order=True)
class Patient:
    """Patient ID (0010,0020) and Issuer of Patient ID (0010,0021), without padding. Identifying.

    An instance without Patient ID has `id` "" and its study in `issuer`, so that patients stay apart.
    """

    id: str
    issuer: str


@dataclass(frozen=True)
class PatientQuestion:
    """A request for the study and the patient of a file."""

    number: int
    path: Path


@dataclass(frozen=True)
class PatientAnswer:
    """The Study Instance UID of a file and its patient, None where it cannot be read or has no study."""

    number: int
    said: tuple[str, Patient] | None


class PatientIdError(ValueError):
    """Settings that name an unknown difference."""


@dataclass(frozen=True, slots=True)
class PatientIdRule:
    """How Patient IDs are compared: which differences do not count.

    `ignored` ones never count: pseudonyms are made of the rest, so another choice makes other pseudonyms. `in_study` ones do not
    count between instances of one study, which then keep the identity that the study has.
    """

    in_study: frozenset[str] = frozenset({"leading-zeros", "blanks", "case", "absent-id", "absent-issuer"})
    ignored: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for names, known in ((self.in_study, IN_STUDY), (self.ignored, EVERYWHERE)):
            unknown = sorted(names - set(known))
            if unknown:
                raise PatientIdError(f"unknown difference {unknown[0]!r}: there are {', '.join(known)}")

    def canonical(self, patient: Patient) -> Patient:
        """Return the identity that pseudonym and date offset are made of."""
        return _reduced(patient, self.ignored)

    def same(self, first: Patient, second: Patient) -> bool:
        """Return whether two instances of one study are of the same patient."""
        given = self.in_study | self.ignored
        one, other = _reduced(first, given), _reduced(second, given)
        if not (one.id and other.id):
            # Where both lack an id, their study stands for both, and is the same.
            return bool(one.id) == bool(other.id) or "absent-id" in given
        if one.id != other.id:
            return False
        return one.issuer == other.issuer or ("absent-issuer" in given and not (one.issuer and other.issuer))

    def majority(self, patients: Iterable[Patient]) -> Patient:
        """Return the patient of a study from all its instances: the one that most name, in its fullest spelling, whatever their order."""
        counts = Counter(patients)
        ranked = sorted(
            counts, key=lambda item: (bool(item.id), sum(n for p, n in counts.items() if self.same(item, p)), item), reverse=True
        )
        alike = [item for item in ranked if self.same(ranked[0], item)]
        return max(alike, key=lambda item: (bool(item.id), bool(item.issuer), counts[item], item))


def load_rule(path: Path) -> PatientIdRule:
    """Read the table [patient_id] of a TOML file, such as a site's configuration; without the table the default.

    Raises:
        OSError: the file cannot be read.
        PatientIdError: it is not TOML, or names something unknown.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8")).get(_TABLE, {})
    except ValueError as error:
        raise PatientIdError(f"{path}: {error}") from error
    return rule_of(table)


def rule_of(table: dict[str, Any]) -> PatientIdRule:
    """Return the rule that a table `patient_id` describes.

    Raises:
        PatientIdError: it names something unknown.
    """
    unknown = sorted(table.keys() - {"ignored", "ignored_in_study"})
    if unknown:
        raise PatientIdError(f"[{_TABLE}]: unknown key {unknown[0]}: there are ignored, ignored_in_study")
    default = PatientIdRule()
    return PatientIdRule(frozenset(table.get("ignored_in_study", default.in_study)), frozenset(table.get("ignored", default.ignored)))


def patient_of(part10: bytes | memoryview) -> tuple[str, Patient] | None:
    """Return the Study Instance UID of a Part 10 file and the patient that it names; None if it cannot be read with certainty."""
    try:
        opened = open_part10(part10)
        facts = read_facts(opened.data, opened.start, opened.encoding)
    except Malformed:
        return None
    return facts.uid(STUDY), patient_of_facts(facts)


def patient_of_facts(facts: Facts) -> Patient:
    """Return the patient that an instance names."""
    return Patient(*facts.patient())


def _reduced(patient: Patient, ignored: frozenset[str]) -> Patient:
    identifier, issuer = patient.id.strip(), "" if "issuer" in ignored and patient.id else patient.issuer.strip()
    if "blanks" in ignored:
        identifier = "".join(identifier.split())
    if "case" in ignored:
        identifier, issuer = identifier.casefold(), issuer.casefold()
    if "leading-zeros" in ignored:
        identifier = identifier.lstrip("0") or identifier[:1]
    return Patient(identifier, issuer)
