"""Commands for files of any kind: encrypt, decrypt."""

import sys
import time
from pathlib import Path
from uuid import UUID

import click
from mdm_wire.errors import Invalid

from mdm_client.cli.context import Session, keep_freed_memory, session_command
from mdm_client.cli.keystore.key import acl_options, entries_of, find_key, register_keys
from mdm_client.cli.output import counted_bytes, print_json, readable_size, show
from mdm_client.keystore import file_cipher
from mdm_client.local_file import STANDARD, InputFile

_fsync = click.option("--fsync", is_flag=True, help="Have the file on disk before it gets its name.")


@click.command()
@click.argument("identifier", metavar="ID")
@click.argument("source", metavar="IN")
@click.argument("destination", metavar="OUT")
@click.option("--register", is_flag=True, help="Create the key if there is none (see mdm key register).")
@acl_options
@_fsync
@session_command
def encrypt(
    run: Session,
    identifier: str,
    source: str,
    destination: str,
    register: bool,
    acl_id: UUID | None,
    grants: tuple[tuple[str, str], ...],
    fsync: bool,
) -> None:
    """Encrypt the file IN into the file OUT under the key ID; - is standard input or output.

    ID is a GUID, or the LFN or SURL of a file in the catalog. Any file of any size; OUT names its key and is what mdm decrypt reads.
    OUT appears when it is whole. To standard output goes what is ready, and a pipe cut short does not decrypt.
    """
    entries = entries_of(grants)
    if (acl_id or entries) and not register:
        raise click.UsageError("--acl and --grant are for --register")
    if destination == STANDARD and sys.stdout.isatty():
        raise Invalid("LOCAL_FILE", "standard output is a terminal: redirect it, or name a file")
    keep_freed_memory()
    client = run.client()
    guid = find_key(client, identifier)
    if register:
        with InputFile(source):  # no key is made for an input that cannot be read
            pass
        _, errors = register_keys(client, [guid], acl_id, entries)
        error = errors[guid]
        if error is not None:
            raise error.at(str(guid))
    began = time.monotonic()
    with counted_bytes(_size(source)) as received:
        size = file_cipher.encrypt(client.keystores, guid, source, destination, fsync, received)
    _report(run, "encrypted", guid, source, destination, size, time.monotonic() - began)


@click.command()
@click.argument("identifiers", metavar="[ID]", nargs=-1)
@click.argument("source", metavar="IN")
@click.argument("destination", metavar="OUT")
@_fsync
@session_command
def decrypt(run: Session, identifiers: tuple[str, ...], source: str, destination: str, fsync: bool) -> None:
    """Decrypt the file IN into the file OUT; - is standard input or output.

    IN names its key; with ID it must be that one. A staged file of dicom-srm does not name its key: give its ID.
    A file that was altered, cut short, reordered, put together from several, or encrypted under another key is refused.

    OUT appears when all of it is verified; after an error nothing of it is left. If OUT is standard output, the whole file is verified
    before the first byte is written. Standard input cannot be read twice: from pipe to pipe, each part is verified before it is
    written, but whether one is missing shows only at the end: discard the output if the exit code is not 0.
    """
    if len(identifiers) > 1:
        raise click.UsageError("too many arguments: mdm decrypt [ID] IN OUT")
    keep_freed_memory()
    client = run.client()
    wanted = find_key(client, identifiers[0]) if identifiers else None
    began = time.monotonic()
    with counted_bytes(_size(source, 2 if destination == STANDARD else 1)) as received:
        guid, size = file_cipher.decrypt(client.keystores, wanted, source, destination, fsync, received)
    _report(run, "decrypted", guid, source, destination, size, time.monotonic() - began)


def _size(source: str, times: int = 1) -> int | None:
    """Return how many bytes will be read if a file is read so many times, None if its size is unknown."""
    path = Path(source)
    return path.stat().st_size * times if source != STANDARD and path.is_file() else None


def _report(run: Session, done: str, guid: UUID, source: str, destination: str, size: int, seconds: float) -> None:
    """Write what was done; on standard error, and only as JSON, if standard output is the file."""
    facts = {"guid": str(guid), "in": source, "out": destination, "size": size}
    if destination == STANDARD:
        if run.as_json:
            print_json(facts, sys.stderr)
    else:
        show(run.as_json, facts, f"{done} {source} into {destination} ({readable_size(size)} in {seconds:.1f} s) under key {guid}")
