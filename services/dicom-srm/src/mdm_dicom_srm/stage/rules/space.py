"""The spaces of a site: the spool of each instance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mdm_wire.errors import Invalid

from mdm_dicom_srm.stage.rules.port import Usage
from mdm_dicom_srm.stage.rules.service import Lifetimes

_MAX_NAMES = 1_000


@dataclass(frozen=True, slots=True)
class Space:
    """The spool of an instance, how full it is, and the pin times in seconds."""

    instance: str
    usage: Usage
    default_pin_seconds: int
    max_pin_seconds: int


class Spaces:
    """Knows how full the spools are; `usages` returns it by the name of the instance."""

    def __init__(self, usages: Callable[[], dict[str, Usage]], lifetimes: Lifetimes) -> None:
        self._usages = usages
        self._lifetimes = lifetimes

    def all(self) -> list[Space]:
        """Return every space, in order of name."""
        lifetimes = self._lifetimes
        return [
            Space(name, usage, lifetimes.default_pin_seconds, lifetimes.max_pin_seconds) for name, usage in sorted(self._usages().items())
        ]

    def named(self, names: Sequence[str]) -> dict[str, Space | None]:
        """Return spaces by name in the order asked, None for one that is not there; without names, all of them.

        Raises:
            Invalid: too many names.
        """
        if len(names) > _MAX_NAMES:
            raise Invalid("BAD_BATCH", f"Name at most {_MAX_NAMES} spaces.", fields={"tokens": "too many"})
        spaces = {space.instance: space for space in self.all()}
        return {name: spaces.get(name) for name in names or spaces}
