"""VO membership: which groups a subject belongs to, from a file that the VO publishes."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from mdm_wire import dn
from mdm_wire.errors import MdmError

from mdm_service.errors import ConfigurationError
from mdm_service.identity.trust import WatchedFile


class Membership:
    """Groups by subject, read again whenever the file changes.

    The file is TOML: one table `[groups]`, group name (`"/vo/group"`) = list of subjects. A file that cannot be read or
    parsed gives nobody any group.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = WatchedFile(path, parse) if path else None

    def groups_of(self, subject: str) -> frozenset[str]:
        """Return the groups of a canonical subject."""
        return self._groups().get(subject, frozenset())

    def members_of(self, group: str) -> frozenset[str]:
        """Return the canonical subjects of a group."""
        return frozenset(subject for subject, groups in self._groups().items() if group in groups)

    def _groups(self) -> Mapping[str, frozenset[str]]:
        if self._file is None:
            return {}
        try:
            return self._file.get()
        except (OSError, ValueError, ConfigurationError):
            return {}


def parse(content: bytes) -> dict[str, frozenset[str]]:
    """Return groups by canonical subject.

    Raises:
        ConfigurationError: the content is not a membership file.
    """
    try:
        document = tomllib.loads(content.decode())
        found: dict[str, set[str]] = {}
        for group, subjects in document.pop("groups", {}).items():
            if not group.startswith("/"):
                raise ConfigurationError(f"groups: {group}: a group name starts with '/'")
            for subject in subjects:
                found.setdefault(dn.canonical(subject), set()).add(group)
        if document:
            raise ConfigurationError(f"groups: unknown key {min(document)}")
    except (ValueError, TypeError, AttributeError, MdmError) as error:
        raise ConfigurationError(f"groups: {error}") from error
    return {subject: frozenset(groups) for subject, groups in found.items()}
