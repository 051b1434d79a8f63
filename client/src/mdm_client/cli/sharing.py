"""Options of every command that changes access lists: what becomes of a list that guards other objects too."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def sharing_options(command: _Command) -> _Command:
    """Give a command --shared and --own. Without either, a list that other objects share is left alone: ACL_SHARED."""
    shared = click.option("--shared", is_flag=True, help="Change lists that guard other objects too, for all of these.")
    own = click.option("--own", is_flag=True, help="First give the object itself a list of its own, a copy of the one it shares.")
    return shared(own(command))


def check_sharing(shared: bool, own: bool) -> None:
    """Refuse both options together."""
    if shared and own:
        raise click.UsageError("--shared does not go with --own: a list of its own is not shared")
