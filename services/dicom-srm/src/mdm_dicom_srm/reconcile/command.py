"""The command `mdm-dicom-srm reconcile`: one JSON line for each kind of difference."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import psycopg
from mdm_service import database, settings
from mdm_service.server.monitoring import configure_log
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import MdmError
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.reconcile.composition import Parts, build_reconciliation
from mdm_dicom_srm.reconcile.rules.service import Limits
from mdm_dicom_srm.reconcile.store.registry import ReconciliationStore
from mdm_dicom_srm.reconcile.worker import reconcile_now

#: Opens what reconciliation needs.
Open = Callable[[Settings, ConnectionPool], Parts]


def run(arguments: Sequence[str], migrations: Sequence[str], open_parts: Open) -> int:
    """Reconcile once; return the exit code: 0 nothing is left that differs, 1 something is, 2 it failed."""
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load(Settings, "dicom-srm", options.config)
        configure_log("dicom-srm", "ERROR")
        if loaded.database is None:
            raise ConfigurationError("database: this service needs a [database] section")
        with psycopg.connect(loaded.database.full_conninfo()) as connection:
            database.check_schema(connection, migrations)
        with database.open_pool(loaded.database) as pool:
            chosen = loaded.reconcile
            most, share = (options.limit, 1.0) if options.limit else (chosen.max_repairs, chosen.max_share)
            reconciliation = build_reconciliation(loaded, open_parts(loaded, pool), options.min_age)
            limits = Limits(options.repair, most, share, options.destroy_keys)
            differences = reconcile_now(reconciliation, ReconciliationStore(pool), limits)
    except (ConfigurationError, MdmError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"mdm-dicom-srm: {str(error).splitlines()[0]}\n")
        return 2
    for difference in differences:
        sys.stdout.write(json.dumps(asdict(difference)) + "\n")
    return 1 if any(difference.repaired < difference.found for difference in differences) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdm-dicom-srm reconcile")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see config.example.toml")
    parser.add_argument("--repair", action="store_true", help="repair what can be repaired; without it, everything is only reported")
    parser.add_argument("--limit", type=_count, metavar="N", help="repair no kind found more than N times, whatever its share of the site")
    parser.add_argument(
        "--destroy-keys",
        action="store_true",
        help="with --repair: also destroy keys that no registration knows; copies of their files can never be read again",
    )
    parser.add_argument("--min-age", type=_seconds, metavar="SECONDS", help="leave alone what is younger (default: as configured)")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError("needs a number from 1")
    return int(text)


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError("needs a number of seconds")
    return float(text)
