"""PostgreSQL: the instances of a site, their heartbeats, what was lost with one, and recalls of staged copies."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.stage.rules.port import Beat, Usage, Welcome
from mdm_dicom_srm.stage.store.transaction import unhurried

_REGISTER = """
INSERT INTO srm_instance AS i (name, process, host) VALUES (%(name)s, %(process)s, %(host)s)
ON CONFLICT (name) DO UPDATE SET process = EXCLUDED.process, host = EXCLUDED.host, started_at = now(), beat_at = now(), lost = false
WHERE i.host = EXCLUDED.host OR i.lost OR i.beat_at < now() - make_interval(secs => %(seconds)s)
RETURNING i.xmax = 0
"""
# An instance that is silent for so long is forgotten. Should it come back, it is a new one, and empties its spool.
_FORGET = "DELETE FROM srm_instance WHERE lost AND name <> %s AND beat_at < now() - interval '7 days'"
_BEAT = """
WITH before AS (SELECT name, lost FROM srm_instance WHERE name = %s AND process = %s FOR UPDATE)
UPDATE srm_instance AS i
SET beat_at = now(), lost = false, quota = %s, stored = %s, pinned = %s, reserved = %s, files = %s
FROM before WHERE i.name = before.name RETURNING before.lost
"""
_LOSE = """
UPDATE srm_instance SET lost = true
WHERE name IN (
    SELECT name FROM srm_instance WHERE NOT lost AND name <> %s AND beat_at < now() - make_interval(secs => %s) FOR UPDATE SKIP LOCKED
)
RETURNING name
"""
_END_LOST = """
UPDATE stage_file SET state = 'FILE_UNAVAILABLE', reason = 'INSTANCE_LOST'
WHERE instance = ANY(%s) AND state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED')
"""
# Who takes over the requests of a lost instance answers for them, and forgets them when their time has come.
_ADOPT = """
WITH adopted AS (UPDATE stage_request SET instance = %(me)s WHERE instance = ANY(%(lost)s) RETURNING digest)
INSERT INTO stage_notice (instance, digest) SELECT %(me)s, digest FROM adopted ON CONFLICT DO NOTHING
"""
# Two instances that start at the same time must see each other.
_TITLE_LOCK = "SELECT pg_advisory_xact_lock(hashtext('mdm-srm-move-title'))"
_TITLE_HOLDER = """
SELECT name FROM srm_instance
WHERE name <> %s AND move_title = %s AND NOT lost AND beat_at > now() - make_interval(secs => %s) ORDER BY name LIMIT 1
"""


class PostgresInstances:
    """The table `srm_instance`, and what belongs to an instance in others."""

    def __init__(self, pool: ConnectionPool[Any], name: str, host: str) -> None:
        self.name = name
        self._pool = pool
        self._host = host
        self._process = uuid4()

    def register(self, seconds: float) -> Welcome:
        """Take the name, unless an instance on another machine has it whose heart beat within `seconds`."""
        with self._pool.connection() as connection:
            values = {"name": self.name, "process": self._process, "host": self._host, "seconds": seconds}
            row = connection.execute(_REGISTER, values).fetchone()
            if row is None:
                return Welcome.REFUSED
            for table in ("stage_request", "stage_file"):  # of a version that had one instance
                connection.execute(f"UPDATE {table} SET instance = %s WHERE instance = ''".encode(), (self.name,))  # noqa: S608
            return Welcome.NEW if row[0] else Welcome.KNOWN

    def beat(self, usage: Usage) -> Beat:
        """Say that this instance is alive, and how full its spool is; return how the others had seen it."""
        sizes = (usage.quota, usage.stored, usage.pinned, usage.reserved, usage.files)
        with unhurried(self._pool) as connection:
            row = connection.execute(_BEAT, (self.name, self._process, *sizes)).fetchone()
        if row is None:
            return Beat.REPLACED
        return Beat.LOST if row[0] else Beat.ALIVE

    def lose(self, seconds: float) -> list[str]:
        """End what instances hold that have been silent for `seconds`; return their names."""
        with self._pool.connection() as connection:
            connection.execute(_FORGET, (self.name,))
            lost = [name for (name,) in connection.execute(_LOSE, (self.name, seconds)).fetchall()]
            if lost:
                connection.execute(_END_LOST, (lost,))
                connection.execute("DELETE FROM stage_claim WHERE instance = ANY(%s)", (lost,))
                connection.execute("DELETE FROM stage_notice WHERE instance = ANY(%s)", (lost,))
                connection.execute(_ADOPT, {"me": self.name, "lost": lost})
            return lost

    def usages(self) -> dict[str, Usage]:
        """Return how full the spools of the instances are that are serving, by name."""
        sql = "SELECT name, quota, stored, pinned, reserved, files FROM srm_instance WHERE NOT lost"
        with self._pool.connection() as connection:
            return {name: Usage(*sizes) for name, *sizes in connection.execute(sql).fetchall()}

    def recall(self, guids: Sequence[UUID]) -> None:
        """Have every other instance, also one that is away, remove its staged copies of files."""
        with self._pool.connection() as connection:
            connection.execute(
                "INSERT INTO stage_recall (instance, guid) SELECT name, guid FROM srm_instance, unnest(%s::uuid[]) AS guid"
                " WHERE name <> %s ORDER BY name, guid ON CONFLICT DO NOTHING",
                (list(guids), self.name),
            )

    def outstanding(self, guids: Sequence[UUID]) -> bool:
        """Return whether an instance that is serving has not yet removed its copies."""
        sql = (
            "SELECT EXISTS (SELECT FROM stage_recall JOIN srm_instance ON name = instance WHERE NOT lost AND name <> %s AND guid = ANY(%s))"
        )
        with self._pool.connection() as connection:
            row = connection.execute(sql, (self.name, list(guids))).fetchone()
        return row is not None and bool(row[0])

    def recalled(self) -> list[UUID]:
        """Return of which files this instance is to remove its copies."""
        with self._pool.connection() as connection:
            return [guid for (guid,) in connection.execute("SELECT guid FROM stage_recall WHERE instance = %s", (self.name,)).fetchall()]

    def obeyed(self, guids: Sequence[UUID]) -> None:
        """Note that this instance has removed its copies."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM stage_recall WHERE instance = %s AND guid = ANY(%s)", (self.name, list(guids)))


class PostgresMoveTitles:
    """The AE titles to which PACS send what instances ask for by C-MOVE. An instance has a row when it has taken its name."""

    def __init__(self, pool: ConnectionPool[Any], instance: str) -> None:
        self.instance = instance
        self._pool = pool

    def take(self, title: str, seconds: float) -> str:
        """Note the AE title of this instance, unless another one that beat within `seconds` has it; return that one's name, or ''.

        An empty title says that this instance does not retrieve by C-MOVE.
        """
        with self._pool.connection() as connection:
            connection.execute(_TITLE_LOCK)
            holder = connection.execute(_TITLE_HOLDER, (self.instance, title, seconds)).fetchone() if title else None
            if holder is None:
                connection.execute("UPDATE srm_instance SET move_title = %s WHERE name = %s", (title, self.instance))
            return str(holder[0]) if holder else ""
