"""The command that shows images in a browser: view."""

import logging
import warnings
from pathlib import Path

import click

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.catalog.listing import SIZE
from mdm_client.cli.context import Session, keep_freed_memory, session_command
from mdm_client.cli.local_server import check_installed, serve_page
from mdm_client.cli.output import print_line
from mdm_client.name_syntax import parse_names

_NPM = "npm"


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@click.option("--query", "sql", metavar="SQL", help="Open the page with a metadata query.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port on 127.0.0.1 (default: a free one).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep there, encrypted under a key of this process, what memory has no room for.",
)
@click.option("--memory", type=SIZE, metavar="SIZE", default="1G", show_default=True, help="Memory for images.")
@click.option(
    "--fetch-viewer",
    is_flag=False,
    flag_value=_NPM,
    metavar="[FILE]",
    help="Install OHIF by npm, or out of the FILE that npm pack made, and end.",
)
@session_command
def view(
    run: Session,
    targets: tuple[str, ...],
    sql: str | None,
    port: int | None,
    no_browser: bool,
    cache: Path | None,
    memory: int,
    fetch_viewer: str | None,
) -> None:
    """Find studies in a browser and look at them in OHIF, under your own certificate.

    Each TARGET (LFN or GUID) leads to its study. Images are decrypted in this process only, and served to your browser on this machine.
    Control-C ends it, and everything is forgotten.
    """
    check_installed("mdm view")
    if targets and sql:
        raise click.UsageError("name TARGETs or --query SQL, not both")
    from mdm_client.view import ohif
    from mdm_client.view.server import ViewOptions, ViewServer

    if fetch_viewer is not None:
        ohif.install(ohif.default_folder(), None if fetch_viewer == _NPM else Path(fetch_viewer))
        print_line(f"OHIF {ohif.VERSION} is in {ohif.default_folder()}")
        return
    keep_freed_memory()
    # What modalities wrote is shown as it is; remarks about it are for nobody here.
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    names = parse_names(targets)
    server = ViewServer(run.client(), ViewOptions(port or 0, memory, cache))
    try:
        address = server.address(names, sql)
        facts = {"address": address, "dicom_web": server.gateway.root, "token": server.guard.token}
        hint = "" if server.has_viewer else "OHIF is not installed yet: mdm view --fetch-viewer"
        serve_page(server.run, address, facts if run.as_json else None, hint, browse=not no_browser)
    finally:
        server.close()
