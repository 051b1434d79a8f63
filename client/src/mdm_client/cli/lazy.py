"""A group of commands that are imported when they are run, so that no command waits for what others need."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from mdm_client.cli.example import with_example


class LazyGroup(click.Group):
    """A group whose `lazy` commands are named with where they are (`module:attribute`) and what its help says of them."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lazy = dict(lazy or {})

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands, in order."""
        return sorted({*super().list_commands(context), *self.lazy})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, imported; None if there is none of that name."""
        if name in self.lazy:
            module, _, attribute = self.lazy[name][0].partition(":")
            command: click.Command | None = getattr(import_module(module), attribute)
        else:
            command = super().get_command(context, name)
        return with_example(command, " ".join([*context.command_path.split()[1:], name])) if command else None

    def summary(self, context: click.Context, name: str) -> str:
        """Return what the help says of a command, in one line; nothing lazy is imported for it."""
        if name in self.lazy:
            return self.lazy[name][1]
        command = self.get_command(context, name)
        return command.get_short_help_str(100) if command else ""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the end of the help, deeper than the names of commands above it, of which it is none."""
        with formatter.indentation():
            super().format_epilog(context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section of the help that lists the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.summary(context, name)) for name in self.list_commands(context)])
