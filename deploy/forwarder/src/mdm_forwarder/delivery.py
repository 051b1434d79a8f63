"""Forwarding without loss: a queue on disk, retries, and a list of the instances that were refused for good."""

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)
_BATCH = 100
_RETRY_SECONDS = (1, 2, 5, 10, 30, 60)  # after the first, second, … refusal of one instance; then as the last
_DOWN_SECONDS = 0.5
#: Nobody negotiated the instance's SOP class in its transfer syntax.
NOT_NEGOTIATED = "NOT_NEGOTIATED"
# C-STORE (PS3.4 table B.2-1, PS3.7 annex C): SOP class not supported, no such instance, not authorised; 0xA9xx does not match,
# 0xCxxx cannot be understood. Another answer, such as 0xA7xx out of resources, may be a better one later.
_FINAL_CODES = frozenset({0x0122, 0x0117, 0x0124})
_FINAL_CLASSES = frozenset({0xA9, *range(0xC0, 0xD0)})


class TargetDown(Exception):
    """The receiver cannot be reached; this says nothing about the instances."""


@dataclass(frozen=True)
class Sent:
    """The result of a batch: the accepted names, and the names refused for good with their reasons. All others are sent again."""

    accepted: set[str]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An instance that the receiver refused for good: its name, a stable reason, and when (seconds since 1970)."""

    name: str
    reason: str
    since: float


@dataclass(frozen=True)
class Backlog:
    """How many instances are still to be sent, since when (seconds since 1970, None if unknown), and how many were refused by reason."""

    waiting: int
    oldest: float | None
    refused: Mapping[str, int]


def final_reason(status: int) -> str:
    """Return the reason of a final refusal by this C-STORE status; empty if the instance is to be sent again."""
    return f"DIMSE_0x{status:04X}" if status in _FINAL_CODES or status >> 8 in _FINAL_CLASSES else ""


class DeliveryQueue:
    """The instances that still have to be forwarded and those refused for good, in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000;"
            "CREATE TABLE IF NOT EXISTS pending"
            " (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, since REAL NOT NULL DEFAULT 0);"
            "CREATE TABLE IF NOT EXISTS cursor (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL);"
            "INSERT OR IGNORE INTO cursor VALUES (1, 0);"
            "CREATE TABLE IF NOT EXISTS refused (name TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL);"
        )
        if "since" not in {row[1] for row in self._database.execute("PRAGMA table_info(pending)")}:  # a file of an earlier version
            self._database.execute("ALTER TABLE pending ADD COLUMN since REAL NOT NULL DEFAULT 0")

    @property
    def cursor(self) -> int:
        """The number of the last change that was read from the source."""
        return int(self._database.execute("SELECT value FROM cursor").fetchone()[0])

    def add(self, names: Iterable[str], cursor: int = 0) -> None:
        """Queue names, again if they were queued or refused before, and move the cursor in the same transaction."""
        rows = [(name,) for name in names]
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO pending (name, since) VALUES (?, ?)", [(*row, time.time()) for row in rows])
            self._database.executemany("DELETE FROM refused WHERE name = ?", rows)
            self._database.execute("UPDATE cursor SET value = ?", (cursor,))

    def due(self, limit: int = _BATCH) -> list[str]:
        """Return names that are due, the longest due first."""
        found = self._database.execute("SELECT name FROM pending WHERE due <= ? ORDER BY due, rowid LIMIT ?", (time.time(), limit))
        return [row[0] for row in found]

    def delivered(self, names: Iterable[str]) -> None:
        """Remove names from the queue."""
        self._database.executemany("DELETE FROM pending WHERE name = ?", ((name,) for name in names))

    def give_up(self, reasons: Mapping[str, str]) -> None:
        """Move names from the queue to the list of refusals, each with its reason."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            rows = [(name, reason, time.time()) for name, reason in reasons.items()]
            self._database.executemany("INSERT OR REPLACE INTO refused (name, reason, since) VALUES (?, ?, ?)", rows)
            self._database.executemany("DELETE FROM pending WHERE name = ?", ((name,) for name in reasons))

    def refusals(self) -> list[Refusal]:
        """Return the final refusals, oldest first."""
        return [Refusal(*row) for row in self._database.execute("SELECT name, reason, since FROM refused ORDER BY since, name")]

    def backlog(self) -> "Backlog":
        """Return what waits and what was refused for good, in counts."""
        waiting, oldest = self._database.execute("SELECT count(*), min(nullif(since, 0)) FROM pending").fetchone()
        refused = self._database.execute("SELECT reason, count(*) FROM refused GROUP BY reason ORDER BY reason").fetchall()
        return Backlog(waiting, oldest, dict(refused))

    def retry_refused(self) -> int:
        """Queue all refused instances again; return how many."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO pending (name, since) SELECT name, since FROM refused")
            return self._database.execute("DELETE FROM refused").rowcount

    def postpone(self, names: Iterable[str]) -> None:
        """Postpone names, longer each time."""
        for name in names:
            (attempts,) = self._database.execute("SELECT attempts FROM pending WHERE name = ?", (name,)).fetchone() or (0,)
            delay = _RETRY_SECONDS[min(attempts, len(_RETRY_SECONDS) - 1)]
            self._database.execute("UPDATE pending SET attempts = attempts + 1, due = ? WHERE name = ?", (time.time() + delay, name))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM pending").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def deliver(queue: DeliveryQueue, send: Callable[[Sequence[str]], Sent]) -> bool:
    """Forward one batch of due instances; return whether there may be more to do at once.

    An instance that is neither accepted nor refused for good is sent again later. While the receiver is down, no attempt counts.
    """
    names = queue.due()
    if not names:
        return False
    try:
        sent = send(names)
    except TargetDown as error:
        _log.warning("forwarding waits: %s", error)
        time.sleep(_DOWN_SECONDS)
        return False
    queue.delivered(sent.accepted)
    if sent.refused:
        for reason, count in Counter(sent.refused.values()).items():
            _log.error("%d instances were refused for good, %s: `python -m mdm_forwarder.refusal` lists them", count, reason)
        queue.give_up(sent.refused)
    left = [name for name in names if name not in sent.accepted and name not in sent.refused]
    if left:
        _log.warning("%d of %d instances were not accepted and will be sent again", len(left), len(names))
        queue.postpone(left)
    return True
