"""Removal of results: not only the name, but description, key and bytes."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from mdm_wire.errors import MdmError, NotFound
from mdm_wire.url import surl_authority

from mdm_client.catalog.model import DIRECTORY, FILE, Entry
from mdm_client.client import Client
from mdm_client.name_syntax import Name


def remove_results(client: Client, names: Sequence[Name], recursive: bool) -> dict[Name, MdmError | None]:
    """Have sites remove the results that the caller owns: those named, and with `recursive` those in directories that are named.

    Return what became of names that are results themselves; of any other name, and of what a site does not know, the name is left.
    """
    found: dict[str, dict[UUID, Name | None]] = {}
    for name, entry in zip(names, client.catalog.stat(names, follow=False, with_replicas=True), strict=True):
        if isinstance(entry, MdmError):
            continue
        for item in _files(client, entry, recursive):
            if item.guid is not None and item.owner == client.caller and (site := _site(client, item)):
                found.setdefault(site, {})[item.guid] = name if item is entry else None
    gone: dict[Name, MdmError | None] = {}
    for site, of_name in found.items():
        try:
            errors = client.results(site).remove(list(of_name))
        except MdmError as error:
            errors = [NotFound(error.reason, error.message) if error.reason == "NO_RESULT_SPACE" else error] * len(of_name)
        for known, failure in zip(of_name.values(), errors, strict=True):
            if known is not None and not isinstance(failure, NotFound):
                gone[known] = failure
    return gone


def _files(client: Client, entry: Entry, recursive: bool) -> Iterator[Entry]:
    if entry.kind == FILE:
        yield entry
    elif entry.kind == DIRECTORY and recursive and entry.owner:
        yield from (item for item in client.catalog.list_entries(entry.lfn, recursive=True, with_replicas=True) if item.kind == FILE)


def _site(client: Client, entry: Entry) -> str:
    """Return the site of the configuration that has a file; empty if none has."""
    authorities = [surl_authority(surl) for surl in entry.surls if surl.startswith("srm://")]
    return next((site for site in authorities if site in client.config.srm), "")
