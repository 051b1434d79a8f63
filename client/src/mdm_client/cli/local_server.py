"""Commands that serve a page on this machine until Control-C: the address, and the browser that opens it."""

import asyncio
import importlib.util
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.output import print_json

_NEEDED = ("aiohttp", "numpy", "PIL", "pydicom")
# What serves until it is cancelled, and calls its argument when requests are taken.
_Serve = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


def check_installed(command: str) -> None:
    """Raise Invalid unless the packages are there that a page needs."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Invalid("VIEW_NOT_INSTALLED", f"{command} needs {', '.join(missing)}: pip install 'mdm-client[view]'")


def serve_page(serve: _Serve, address: str, facts: Mapping[str, str] | None, hint: str = "", *, browse: bool) -> None:
    """Serve until Control-C or SIGTERM; print the address, or `facts` as JSON if they are given, and open a browser if asked."""

    def ready() -> None:
        if facts is not None:
            print_json(dict(facts))
            sys.stdout.flush()
        else:
            click.echo(address)
            click.echo("Open this address in your browser; it works once. Control-C ends.", err=True)
            if hint:
                click.echo(hint, err=True)
        if browse and _has_screen():
            # Nobody waits for a browser that does not return.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    asyncio.run(_until_stopped(serve, ready))


async def _until_stopped(serve: _Serve, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(serve(ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    await serving


def _has_screen() -> bool:
    """Return whether a browser with windows can be opened; one of the terminal would take it away from this command."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
