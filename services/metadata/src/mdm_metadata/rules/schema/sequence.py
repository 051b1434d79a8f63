"""Sequences, which give each number only once."""

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Invalid, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import VISIBLE, allowed, find_collection, writable_collection
from mdm_metadata.rules.model import SequenceState
from mdm_metadata.rules.port import Store

MAX_NUMBERS = 1_000_000


def create(store: Store, caller: Caller, path: str, name: str, start: int, step: int, *, resume: bool) -> None:
    """Create a sequence of a collection, whose first number is `start`. Needs `w`.

    With `resume`, an existing one of this name and step goes on at `start`, unless it is already further.

    Raises:
        MdmError: the caller has no right to, or there is one of this name.
    """
    _check_name(name)
    if not step or abs(step) > 2**31 or abs(start) > 2**62:
        raise Invalid("SEQUENCE_STEP", "A sequence needs a step other than 0 within 32 bits, and a start within 62 bits.")
    with store.transaction() as transaction:
        collection = writable_collection(transaction, caller, path)
        sequences = transaction.sequences()
        make = sequences.resume if resume else sequences.create
        if not make(collection.id, name.lower(), start, step):
            raise Conflict("SEQUENCE_EXISTS", f"The collection has a sequence of this name{' with another step' if resume else ''}.")


def drop(store: Store, caller: Caller, path: str, name: str) -> None:
    """Drop a sequence. Needs `w`.

    Raises:
        MdmError: the caller has no right to, or no sequence has this name.
    """
    with store.transaction() as transaction:
        collection = writable_collection(transaction, caller, path)
        if not transaction.sequences().drop(collection.id, name.lower()):
            raise _not_found()


def take_numbers(store: Store, caller: Caller, path: str, name: str, count: int) -> tuple[int, int]:
    """Take `count` numbers; return the first one and the step to the next. Needs `w`.

    Raises:
        MdmError: the caller has no right to, or no sequence has this name.
    """
    if not 1 <= count <= MAX_NUMBERS:
        raise Invalid("SEQUENCE_COUNT", f"1 to {MAX_NUMBERS} numbers per call.")
    with store.transaction() as transaction:
        collection = writable_collection(transaction, caller, path)
        taken = transaction.sequences().take(collection.id, name.lower(), count)
        if taken is None:
            raise _not_found()
    return taken


def list_of(store: Store, caller: Caller, path: str) -> list[SequenceState]:
    """Return a collection's sequences. Needs `l`, `g` or `r`; their numbers are only for callers that may take some (`w`)."""
    with store.transaction() as transaction:
        collection = allowed(find_collection(transaction, caller, path), VISIBLE, "l")
        found = transaction.sequences().states(collection.id)
    return found if collection.permissions & Permission.WRITE else [SequenceState(state.name) for state in found]


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or len(name) > 63:
        raise Invalid("SEQUENCE_NAME", "A sequence's name is a letter, then letters, digits or underscores, at most 63 in all.")


def _not_found() -> NotFound:
    return NotFound("SEQUENCE_NOT_FOUND", "The collection has no sequence of this name.")
