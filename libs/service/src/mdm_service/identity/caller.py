"""Who calls: the verified subject with its groups and roles."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property

from mdm_wire.errors import Unauthenticated


@dataclass(frozen=True)
class Caller:
    """A verified peer: canonical subject, VO groups, and roles that the configuration gives it."""

    dn: str
    groups: frozenset[str] = field(default_factory=frozenset)
    roles: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def principals(self) -> frozenset[str]:
        """The principals of ACL entries that name this caller."""
        return frozenset({f"dn:{self.dn}", "authenticated", *(f"group:{group}" for group in self.groups)})

    def has_role(self, role: str) -> bool:
        """Return whether the configuration gives the caller this role."""
        return role in self.roles


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return who made the call being handled.

    Raises:
        Unauthenticated: there is no call, or it was not authenticated.
    """
    try:
        return _caller.get()
    except LookupError:
        raise Unauthenticated("NO_CALLER", "No authenticated caller.") from None


def set_caller(caller: Caller) -> None:
    """Make `caller` the one of the present context; for the interceptor and for tests."""
    _caller.set(caller)
