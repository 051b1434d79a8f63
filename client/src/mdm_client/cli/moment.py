"""Moments as commands show them: for programs as ISO 8601, for people as how long ago, or how far ahead."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def iso(moment: Timestamp) -> str:
    """Return a moment in UTC, such as 2026-03-17T09:30:00Z."""
    return f"{moment.ToDatetime(UTC):%Y-%m-%dT%H:%M:%SZ}"


def age(moment: Timestamp) -> str:
    """Return how long ago a moment was, in the largest unit that fits, such as `3 d`; one in the future is `0 s` ago."""
    return _readable(-_seconds_ahead(moment))


def ahead(moment: Timestamp) -> str:
    """Return how far ahead a moment is, in the largest unit that fits, or `now` if it has come."""
    seconds = _seconds_ahead(moment)
    return _readable(seconds) if seconds > 0 else "now"


def _seconds_ahead(moment: Timestamp) -> float:
    return (moment.ToDatetime(UTC) - datetime.now(UTC)).total_seconds()


def _readable(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{max(0, int(seconds)) // size} {unit}"
