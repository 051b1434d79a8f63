"""Who may do what with a collection and its entries, and how a refusal reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import StoredCollection, StoredEntry, check_path, fold_path
from mdm_metadata.rules.port import Transaction

#: Any of these lets a caller know that an object exists.
VISIBLE = Permission.LIST | Permission.GET | Permission.READ

#: Why an item of a batch failed; None if it was done.
Failure: TypeAlias = MdmError | None
T = TypeVar("T")


def failure_of(act: Callable[[T], None], item: T) -> Failure:
    """Return the error that `act` raises for an item; None if it raises none."""
    try:
        act(item)
    except MdmError as error:
        return error
    return None


def find_collection(transaction: Transaction, caller: Caller, path: str) -> StoredCollection | None:
    """Return the collection at a path, with what the caller may do there; None if there is none.

    Raises:
        Invalid: the path is malformed.
    """
    check_path(path)
    return transaction.collections([fold_path(path)], caller).get(fold_path(path))


def writable_collection(transaction: Transaction, caller: Caller, path: str) -> StoredCollection:
    """Return the collection at a path, of entries of its own, on which the caller has `w`; errors as `allowed_original`."""
    return allowed_original(find_collection(transaction, caller, path), Permission.WRITE, "w")


def allowed(found: StoredCollection | None, wanted: Permission, letter: str) -> StoredCollection:
    """Return a collection if its permissions suffice; unknown and invisible ones give the same error.

    Raises:
        Forbidden, NotFound: they do not suffice.
    """
    if found is not None and found.permissions & wanted:
        return found
    if found is not None and found.permissions & VISIBLE:
        raise Forbidden("COLLECTION_FORBIDDEN", f"You need `{letter}` on the collection.")
    raise NotFound("COLLECTION_NOT_FOUND", "No such collection, or you may not see it.")


def allowed_original(found: StoredCollection | None, wanted: Permission, letter: str) -> StoredCollection:
    """Return a collection that has entries of its own, if its permissions suffice; errors as `allowed`, and for a view Invalid."""
    collection = allowed(found, wanted, letter)
    if collection.view is not None:
        raise Invalid("COLLECTION_IS_VIEW", "This is a view or link: change the collection it shows.")
    if collection.is_replica and wanted is not Permission.READ:
        raise FailedPrecondition("COLLECTION_IS_REPLICA", "This is a copy of another service's collection: change it there.")
    return collection


def entry_refusal(found: StoredEntry | None, wanted: Permission, letter: str) -> Failure:
    """Return why an entry may not be changed; unknown and invisible ones give the same error."""
    if found is not None and found.permissions & wanted:
        return None
    if found is not None and found.permissions & VISIBLE:
        return Forbidden("ENTRY_FORBIDDEN", f"You need `{letter}` under the entry's ACL.")
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


def acl_refusal(acl_id: UUID, known: Mapping[UUID, int]) -> Failure:
    """Return why an ACL cannot be referred to."""
    return None if acl_id in known else NotFound("ACL_NOT_FOUND", "No such ACL here: create it first.")


def check_batch(items: Sequence[object], limit: int, what: str) -> None:
    """Check the size of a batch.

    Raises:
        Invalid: it is too large.
    """
    if len(items) > limit:
        raise Invalid("BATCH_TOO_LARGE", f"At most {limit} {what} a call.")
