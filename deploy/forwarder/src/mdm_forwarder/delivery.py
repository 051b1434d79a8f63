"""Forwarding that loses nothing: a queue on disk, and a loop that retries until the other side has accepted."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)
_BATCH = 100
_RETRY_SECONDS = (1, 2, 5, 10, 30, 60)  # after the first, second, … refusal of one instance; then as the last
_DOWN_SECONDS = 0.5


class TargetDown(Exception):
    """The receiver cannot be reached; nothing is wrong with the instances."""


class DeliveryQueue:
    """Names of what still has to be forwarded, in a SQLite file of its own."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000;"
            "CREATE TABLE IF NOT EXISTS pending (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0);"
            "CREATE TABLE IF NOT EXISTS cursor (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL);"
            "INSERT OR IGNORE INTO cursor VALUES (1, 0);"
        )

    @property
    def cursor(self) -> int:
        """How far the source has been read."""
        return int(self._database.execute("SELECT value FROM cursor").fetchone()[0])

    def add(self, names: Iterable[str], cursor: int = 0) -> None:
        """Queue names, again if they were queued before, and move the cursor in the same transaction."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO pending (name) VALUES (?)", ((name,) for name in names))
            self._database.execute("UPDATE cursor SET value = ?", (cursor,))

    def due(self, limit: int = _BATCH) -> list[str]:
        """Return names whose time has come."""
        found = self._database.execute("SELECT name FROM pending WHERE due <= ? ORDER BY due, rowid LIMIT ?", (time.time(), limit))
        return [row[0] for row in found]

    def delivered(self, names: Iterable[str]) -> None:
        """Forget names."""
        self._database.executemany("DELETE FROM pending WHERE name = ?", ((name,) for name in names))

    def refused(self, names: Iterable[str]) -> None:
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


def deliver(queue: DeliveryQueue, send: Callable[[Sequence[str]], set[str]]) -> bool:
    """Forward one batch of what is due; return whether there may be more to do at once.

    `send` returns what was accepted; the rest is tried again later. While the receiver is down nothing is lost and no attempt counts.
    """
    names = queue.due()
    if not names:
        return False
    try:
        accepted = send(names)
    except TargetDown as error:
        _log.warning("forwarding waits: %s", error)
        time.sleep(_DOWN_SECONDS)
        return False
    queue.delivered(accepted)
    refused = [name for name in names if name not in accepted]
    if refused:
        _log.warning("%d of %d instances were refused and will be sent again", len(refused), len(names))
        queue.refused(refused)
    return True
