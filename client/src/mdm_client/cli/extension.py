"""Commands that other packages add to `mdm`, by an entry point of the group `mdm.commands`."""

from importlib.metadata import entry_points

import click

GROUP = "mdm.commands"


class ExtendableGroup(click.Group):
    """A group that also has the commands of installed packages; they are imported when they are run or listed, and replace none of ours."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of our own commands and of those that other packages offer."""
        return sorted({*super().list_commands(context), *entry_points(group=GROUP).names})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, or None if nobody has it.

        Raises:
            click.ClickException: the package that offers it cannot be imported.
        """
        own = super().get_command(context, name)
        offered = entry_points(group=GROUP, name=name)
        if own is not None or not offered:
            return own
        entry = next(iter(offered))
        try:
            command = entry.load()
        except ImportError as error:
            raise click.ClickException(f"{name}: {entry.value} cannot be imported, is its package fully installed? {error}") from error
        return command if isinstance(command, click.Command) else None
