"""Options that are spelt one way in all commands, and still understand what they were called before."""

from collections.abc import Sequence
from typing import Any

import click


class Respelt(click.Option):
    """An option with `old` spellings: they are accepted, and neither the help nor a message shows them."""

    def __init__(self, declarations: Sequence[str], *, old: Sequence[str], **named: Any) -> None:
        super().__init__([*declarations, *old], **named)
        self.old = tuple(old)

    @property
    def spellings(self) -> list[str]:
        """The spellings that are shown."""
        return [spelling for spelling in self.opts if spelling not in self.old]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what the help says; see click.Parameter.get_help_record."""
        every, self.opts = self.opts, self.spellings
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return how a message names it; see click.Parameter.get_error_hint."""
        every, self.opts = self.opts, self.spellings
        try:
            return super().get_error_hint(ctx)
        finally:
            self.opts = every
