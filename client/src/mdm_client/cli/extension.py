"""Commands that other packages add to `mdm`, by an entry point of the group `mdm.commands`."""

from functools import cache
from typing import TYPE_CHECKING

import click

from mdm_client.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "mdm.commands"


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

    return {entry.name: entry for entry in entry_points(group=GROUP)}
