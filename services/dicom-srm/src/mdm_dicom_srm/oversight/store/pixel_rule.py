"""The table `pixel_rule`: the pixel rules that curators drew, and who did."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from mdm_deid.pixels.drawn import ImageKind
from mdm_deid.pixels.image import Box
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.model import OneImage, SiteRule
from mdm_dicom_srm.site_secret import RecordSealer

_LOCK = 0x4D444D5258  # one new rule at a time, so that equal ones are found
_COLUMNS = "number, id, kind, content, subject, at, note, ended_by, ended_at"


class PixelRuleStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def add(
        self,
        kind_name: bytes,
        kind: ImageKind,
        regions: Sequence[Box],
        reasons: frozenset[str],
        subject: str,
        note: str,
        only: OneImage | None = None,
    ) -> SiteRule:
        """Keep a new rule, unless one that holds says the same; return it."""
        key = uuid4()
        one = [[str(only.guid), only.instance]] if only else []
        content = json.dumps([astuple(kind), [list(box) for box in regions], sorted(reasons), *one]).encode()
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM pixel_rule WHERE ended_at IS NULL AND kind = %s".encode(),  # noqa: S608  # fixed parts only
                (kind_name,),
            ).fetchall()
            for row in rows:
                known = self._rule(*row)
                if (known.kind, set(known.regions), known.reasons, known.only) == (kind, set(regions), reasons, only):
                    return known
            row = connection.execute(
                f"INSERT INTO pixel_rule (id, subject, kind, content, note) VALUES (%s, %s, %s, %s, %s) RETURNING {_COLUMNS}".encode(),  # noqa: S608
                (key, subject, kind_name, self._sealer.seal(key, "pixel rule", content), note),
            ).fetchone()
        assert row is not None
        return self._rule(*row)

    def current(self) -> list[SiteRule]:
        """Return the rules that hold, the oldest first."""
        return self._select("WHERE ended_at IS NULL ORDER BY number", ())

    def page(self, before: int | None, limit: int) -> list[SiteRule]:
        """Return rules, those that ended included, the newest first; those before a number if given."""
        return self._select("WHERE %s::bigint IS NULL OR number < %s ORDER BY number DESC LIMIT %s", (before, before, limit))

    def end(self, number: int, subject: str) -> SiteRule | None:
        """End a rule; return it, as it was ended now or before, None if there is none of this number."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE pixel_rule SET ended_at = now(), ended_by = %s WHERE number = %s AND ended_at IS NULL", (subject, number)
            )
        return next(iter(self._select("WHERE number = %s", (number,))), None)

    def _select(self, condition: str, values: tuple[object, ...]) -> list[SiteRule]:
        with self._pool.connection() as connection:
            sql = f"SELECT {_COLUMNS} FROM pixel_rule {condition}"  # noqa: S608  # fixed parts only
            return [self._rule(*row) for row in connection.execute(sql.encode(), values).fetchall()]

    def _rule(
        self, number: int, key: UUID, kind_name: bytes, content: bytes, subject: str, at: datetime, note: str, *ended: Any
    ) -> SiteRule:
        kind, regions, reasons, *one = json.loads(self._sealer.open(key, "pixel rule", content))
        only = OneImage(UUID(one[0][0]), one[0][1]) if one else None
        boxes = tuple(Box(*box) for box in regions)
        by, when = ended
        return SiteRule(number, bytes(kind_name), ImageKind(*kind), boxes, frozenset(reasons), subject, at, note, by or "", when, only)
