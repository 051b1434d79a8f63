"""The command of curators that shows what waits in a browser: desk."""

import click

from mdm_client.cli.context import Session, session_command
from mdm_client.cli.local_server import check_installed, serve_page


@click.command()
@click.option("--site", default="", help="Which site; needed where several are configured.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port on 127.0.0.1 (default: a free one).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@session_command
def desk(run: Session, site: str, port: int | None, no_browser: bool) -> None:
    """Look at images that wait for a person in a browser, draw what is to be blanked, and decide (curators only, within the hospital).

    Pictures identify patients: they are fetched over the curators' listener, kept in memory and served to your browser on this machine
    only. Every decision is kept with your name. Control-C ends it, and everything is forgotten.
    """
    check_installed("mdm desk")
    from mdm_client.desk.server import DeskServer

    server = DeskServer(run.client(), site, port or 0)
    try:
        address = server.guard.entrance()
        facts = {"address": address, "token": server.guard.token}
        serve_page(server.run, address, facts if run.as_json else None, browse=not no_browser)
    finally:
        server.close()
