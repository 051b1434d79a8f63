"""The store that the use cases need."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from mdm_service.access.acl import Acl
from mdm_service.identity.caller import Caller
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission

from mdm_catalog.rules.model import Chain, Entry, FileChange, Node, Replica, ReplicaChange, ReplicaSearch, SubtreeAcl, SubtreeDirectory
from mdm_catalog.rules.value import Condition

T = TypeVar("T")
# A name in a directory: the directory's id and the name.
Place = tuple[int, str]


class ReadTransaction(Protocol):
    """Reads from the catalog, all on one consistent view."""

    def root(self) -> Node:
        """Return the root directory."""

    def walk(self, directories: Collection[Lfn]) -> dict[Lfn, Chain]:
        """Return, for each path, the directories on it as far as they exist."""

    def climb(self, directory_ids: Collection[int]) -> dict[int, Chain]:
        """Return the chain of each directory that exists."""

    def children(self, places: Collection[Place]) -> dict[Place, Node]:
        """Return the entries at these places."""

    def by_guid(self, guids: Collection[UUID]) -> dict[UUID, Node]:
        """Return the files that have these GUIDs."""

    def by_surl(self, surls: Collection[str]) -> dict[str, Node]:
        """Return the files that have replicas at these SURLs."""

    def rights(self, caller: Caller, acl_ids: Collection[UUID]) -> dict[UUID, Permission]:
        """Return the permissions of `caller` under each ACL; none under one that does not exist."""

    def entries(self, ids: Collection[int]) -> dict[int, Entry]:
        """Return entries in full."""

    def replicas(self, entry_ids: Collection[int]) -> dict[int, tuple[Replica, ...]]:
        """Return the replicas of files, oldest first; files without one are left out."""

    def available(self, entry_ids: Collection[int]) -> dict[int, tuple[str, ...]]:
        """Return the SURLs of available replicas, oldest first; files without one are left out."""

    def replicas_at(self, surls: Collection[str]) -> dict[str, tuple[int, Replica]]:
        """Return the replicas at these SURLs, each with its file's id."""

    def replica_page(self, search: ReplicaSearch, after: str, limit: int) -> list[tuple[int, Replica]]:
        """Return at most `limit` replicas that match, each with its file's id, whose SURLs sort after `after` by bytes."""

    def nodes_at(self, ids: Collection[int]) -> dict[int, Node]:
        """Return the entries of these ids that exist."""

    def page(self, directory_id: int, after: str, limit: int, condition: Condition | None = None) -> list[Entry]:
        """Return at most `limit` entries of a directory whose names sort after `after`, by bytes of name.

        With a condition all that meet it and all directories are among them, and perhaps others.
        """

    def usage(self, caller: Caller, directory_id: int, depth: int) -> list[tuple[tuple[str, ...], int, int, int, int, int]]:
        """Return per directory down to `depth` its names from the given one, and files, directories, links, bytes, closed.

        What is deeper is counted in the last directory that is reported; directories that the caller may not list are closed.
        """

    def acls(self, acl_ids: Collection[UUID]) -> dict[UUID, Acl]:
        """Return the ACLs that exist."""

    def subtree(self, directory_id: int) -> list[SubtreeDirectory]:
        """Return a directory and all directories below it, each after the one that holds it."""

    def subtree_acls(self, caller: Caller, entry_id: int) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs of an entry and of what the caller may list below it, by id, and how many directories it may not."""


class WriteTransaction(ReadTransaction, Protocol):
    """Reads and changes in one transaction; locked objects cannot be changed by others until it ends."""

    def lock_directories(self, ids: Collection[int]) -> dict[int, Node]:
        """Lock directories in which something is to be made; return those that still exist."""

    def lock_entries(self, ids: Collection[int]) -> dict[int, Node]:
        """Lock entries whose attributes are to change; return those that still exist."""

    def lock_acls(self, acl_ids: Collection[UUID]) -> dict[UUID, Acl]:
        """Lock ACLs, so that nobody else changes them; return them as they are."""

    def replace_acls(self, acls: Sequence[Acl]) -> None:
        """Store locked ACLs with the owners and entries that they have here. Raises Invalid where one would have more than 300 entries."""

    def lock_moves(self) -> None:
        """Keep other transactions from moving a directory to another one until this one ends."""

    def above(self, directory_id: int) -> list[int]:
        """Return the ids of a directory and of all directories above it."""

    def fits(self, directory_id: int, room: int) -> bool:
        """Return whether no path below a directory adds more than `room` bytes to the directory's own."""

    def lock_for_removal(self, ids: Collection[int]) -> dict[int, Node]:
        """Lock entries to be removed, so that nothing more is made in them; return those that still exist."""

    def lock_subtree(self, directory_id: int) -> list[int]:
        """Lock a directory and all directories below for removal; return their ids from the top down."""

    def removal_acls(self, directory_ids: Collection[int]) -> set[tuple[UUID, UUID]]:
        """Return the distinct pairs (ACL of directory, ACL of a child) over the children of these directories."""

    def remove(self, ids: Collection[int]) -> None:
        """Remove entries; directories among them are empty."""

    def remove_empty(self, ids: Collection[int]) -> set[int]:
        """Remove those directories that are empty; return which."""

    def remove_children(self, directory_ids: Collection[int]) -> None:
        """Remove all children of these directories, which are closed under descent."""

    def insert_directories(self, rows: Sequence[tuple[int, str, UUID, UUID]]) -> dict[Place, int]:
        """Make directories (parent, name, ACL, default ACL) at free places of locked parents; return their ids."""

    def insert_files(self, rows: Sequence[tuple[int, str, UUID, int | None, bytes | None, str, UUID]]) -> dict[Place, tuple[int, UUID]]:
        """Make files (parent, name, GUID, size, SHA-256, comment, ACL) where place and GUID are free; return id and GUID of those made."""

    def insert_links(self, rows: Sequence[tuple[int, str, str, UUID]]) -> None:
        """Make links (parent, name, target, ACL) at free places of locked parents."""

    def move(self, entry_id: int, parent_id: int, name: str) -> None:
        """Move a locked entry to a free place in a locked directory, and increment its `rev`."""

    def insert_replicas(self, rows: Sequence[tuple[int, Replica]]) -> None:
        """Add replicas to files. If another transaction has taken one of the SURLs meanwhile, the whole work starts again."""

    def lock_replicas(self, surls: Collection[str]) -> None:
        """Lock the replicas at these SURLs."""

    def update_replicas(self, changes: Collection[ReplicaChange]) -> None:
        """Change replicas, each at most once, and increment their `rev` unless only accesses are reported."""

    def touch(self, ids: Collection[int]) -> None:
        """Set the access time of files to now."""

    def remove_replicas(self, surls: Collection[str]) -> None:
        """Remove the replicas at these SURLs."""

    def update_files(self, changes: Collection[tuple[int, FileChange]]) -> None:
        """Change attributes of locked files, each at most once, and increment their `rev`."""

    def update_acls(self, changes: Collection[tuple[int, UUID, UUID | None]]) -> None:
        """Point locked entries, each at most once, at an ACL and, unless None, a default ACL, and increment their `rev`."""


class Store(Protocol):
    """Runs work on the catalog."""

    def read(self, work: Callable[[ReadTransaction], T]) -> T:
        """Return what `work` returns on one consistent view. Raises Unavailable without a database."""

    def write(self, work: Callable[[WriteTransaction], T]) -> T:
        """Return what `work` returns, with everything it changed stored, or nothing.

        `work` may run several times, when others change the same things at once.

        Raises:
            Aborted: others kept changing the same things; safe to retry.
        """


class Subjects(Protocol):
    """Questions about subjects other than the caller."""

    def caller_for(self, subject: str) -> Caller:
        """Return the caller a subject would be. Raises Invalid: not a DN; Unauthenticated: banned."""

    def check_owner(self, subject: str) -> None:
        """Check that a subject could call this service. Raises Invalid: no authority may sign it, or it is banned."""

    def members_of(self, group: str) -> Collection[str]:
        """Return the subjects of a group."""
