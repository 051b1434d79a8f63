"""Groups of commands that are imported when they are run, so that no command waits for what others need; other packages add some."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from mdm_client.cli.example import with_example

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The entry points by which other packages add commands to `mdm`.
ENTRY_POINTS = "mdm.commands"


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


class ExtendableGroup(LazyGroup):
    """A group that also has the commands of installed packages; they are imported when they are run, and replace none of ours."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of our own commands and of those that other packages offer."""
        return sorted({*super().list_commands(context), *_offers()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, or None if nobody has it.

        Raises:
            click.ClickException: the package that offers it cannot be imported.
        """
        own = super().get_command(context, name)
        if own is not None or name not in _offers():
            return own
        entry = _offers()[name]
        try:
            command = entry.load()
        except ImportError as error:
            raise click.ClickException(f"{name}: {entry.value} cannot be imported, is its package fully installed? {error}") from error
        return command if isinstance(command, click.Command) else None

    def summary(self, context: click.Context, name: str) -> str:
        """Return what the help says of a command; of another package's command, that it is."""
        if name in self.lazy or name in self.commands:
            return super().summary(context, name)
        entry = _offers()[name]
        package = entry.dist.name if entry.dist else "another package"
        return f"Added by {package}: mdm {name} --help."


@cache
def _offers() -> "dict[str, EntryPoint]":
    """Return the entry points by name; every installed package is looked at, which our own commands need not wait for."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
