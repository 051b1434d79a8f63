"""What is repeated, after which errors, and for how long."""

import pytest
from mdm_wire.errors import Aborted, Exhausted, Forbidden, Invalid, MdmError, NotFound, TimedOut, Unauthenticated, Unavailable
from mdm_wire.retry import Backoff, Retries, is_transient, is_unavailable, needs_mending
from mdm_wire.status import REASON_HANDSHAKE_REFUSED, REASON_NO_SUCH_HOST, REASON_TOO_MANY_CALLS

AWAY = Unavailable("UNAVAILABLE", "cannot be reached")
BUSY = Exhausted(REASON_TOO_MANY_CALLS, "wait")
NO_HOST = Unavailable(REASON_NO_SUCH_HOST, "no such host")
REFUSED = Unauthenticated(REASON_HANDSHAKE_REFUSED, "refused")


@pytest.mark.parametrize(
    ("error", "transient", "away", "mending"),
    [
        (AWAY, True, True, False),
        (BUSY, True, True, False),
        (Exhausted("NO_FREE_SPACE", "full"), True, False, False),
        (TimedOut("DEADLINE_EXCEEDED", "late"), True, False, False),
        (Aborted("KEY_CONTENDED", "again"), True, False, False),
        (NO_HOST, False, False, True),
        (REFUSED, False, False, True),
        (NotFound("KEY_NOT_FOUND", "none"), False, False, False),
        (Forbidden("FORBIDDEN", "no"), False, False, False),
        (Invalid("WRONG", "no"), False, False, False),
    ],
    ids=lambda value: value.reason if isinstance(value, MdmError) else "",
)
def test_each_error_is_transient_or_away_or_needs_mending(error, transient, away, mending):
    assert (is_transient(error), is_unavailable(error), needs_mending(error)) == (transient, away, mending)


def test_pauses_double_up_to_the_longest_and_begin_anew():
    backoff = Backoff(0.1, 0.4)
    for expected in (0.1, 0.2, 0.4, 0.4):
        assert 0.7 * expected <= backoff.pause() <= 1.3 * expected
    backoff.reset()
    assert backoff.pause() <= 0.13


def test_attempts_end_when_the_next_would_come_too_late_and_progress_gives_them_time_again():
    pauses: list[float] = []
    retries = Retries(0.35, Backoff(0.2, 0.2), pauses.append)
    retries.after(AWAY)
    assert len(pauses) == 1, "an attempt that is worth it comes after a pause"
    late = Retries(0.05, Backoff(0.2, 0.2), pauses.append)
    assert late.pause() is False
    with pytest.raises(Unavailable):
        late.after(AWAY)
    with pytest.raises(NotFound):
        retries.after(NotFound("KEY_NOT_FOUND", "none"))
    assert len(pauses) == 1, "nobody waits for what does not come"


def test_one_refused_handshake_is_forgiven_until_there_is_progress():
    retries = Retries(10, Backoff(), lambda _: None)
    retries.after(REFUSED)
    with pytest.raises(Unauthenticated):
        retries.after(REFUSED)
    retries.progress()
    retries.after(REFUSED)
