"""What a first pass takes away and learns by it: values that name someone, and the cleaner that looks for them."""

from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.rules.date import date_digits
from mdm_deid.rules.profile import Profile
from mdm_deid.text.cleaner import Cleaner
from mdm_deid.text.identity import identity

_LONGEST: Final = 1024


class Learnt:
    """The identifying values of one file, each with the VR and the character set that it had."""

    def __init__(self) -> None:
        self._values: set[tuple[bytes, bytes, Charset]] = set()

    def add(self, vr: bytes, value: memoryview, charset: Charset) -> None:
        """Note a value, unless it is empty or longer than one that names someone."""
        if 0 < len(value) <= _LONGEST:
            learnt = bytes(value).strip(b" \0")
            if vr in (b"DA", b"DT"):
                learnt = b"\\".join(date_digits(part) or part[:10] for part in learnt.split(b"\\"))
            self._values.add((vr, learnt, charset))

    def cleaner(self, profile: Profile) -> Cleaner:
        """Return what cleans text of these values, and knows whether all of them could be read with certainty."""
        dates_stay = profile.dates == "keep"
        readings = frozenset((vr, text) for vr, value, charset in self._values for text in charset.readings(value))
        certain = all(charset.decode(value) is not None for _, value, charset in self._values)
        ages_stay = "retain_patient_characteristics" in profile.options
        return Cleaner(identity(readings, dates_stay), dates_stay, ages_stay, certain, profile.words)
