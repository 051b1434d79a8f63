"""fsck: report what is wrong in the catalog itself; repair what can be. What other services have is `mdm-dicom-srm reconcile`'s."""

import argparse
import json
import sys

import psycopg

from mdm_catalog.store import bulk


def add_options(check: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    check.add_argument("--min-age", type=float, default=3600, metavar="SECONDS", help="ignore what is younger: it may still be under way")
    check.add_argument("--repair", action="store_true", help="repair what can be repaired; without it, everything is only listed")


def check(connection: psycopg.Connection, options: argparse.Namespace) -> int:
    """Report what is wrong, one JSON line each; return 1 if something is left, else 0."""
    left = 0
    with connection.transaction():
        miscounted = bulk.miscounted(connection)
        if miscounted and options.repair:
            bulk.recount(connection)
        for directory_id in miscounted:
            left += _report("miscounted-directory", "directory_id", directory_id, repaired=options.repair)
    with connection.transaction():  # another one: recounting locks out writers until its own ends
        for entry_id in bulk.unreachable(connection):
            left += _report("unreachable-entry", "entry_id", entry_id)
        for guid in bulk.without_replica(connection):
            left += _report("file-without-replica", "guid", str(guid))
        for surl in bulk.unfinished_replicas(connection, options.min_age):
            left += _report("unfinished-replica", "surl", surl)
    return 1 if left else 0


def _report(problem: str, field: str, value: object, *, repaired: bool = False) -> int:
    """Write a problem; return how many are left of it."""
    sys.stdout.write(json.dumps({"problem": problem, field: value, "repaired": repaired}) + "\n")
    return 0 if repaired else 1
