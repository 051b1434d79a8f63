"""Forwarding that loses nothing: a queue on disk, a loop that retries what may still be accepted, and a list of what never will be."""

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
    """The receiver cannot be reached; nothing is wrong with the instances."""


@dataclass(frozen=True)
class Sent:
    """What became of a batch: names that need no more sending, and those refused for good, each with its reason. The rest is sent again."""

    accepted: set[str]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """What the receiver refused for good: its name, a stable reason, and when (seconds since 1970)."""

    name: str
    reason: str
    since: float


def final_reason(status: int) -> str:
    """Return the reason for which an instance with this C-STORE status is not sent again; empty where it is."""
    return f"DIMSE_0x{status:04X}" if status in _FINAL_CODES or status >> 8 in _FINAL_CLASSES else ""


class DeliveryQueue:
    """Names of what still has to be forwarded and of what was refused for good, in a SQLite file of its own."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000;"
            "CREATE TABLE IF NOT EXISTS pending (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0);"
            "CREATE TABLE IF NOT EXISTS cursor (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL);"
            "INSERT OR IGNORE INTO cursor VALUES (1, 0);"
            "CREATE TABLE IF NOT EXISTS refused (name TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL);"
        )

    @property
    def cursor(self) -> int:
        """How far the source has been read."""
        return int(self._database.execute("SELECT value FROM cursor").fetchone()[0])

    def add(self, names: Iterable[str], cursor: int = 0) -> None:
        """Queue names, again if they were queued or refused before, and move the cursor in the same transaction."""
        rows = [(name,) for name in names]
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO pending (name) VALUES (?)", rows)
            self._database.executemany("DELETE FROM refused WHERE name = ?", rows)
            self._database.execute("UPDATE cursor SET value = ?", (cursor,))

    def due(self, limit: int = _BATCH) -> list[str]:
        """Return names whose time has come."""
        found = self._database.execute("SELECT name FROM pending WHERE due <= ? ORDER BY due, rowid LIMIT ?", (time.time(), limit))
        return [row[0] for row in found]

    def delivered(self, names: Iterable[str]) -> None:
        """Forget names."""
        self._database.executemany("DELETE FROM pending WHERE name = ?", ((name,) for name in names))

    def give_up(self, reasons: Mapping[str, str]) -> None:
        """Take names out of the queue and list them as refused, each with its reason."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            rows = [(name, reason, time.time()) for name, reason in reasons.items()]
            self._database.executemany("INSERT OR REPLACE INTO refused (name, reason, since) VALUES (?, ?, ?)", rows)
            self._database.executemany("DELETE FROM pending WHERE name = ?", ((name,) for name in reasons))

    def refusals(self) -> list[Refusal]:
        """Return what was refused for good, oldest first."""
        return [Refusal(*row) for row in self._database.execute("SELECT name, reason, since FROM refused ORDER BY since, name")]

    def retry_refused(self) -> int:
        """Queue everything that was refused for good once more; return how many."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO pending (name) SELECT name FROM refused")
            return self._database.execute("DELETE FROM refused").rowcount

    def put_off(self, names: Iterable[str]) -> None:
        """Put names off, longer each time."""
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
    """Forward one batch of what is due; return whether there may be more to do at once.

    What is neither accepted nor refused for good is tried again later. While the receiver is down nothing is lost and no attempt counts.
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
        queue.put_off(left)
    return True
