"""What access control lists guard, for the rule on lists that several objects share."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

import psycopg

#: Counting stops here: a refusal need not know more, and a list may guard millions.
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class AclScope:
    """What changes of ACLs are meant for: objects by key, in the collection `path` where there is one, or all of that collection.

    An empty scope stands for one object, whichever.
    """

    keys: tuple[str, ...] = ()
    path: str = ""


class AclUse(NamedTuple):
    """How many objects that a change is meant for a list guards, and how many others; both counted up to `MOST_COUNTED`."""

    meant: int = 0
    others: int = 0


class AclUses(Protocol):
    """Counts what refers to ACLs in one service's tables."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return the use of an ACL. What is in the scope and is not there counts for nothing."""


def of_one(total: int) -> AclUse:
    """Return the use of a list by `total` objects where a change is meant for one of them."""
    return AclUse(min(total, 1), max(total - 1, 0))
