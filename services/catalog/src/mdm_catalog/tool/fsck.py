"""Looking for what is wrong in the catalog, and for what is in one service and not in the others; mending it."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from uuid import UUID

import psycopg
from mdm_service.errors import ConfigurationError

from mdm_catalog.config import CatalogSettings
from mdm_catalog.store import bulk
from mdm_catalog.store.bulk import Difference
from mdm_catalog.tool.inventory import Inventory

_BATCH = 500
_AT_MOST = 100
# Mends a batch; returns why not, by GUID.
Remedy = Callable[[Sequence[UUID]], Mapping[UUID, str]]


def add_options(check: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    check.add_argument("--client", type=Path, metavar="FILE", help="an operator's mdm configuration: ask keystores, metadata, dicom-srm")
    check.add_argument("--collection", action="append", default=[], metavar="PATH", help="records of files are here; may be repeated")
    check.add_argument("--min-age", type=float, default=3600, metavar="SECONDS", help="what is younger may still be under way")
    check.add_argument("--repair", action="store_true", help="mend what can be mended; without, everything is only listed")
    check.add_argument(
        "--destroy-keys",
        action="store_true",
        help="with --repair: destroy keys of images without a file on every keystore; copies of them can never be read again",
    )
    check.add_argument("--at-most", type=int, default=_AT_MOST, metavar="N", help=f"mend no problem that more than N have ({_AT_MOST})")


def check(connection: psycopg.Connection, settings: CatalogSettings, options: argparse.Namespace) -> int:
    """Report what is wrong, one JSON line each; return 1 if something is left, else 0.

    Raises:
        MdmError: a service does not answer, or not to an operator. ConfigurationError: the options do not fit together.
    """
    if options.destroy_keys and not (options.repair and options.client):
        raise ConfigurationError("--destroy-keys needs --repair and --client")
    if bool(options.collection) and not options.client:
        raise ConfigurationError("--collection needs --client")
    fsck = _Fsck(connection, options)
    fsck.own()
    if options.client:
        creators = settings.roles.get("service.dicom-srm", ())
        with closing(Inventory(options.client, creators, options.collection)) as inventory:
            fsck.keys(inventory)
            if options.collection:
                fsck.records(inventory)
    return 1 if fsck.left else 0


class _Fsck:
    """One run; `left` counts what is not as it should be."""

    def __init__(self, connection: psycopg.Connection, options: argparse.Namespace) -> None:
        self.left = 0
        self._connection = connection
        self._options = options

    def own(self) -> None:
        """Look at the catalog alone."""
        connection = self._connection
        with connection.transaction():
            miscounted = bulk.miscounted(connection)
            if miscounted and self._options.repair:
                bulk.recount(connection)
            for directory_id in miscounted:
                self._report("miscounted-directory", "directory_id", directory_id, repaired=self._options.repair)
        with connection.transaction():  # another one: counting anew keeps writers out until the end of its own
            for entry_id in bulk.unreachable(connection):
                self._report("unreachable-entry", "entry_id", entry_id)
            for guid in bulk.without_replica(connection):
                self._report("file-without-replica", "guid", str(guid))
            for surl in bulk.unfinished_replicas(connection, self._options.min_age):
                self._report("unfinished-replica", "surl", surl)

    def keys(self, inventory: Inventory) -> None:
        """Compare files with keys."""
        with self._connection.transaction():
            given = bulk.gather(self._connection, inventory.keys(), inventory.unfinished(), self._options.min_age)
            self._repair("file-short-of-shares", given.files_short, None)
            self._repair(
                "key-without-file", given.without_file, self._unless_there(inventory.destroy_keys) if self._options.destroy_keys else None
            )
            # Last, because it keeps writers out of the files' directories until the end.
            self._repair("file-without-key", given.files_without, self._remove_files)

    def records(self, inventory: Inventory) -> None:
        """Compare files with records."""
        with self._connection.transaction():
            given = bulk.gather(self._connection, inventory.records(), inventory.unfinished(), self._options.min_age)
            self._repair("file-without-record", given.files_without, None)
            self._repair("record-without-file", given.without_file, self._unless_there(inventory.delete_records))

    def _remove_files(self, guids: Sequence[UUID]) -> Mapping[UUID, str]:
        bulk.remove_files(self._connection, guids)
        return {}

    def _unless_there(self, remedy: Remedy) -> Remedy:
        """Return a remedy that looks once more, right before, whether the catalog has the files by now."""

        def repair(guids: Sequence[UUID]) -> Mapping[UUID, str]:
            there = bulk.files_among(self._connection, guids)
            return {**remedy([guid for guid in guids if guid not in there]), **dict.fromkeys(there, "FILE_THERE")}

        return repair

    def _repair(self, problem: str, found: Difference, remedy: Remedy | None) -> None:
        """Report what is found, and repair it where that is asked for and it is not suspiciously much."""
        if not self._options.repair:
            remedy = None
        if remedy is not None and (count := found.count()) > self._options.at_most:
            sys.stderr.write(f"{problem}: {count:,} found, nothing done: if that is true, repeat with --at-most {count}\n")
            remedy = None
        for batch in _batches(found):
            failed = remedy(batch) if remedy else {}
            for guid in batch:
                self._report(problem, "guid", str(guid), repaired=remedy is not None and guid not in failed, reason=failed.get(guid))

    def _report(self, problem: str, field: str, value: object, *, repaired: bool = False, reason: str | None = None) -> None:
        self.left += not repaired
        line = {"problem": problem, field: value, "repaired": repaired, **({"reason": reason} if reason else {})}
        sys.stdout.write(json.dumps(line) + "\n")


def _batches(guids: Iterable[UUID]) -> Iterator[list[UUID]]:
    rest = iter(guids)
    while batch := list(islice(rest, _BATCH)):
        yield batch
