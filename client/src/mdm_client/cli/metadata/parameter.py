"""The option of commands that take SQL: values of the parameters in it."""

from collections.abc import Callable, Mapping
from typing import Any

import click


def _parsed(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Mapping[str, str]:
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


def parameter_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--param NAME=VALUE`, which gives the command `parameters`."""
    return click.option(
        "-p",
        "--param",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_parsed,
        help="The value of :NAME in the SQL, whatever is in it; may be given several times.",
    )(command)
