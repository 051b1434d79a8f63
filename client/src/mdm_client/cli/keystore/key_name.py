"""Keys as people name them: a GUID, or a file of the catalog, whose GUID is its key's."""

from collections.abc import Sequence
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError

from mdm_client.catalog.model import FILE
from mdm_client.client import Client
from mdm_client.names import parse_names


def find_keys(client: Client, texts: Sequence[str]) -> list[UUID | MdmError]:
    """Return the GUID of each key, or why it is not known; the catalog is asked only about names that are no GUIDs.

    Raises:
        Invalid: NAME_MALFORMED or LFN_MALFORMED.
        MdmError: the catalog could not be asked.
    """
    names = parse_names(texts)
    unresolved = [name for name in names if name.guid is None]
    entries = dict(zip(unresolved, client.catalog.stat(unresolved), strict=True)) if unresolved else {}
    found: list[UUID | MdmError] = []
    for name in names:
        if name.guid is not None:
            found.append(name.guid)
            continue
        entry = entries[name]
        if isinstance(entry, MdmError):
            found.append(entry)
        elif entry.kind != FILE or entry.guid is None:
            found.append(Invalid("NOT_A_FILE", f"{name}: not a file, so it has no key"))
        else:
            found.append(entry.guid)
    return found


def find_key(client: Client, text: str) -> UUID:
    """Return the GUID of one key.

    Raises:
        MdmError: it is malformed or not known.
    """
    (found,) = find_keys(client, [text])
    if isinstance(found, MdmError):
        raise found if text in found.message else found.at(text)
    return found
