"""Saved searches: names and filters in one file of this user's."""

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdm_wire.errors import Exhausted, Invalid

_MAX_SEARCHES, _MAX_NAME, _MAX_BYTES = 200, 80, 65_536


def default_file() -> Path:
    """Return where searches are kept for this user."""
    data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    return data / "mdm" / "searches.json"


class Searches:
    """Searches by name. They hold what was asked for, never what was found."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def all(self) -> dict[str, Any]:
        """Return the searches by name; a file that cannot be read has none."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(sorted(found.items())) if isinstance(found, dict) else {}

    def put(self, name: str, search: Mapping[str, Any] | None) -> dict[str, Any]:
        """Keep a search, or forget the one of this name if there is None; return all.

        Raises:
            Invalid: SEARCH_NAME. Exhausted: SEARCHES_FULL.
        """
        if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
            raise Invalid("SEARCH_NAME", f"a saved search has a name of at most {_MAX_NAME} characters")
        with self._lock:
            found = self.all()
            found.pop(name, None)
            if search is not None:
                if len(found) >= _MAX_SEARCHES or len(json.dumps(search)) > _MAX_BYTES:
                    raise Exhausted(
                        "SEARCHES_FULL", f"at most {_MAX_SEARCHES} searches are kept, each of at most {_MAX_BYTES:,} characters"
                    )
                found[name] = dict(search)
            self._write(found)
        return self.all()

    def _write(self, found: Mapping[str, Any]) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=self._file.parent, prefix=".searches-")  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1, ensure_ascii=False)
        Path(part).replace(self._file)
