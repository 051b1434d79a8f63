"""Commands for operators on the catalog's own machine: export, import, fsck. They work on the database directly, without access control."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TextIO

import psycopg
from cachetools import LRUCache
from mdm_service import database, settings
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import MdmError
from mdm_wire.path import Lfn, split

from mdm_catalog.config import CatalogSettings
from mdm_catalog.rules.model import ROOT_ID, Entry, Replica
from mdm_catalog.store import bulk
from mdm_catalog.store.reading import PostgresReadTransaction
from mdm_catalog.tool import exchange, fsck

_BATCH = 1_000
_MOST_PLACES = 100_000
#: An entry of an export: line number, path, entry, replicas.
_Line = tuple[int, Lfn, Entry, tuple[Replica, ...]]
_MALFORMED = (MdmError, KeyError, ValueError, TypeError, AttributeError)


def run(arguments: Sequence[str], migrations: Sequence[str]) -> int:
    """Run export, import or fsck; return the exit code: 0 if all is well, 1 if something was found or left out, 2 if it failed."""
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load(CatalogSettings, "catalog", options.config)
        if loaded.database is None:
            raise ConfigurationError("database: this service needs a [database] section")
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
            connection.execute("SET jit = off")
            connection.commit()
            if options.command == "fsck":
                return fsck.check(connection, options)
            return {"export": _export, "import": _import}[options.command](connection, options)
    except (ConfigurationError, MdmError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"mdm-catalog: {str(error).splitlines()[0]}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdm-catalog")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the namespace as JSON lines, from one snapshot")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--resume", action="store_true", help="continue an interrupted FILE; what is added is as it is now")
    load = commands.add_parser("import", help="put an export into this catalog; what exists already stays; repeating it is harmless")
    load.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE")
    load.add_argument("--skip", type=int, default=0, metavar="N", help="continue after line N")
    check = commands.add_parser("fsck", help="find what is wrong in the catalog itself")
    fsck.add_options(check)
    for command in (export, load, check):
        command.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    return parser


def _export(connection: psycopg.Connection, options: argparse.Namespace) -> int:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    after = _cut(options.out) if options.resume and options.out.exists() else None
    with options.out.open("a" if after else "w", encoding="utf-8") as out, connection.transaction():
        for line in exchange.export(PostgresReadTransaction(connection), after):
            out.write(line)
        out.flush()
        os.fsync(out.fileno())
    return 0


def _cut(file: Path) -> Lfn | None:
    """Cut an incomplete last line off an export; return the path of the last entry in it."""
    last = None
    with file.open("rb+") as content:
        whole = 0
        for line in content:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            if b'"lfn"' in line:
                last = line
        content.truncate(whole)
    return exchange.path_in(last.decode()) if last is not None else None


def _import(connection: psycopg.Connection, options: argparse.Namespace) -> int:
    number = options.skip
    work = _Import(connection, sys.stderr)
    with options.source.open(encoding="utf-8") as source:
        rest = islice(source, options.skip, None)
        while batch := list(islice(rest, _BATCH)):
            with connection.transaction():
                work.put(number + 1, batch)
            number += len(batch)
            sys.stderr.write(f"{number} lines done; to go on from here: --skip {number}\n")
    return 1 if work.wrong else 0


class _Import:
    """One run of import; `wrong` counts the lines that cannot be imported, each reported with its reason."""

    def __init__(self, connection: psycopg.Connection, errors: TextIO) -> None:
        self.wrong = 0
        self._connection = connection
        self._errors = errors
        self._places: LRUCache[Lfn, int] = LRUCache(_MOST_PLACES)

    def put(self, first: int, lines: Sequence[str]) -> None:
        """Restore the ACLs and entries of lines, numbered from `first`."""
        entries: list[_Line] = []
        for number, line in enumerate(lines, first):
            try:
                fields = json.loads(line)
                kind = fields["type"]
                if kind == "acl":
                    if not bulk.put_acl(self._connection, exchange.parse_acl(fields)):
                        self._refuse(number, "ACL_DIFFERS")
                elif kind == "catalog":
                    if fields["version"] != exchange.VERSION:
                        found = f"an export of version {fields['version']}; this program reads {exchange.VERSION}"
                        raise ConfigurationError(f"line {number}: {found}")
                elif kind != "end":
                    entries.append((number, *exchange.parse_entry(fields)))
            except _MALFORMED as error:
                self._refuse(number, error.reason if isinstance(error, MdmError) else "LINE_MALFORMED")
        # Neighbours of one directory together, in the order of the lines: a directory's comes before those of its contents.
        for directory, group in groupby(entries, key=lambda item: split(item[1])[0]):
            self._put_into(directory, list(group))

    def _put_into(self, lfn: Lfn, entries: Sequence[_Line]) -> None:
        parent = self._directory(lfn)
        if parent is None:
            for number, *_ in entries:
                self._refuse(number, "DIRECTORY_MISSING")
            return
        found = bulk.put_entries(self._connection, [entry._replace(parent_id=parent) for _, _, entry, _ in entries])
        replicas: list[tuple[int, Replica]] = []
        line_of: dict[str, int] = {}
        for number, _, entry, copies in entries:
            entry_id, guid = found.get((parent, entry.name), (None, None))
            if entry_id is None or guid != entry.guid:
                self._refuse(number, "GUID_TAKEN" if entry_id is None else "LFN_TAKEN")
            else:
                replicas.extend((entry_id, copy) for copy in copies)
                line_of |= {copy.surl: number for copy in copies}
        for surl in bulk.put_replicas(self._connection, replicas):
            self._refuse(line_of[surl], "SURL_TAKEN")

    def _directory(self, lfn: Lfn) -> int | None:
        """Return the id of a directory, found name by name; recently used ones are cached."""
        if lfn == "/":
            return ROOT_ID
        if lfn not in self._places:
            above, name = split(lfn)
            parent = self._directory(above)
            found = bulk.directory_at(self._connection, parent, name) if parent is not None else None
            if found is None:
                return None
            self._places[lfn] = found
        return self._places[lfn]

    def _refuse(self, number: int, reason: str) -> None:
        self.wrong += 1
        self._errors.write(json.dumps({"line": number, "reason": reason}) + "\n")
