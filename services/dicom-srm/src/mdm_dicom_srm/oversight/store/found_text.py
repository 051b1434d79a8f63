"""The table `found_text`: where text was found in images; positions, never words."""

import threading
import time
from typing import Any
from uuid import UUID

from mdm_deid.pixels.drawn import DrawnRule
from mdm_deid.pixels.image import Box
from mdm_wire.errors import Invalid
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.text import FoundText
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.register.rules.names import Names

_NAME = "text"
_SECONDS = 1.0


class FoundTextStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], names: Names) -> None:
        self._pool = pool
        self._names = names
        self._lock = threading.Lock()
        self._any, self._asked_at = False, float("-inf")

    def get(self, part10: bytes | memoryview) -> FoundText | None:
        """Return what was found in an image with this header; None if it was not looked at, or cannot be read."""
        key = self._key(part10)
        return None if key is None else self._get(*key[1:])

    def keep(self, part10: bytes | memoryview, found: FoundText) -> None:
        """Keep what was found in an image, instead of what was found before. One that cannot be read is not kept."""
        key = self._key(part10)
        if key is None:
            return
        with self._pool.connection() as connection:
            connection.execute(
                """
                INSERT INTO found_text (instance, digest, outcome, policy, blanked, clears, regions)
                VALUES (%(instance)s, %(digest)s, %(outcome)s, %(policy)s, %(blanked)s, %(clears)s, %(regions)s)
                ON CONFLICT (instance, digest) DO UPDATE SET at = now(), outcome = excluded.outcome, policy = excluded.policy,
                    blanked = excluded.blanked, clears = excluded.clears, regions = excluded.regions
                """,
                {
                    "instance": key[1],
                    "digest": key[2],
                    "outcome": found.outcome,
                    "policy": found.policy,
                    "blanked": found.blanked,
                    "clears": sorted(found.clears),
                    "regions": Jsonb([list(box) for box in found.regions]),
                },
            )
        if found.blanked:
            with self._lock:
                self._any = True

    def rule(self, part10: bytes | memoryview) -> DrawnRule | None:
        """Return the rule that blanks what was found in an image; None if nothing is to be blanked."""
        key = self._key(part10) if self._is_used() else None
        found = None if key is None else self._get(*key[1:])
        if key is None or found is None or not found.blanked:
            return None
        return DrawnRule.of_instance(_NAME, key[0], found.regions, frozenset(reason.lower() for reason in found.clears))

    def _get(self, instance: UUID, digest: bytes) -> FoundText | None:
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT outcome, policy, blanked, clears, regions FROM found_text WHERE instance = %s AND digest = %s", (instance, digest)
            ).fetchone()
        if row is None:
            return None
        outcome, policy, blanked, clears, regions = row
        return FoundText(outcome, policy, blanked, frozenset(clears), tuple(Box(*box) for box in regions))

    def _is_used(self) -> bool:
        """Return whether anything is blanked at all; most sites need no look into the table for each image."""
        with self._lock:
            if not self._any and time.monotonic() - self._asked_at >= _SECONDS:
                with self._pool.connection() as connection:
                    row = connection.execute("SELECT EXISTS (SELECT FROM found_text WHERE blanked)").fetchone()
                self._any, self._asked_at = bool(row and row[0]), time.monotonic()
            return self._any

    def _key(self, part10: bytes | memoryview) -> tuple[str, UUID, bytes] | None:
        """Return SOP Instance UID, GUID of generation 0 and digest of the header."""
        try:
            header = header_of(part10)
        except Invalid:
            return None
        return header.sop_uid, self._names.instance(header.sop_uid), self._names.header_digest(header.part10)
