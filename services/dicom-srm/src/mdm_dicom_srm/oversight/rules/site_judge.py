"""Judging under the rules that curators drew, as well as those of the site's files."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from mdm_deid import Patient
from mdm_deid.outcome import Outcome

from mdm_dicom_srm.judgement import RELEASABLE, Judgement
from mdm_dicom_srm.oversight.rules.drawn_rules import DrawnRules
from mdm_dicom_srm.register.rules.port import Judge


class SiteJudge:
    """A judge whose rules change while the service runs; `inner` judges under those that were drawn, too."""

    def __init__(self, inner: Judge, drawn_rules: DrawnRules) -> None:
        self._inner = inner
        self._drawn = drawn_rules

    @property
    def rules(self) -> str:
        """The digest of all rules that hold now."""
        return self._drawn.revision(self._inner.rules)

    def begin(self, part10: bytes | memoryview, patient: Patient | None) -> "Future[Judgement]":
        """See `port.Judge`."""
        # In this order: if a rule comes between the two, it is judged once more, not once too few.
        rules = self.rules
        return then(self._inner.begin(part10, patient), lambda judgement: replace(judgement, rules=rules))

    def is_settled(self, judgement: Judgement, part10: bytes | memoryview) -> bool:
        """Return whether a curator has settled the reason for which it is held back, or has drawn a rule meanwhile, at any instance."""
        if self._inner.is_settled(judgement, part10):
            return True
        if not is_suspect(judgement):
            return False
        self._drawn.refresh()
        return judgement.rules != self.rules

    def judge(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file; see `port.Judge`."""
        judgement = self._judged(part10, patient)
        if is_suspect(judgement) and self._drawn.refresh():
            # A curator at another instance has just made a rule, perhaps for this image.
            judgement = self._judged(part10, patient)
        return judgement

    def _judged(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        rules = self.rules
        return replace(self._inner.judge(part10, patient), rules=rules)


def is_suspect(judgement: Judgement) -> bool:
    """Return whether an image waits for a suspicion about its pixels."""
    return judgement.outcome is Outcome.QUARANTINED and judgement.reason in RELEASABLE


def then(future: "Future[Judgement]", change: Callable[[Judgement], Judgement]) -> "Future[Judgement]":
    """Return a future of a judgement that is changed when it is there."""
    changed: Future[Judgement] = Future()

    def finish(done: "Future[Judgement]") -> None:
        if done.cancelled():
            changed.cancel()
            changed.set_running_or_notify_cancel()
        elif (error := done.exception()) is not None:
            changed.set_exception(error)
        else:
            try:
                changed.set_result(change(done.result()))
            except Exception as error:
                changed.set_exception(error)

    future.add_done_callback(finish)
    return changed
