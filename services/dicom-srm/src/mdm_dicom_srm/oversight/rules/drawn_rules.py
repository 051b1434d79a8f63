"""The drawn rules that hold now, for registration and staging: those of kinds, and those of one image in which text was found."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from mdm_deid.pixels.drawn import DrawnRule, fingerprint

from mdm_dicom_srm.judgement import Drawn
from mdm_dicom_srm.oversight.rules.model import SiteRule

_SECONDS = 1.0


class CurrentRules(Protocol):
    """Where rules are kept; `PixelRuleStore` is one."""

    def current(self) -> Sequence[SiteRule]: ...


class DrawnRules:
    """Reads the rules again after a second, so that every instance of the service has those that curators made at another."""

    def __init__(
        self,
        rules: CurrentRules,
        of_image: Callable[[bytes | memoryview], DrawnRule | None] = lambda _part10: None,
        clock: Callable[[], float] = time.monotonic,
        masks: Callable[[bytes | memoryview], Drawn] = lambda _part10: (),
    ) -> None:
        """`of_image` returns the rule for one Part 10 file, if it has one of its own; `masks` the mask of its face, if there is one."""
        self._masks = masks
        self._rules = rules
        self._of_image = of_image
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._current: Drawn = ()

    def drawn(self, part10: bytes | memoryview) -> Drawn:
        """Return the rules that hold for a Part 10 file. Raises what the store raises: without its rules nothing is decided."""
        own, masks = self._of_image(part10), self._masks(part10)
        return (*self.current(), *masks) if own is None else (*self.current(), own, *masks)

    def current(self) -> Drawn:
        """Return the rules that curators made."""
        with self._lock:
            if self._clock() - self._read_at >= _SECONDS:
                self._read()
            return self._current

    def refresh(self) -> bool:
        """Read the rules now; return whether they have changed."""
        with self._lock:
            before = self._current
            self._read()
            return self._current != before

    def revision(self, base: str) -> str:
        """Return the digest of the rules of de-identification with the drawn ones; `base`, that of the others, if there are none."""
        found = fingerprint(self.current())
        return hashlib.sha256(f"{base}{found}".encode()).hexdigest() if found else base

    def _read(self) -> None:
        read = self._rules.current()
        self._current = tuple(drawn_rule(rule) for rule in read)
        self._read_at = self._clock()


def drawn_rule(rule: SiteRule) -> DrawnRule:
    """Return a curator's rule as de-identification applies it."""
    clears = frozenset(reason.lower() for reason in rule.reasons)
    if rule.only is not None:
        return DrawnRule.of_instance(rule.name, rule.only.instance, rule.regions, clears, rule.kind)
    return DrawnRule.of_kind(rule.name, rule.kind, rule.regions, clears)
