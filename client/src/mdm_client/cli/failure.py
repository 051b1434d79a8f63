"""Failures of many files, told by cause: one line with a count, however many files it stopped."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mdm_wire.errors import MdmError

from mdm_client.cli.error import show_client_error, show_error


@dataclass
class _Cause:
    """What went wrong, without the names of what it concerns; the first error as it was told, and the items."""

    message: str
    first: MdmError
    items: list[str] = field(default_factory=list)


class Failures:
    """Collects failures and tells them at the end: a cause that several items share is told once."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], _Cause] = {}
        self.errors: list[MdmError] = []

    def add(self, item: str, error: MdmError, names: Iterable[str] = ()) -> None:
        """Add a failure of an item; `names` are other words of the message for the same item, such as its GUID and its path."""
        self.errors.append(error)
        message = _without(error.message, [item, *names])
        cause = self._causes.setdefault((error.reason, message), _Cause(message, error))
        cause.items.append(item)

    def show(self, as_json: bool) -> None:
        """Write each cause to standard error: with the first item in the line, with all of them as JSON."""
        for cause in self._causes.values():
            count = len(cause.items)
            if count == 1:
                show_client_error(cause.first, as_json, cause.items[0])
                continue
            named = "" if as_json else f" (such as {cause.items[0]})"
            facts = {"code": cause.first.code.name, "count": count, "items": cause.items} if as_json else {}
            show_error(f"{count} files: {cause.message}{named}", cause.first.reason, as_json, **facts)


def _without(message: str, names: Iterable[str]) -> str:
    """Return the message without the names: what it says of each of the items."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        message = message.removeprefix(f"{name}: ").replace(f" {name}: ", " ").replace(name, "it")
    return message
