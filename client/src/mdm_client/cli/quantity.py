"""Sizes and times as people type them."""

import re
from datetime import UTC, datetime, timedelta

import click

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMGT]?)(B?)")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AGO = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class SizeType(click.ParamType[int]):
    """Bytes, such as 512, 10k, 1.5MB (decimal units)."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return a number of bytes."""
        match = _SIZE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a size: write 512, 10k, 1.5MB", param, ctx)
        return int(float(match[1]) * _FACTORS[match[2]])


class MomentType(click.ParamType[datetime]):
    """A time: a date, a date with a time (UTC unless it says otherwise), or how long ago, such as 90m, 2d."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a moment with its time zone."""
        text = str(value)
        match = _AGO.fullmatch(text)
        try:
            if match:
                return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a time: write 2026-01-31, 2026-01-31T12:00 or 2d (ago)", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


SIZE = SizeType()
MOMENT = MomentType()
