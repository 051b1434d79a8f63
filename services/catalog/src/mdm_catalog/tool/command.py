"""Commands for operators on the catalog's own machine: export, import, fsck. They work on the database, past the access lists."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

import psycopg
from cachetools import LRUCache
from mdm_service import database, settings
from mdm_service.errors import ConfigurationError
from mdm_wire.errors import MdmError
from mdm_wire.path import Lfn, split

from mdm_catalog.config import CatalogSettings
from mdm_catalog.rules.model import ROOT_ID, Entry, Replica
from mdm_catalog.store import bulk
from mdm_catalog.store.reading import PostgresReading
from mdm_catalog.tool import exchange, fsck

_BATCH = 1_000
_MOST_PLACES = 100_000
_MALFORMED = (MdmError, KeyError, ValueError, TypeError, AttributeError)


def run(arguments: Sequence[str], migrations: Sequence[str]) -> int:
    """Run export, import or fsck; return the exit code: 0 all is well, 1 something was found or left out, 2 it could not be done."""
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
                return fsck.check(connection, loaded, options)
            return {"export": _export, "import": _import}[options.command](connection, options)
    except (ConfigurationError, MdmError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"mdm-catalog: {str(error).splitlines()[0]}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdm-catalog")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the namespace as JSON lines, from one snapshot")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--resume", action="store_true", help="go on where FILE breaks off; what is added is as it is now")
    load = commands.add_parser("import", help="put an export into this catalog; what is there already stays; repeating it is harmless")
    load.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE")
    load.add_argument("--skip", type=int, default=0, metavar="N", help="go on after line N")
    check = commands.add_parser("fsck", help="look for what is wrong, and for what is in one service and not in the others")
    fsck.add_options(check)
    for command in (export, load, check):
        command.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    return parser


def _export(connection: psycopg.Connection, options: argparse.Namespace) -> int:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    after = _cut(options.out) if options.resume and options.out.exists() else None
    with options.out.open("a" if after else "w", encoding="utf-8") as out, connection.transaction():
        for line in exchange.export(PostgresReading(connection), after):
            out.write(line)
        out.flush()
        os.fsync(out.fileno())
    return 0


def _cut(file: Path) -> Lfn | None:
    """Take a line that is not whole off the end of an export; return the last path in it."""
    with file.open("rb+") as content:
        whole = 0
        last: list[str] = []
        for line in content:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            if b'"lfn"' in line:
                last = [line.decode()]
        content.truncate(whole)
    return exchange.last_path(iter(last))


def _import(connection: psycopg.Connection, options: argparse.Namespace) -> int:
    wrong = 0
    number = options.skip
    places: LRUCache[Lfn, int] = LRUCache(_MOST_PLACES)
    with options.source.open(encoding="utf-8") as source:
        rest = islice(source, options.skip, None)
        while batch := list(islice(rest, _BATCH)):
            with connection.transaction():
                wrong += _put(connection, number + 1, batch, places, sys.stderr)
            number += len(batch)
            sys.stderr.write(f"{number} lines done; to go on from here: --skip {number}\n")
    return 1 if wrong else 0


def _put(connection: psycopg.Connection, first: int, lines: Sequence[str], places: MutableMapping[Lfn, int], errors: TextIO) -> int:
    """Put the ACLs and entries of lines into the catalog; return how many could not be, each with a line that says why."""
    waiting: list[tuple[int, Lfn, Entry, tuple[Replica, ...]]] = []
    wrong = 0

    def complain(number: int, reason: str) -> None:
        nonlocal wrong
        wrong += 1
        errors.write(json.dumps({"line": number, "reason": reason}) + "\n")

    for number, line in enumerate(lines, first):
        try:
            fields = json.loads(line)
            kind = fields["type"]
            if kind == "acl":
                if bulk.put_acls(connection, [exchange.parse_acl(fields)]):
                    complain(number, "ACL_DIFFERS")
            elif kind == "catalog":
                if fields["version"] != exchange.VERSION:
                    raise ConfigurationError(
                        f"line {number}: an export of version {fields['version']}; this program reads {exchange.VERSION}"
                    )
            elif kind != "end":
                waiting.append((number, *exchange.parse_entry(fields)))
        except _MALFORMED as error:
            complain(number, error.reason if isinstance(error, MdmError) else "LINE_MALFORMED")
    for group in _by_directory(waiting):
        parent = _directory(connection, split(group[0][1])[0], places)
        if parent is None:
            for number, *_ in group:
                complain(number, "DIRECTORY_MISSING")
            continue
        found = bulk.put_entries(connection, [entry._replace(parent_id=parent) for _, _, entry, _ in group])
        replicas: list[tuple[int, Replica]] = []
        line_of: dict[str, int] = {}
        for number, _, entry, copies in group:
            entry_id, guid = found.get((parent, entry.name), (None, None))
            if entry_id is None or guid != entry.guid:
                complain(number, "GUID_TAKEN" if entry_id is None else "LFN_TAKEN")
            else:
                replicas.extend((entry_id, copy) for copy in copies)
                line_of |= {copy.surl: number for copy in copies}
        for surl in bulk.put_replicas(connection, replicas):
            complain(line_of[surl], "SURL_TAKEN")
    return wrong


def _by_directory(waiting: Sequence[tuple[int, Lfn, Entry, tuple[Replica, ...]]]) -> Iterator[list[Any]]:
    """Give neighbours of one directory together, in the order of the lines: a directory's stands before those of what is in it."""
    return (list(group) for _, group in groupby(waiting, key=lambda item: split(item[1])[0]))


def _directory(connection: psycopg.Connection, lfn: Lfn, places: MutableMapping[Lfn, int]) -> int | None:
    """Return the id of a directory, found name by name; `places` keeps those used last."""
    if lfn == "/":
        return ROOT_ID
    if lfn not in places:
        above, name = split(lfn)
        parent = _directory(connection, above, places)
        found = bulk.directory_at(connection, parent, name) if parent is not None else None
        if found is None:
            return None
        places[lfn] = found
    return places[lfn]
