"""Options of several commands: spelt one way, still understanding what they were called before; values of parameters in SQL."""

from collections.abc import Callable, Mapping, Sequence
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


def parameter_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--param NAME=VALUE`, which gives the command `parameters`."""
    return click.option(
        "--param",
        "parameters",
        cls=Respelt,
        old=["-p"],
        multiple=True,
        metavar="NAME=VALUE",
        callback=_parsed_parameters,
        help="The value of :NAME in the SQL, whatever is in it; may be given several times.",
    )(command)


def _parsed_parameters(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Mapping[str, str]:
    del context, option
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise click.BadParameter("write NAME=VALUE, and :NAME in the SQL")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found
