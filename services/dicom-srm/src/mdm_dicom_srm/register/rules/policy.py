"""The site policy: which instances are registered at all, decided before they are judged."""

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

from mdm_dicom_srm.register.rules.facts import Facts

#: The reason of what the policy leaves out.
SITE_POLICY = "SITE_POLICY"
#: The name of the rule that leaves out what no other rule decides.
DEFAULT_RULE = "default"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Registers or leaves out what meets every condition that is given; of the values of a condition one suffices.

    Values are patterns with `*`, `?` and `[…]`, compared without regard to case. A date that is missing is in no range; an instance that
    was retrieved has no calling AE title.
    """

    name: str
    register: bool
    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    stations: tuple[str, ...] = ()
    calling_ae_titles: tuple[str, ...] = ()
    study_descriptions: tuple[str, ...] = ()
    series_descriptions: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None

    def matches(self, facts: Facts, calling_ae: str) -> bool:
        """Return whether the rule decides about an instance."""
        conditions = (
            (self.modalities, facts.modality),
            (self.sop_classes, facts.sop_class),
            (self.stations, facts.station),
            (self.calling_ae_titles, calling_ae),
            (self.study_descriptions, facts.study_description),
            (self.series_descriptions, facts.series_description),
        )
        day = facts.day()
        return (
            all(not patterns or _any(patterns, value) for patterns, value in conditions)
            and (self.since is None or (day is not None and day >= self.since))
            and (self.until is None or (day is not None and day <= self.until))
        )


class SitePolicy:
    """Rules in order: the first that matches decides, else the default. `fingerprint` changes with the rules."""

    def __init__(self, rules: Sequence[PolicyRule] = (), *, register_others: bool = True) -> None:
        self._rules = tuple(rules)
        self._register_others = register_others
        content = json.dumps([[asdict(rule) for rule in self._rules], register_others], default=str)
        self.fingerprint = hashlib.sha256(content.encode()).digest()

    def leaves_out(self, facts: Facts, calling_ae: str = "") -> str:
        """Return the name of the rule that leaves an instance out, "" if it is to be registered."""
        for rule in self._rules:
            if rule.matches(facts, calling_ae):
                return "" if rule.register else rule.name
        return "" if self._register_others else DEFAULT_RULE


def _any(patterns: Sequence[str], value: str) -> bool:
    return any(fnmatch.fnmatchcase(value.casefold(), pattern.casefold()) for pattern in patterns)
