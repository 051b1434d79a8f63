"""Views and links, and numbers from sequences."""

from dataclasses import replace

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Invalid, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import KEY_NAME, SequenceState, StoredCollection, StoredView, View, check_path, fold_path, parent_of
from mdm_metadata.rules.port import VISIBLE, Alteration, Store, acl_refusal, allowed, holding
from mdm_metadata.rules.query.change import bind_condition

MAX_NUMBERS = 1_000_000
MAX_CONDITION = 4_000


def create_view(store: Store, caller: Caller, view: View) -> None:
    """Create a view, which shows entries that its creator may read, or a link, which shows what each reader may read.

    Needs `w` on the parent, and on the target `r`, for a view `p` too: it gives to others what the creator may read.

    Raises:
        MdmError: that is not so, something is at the path, or the view speaks of what the target does not have.
    """
    check_path(view.path)
    check_path(view.target)
    with store.altering() as alteration:
        parent = holding(alteration.collection(parent_of(fold_path(view.path)), caller), Permission.WRITE, "w")
        target = alteration.visible(fold_path(view.target), caller)
        if target is None or not target.permissions & VISIBLE:
            raise NotFound("TARGET_NOT_FOUND", "The target does not exist, or you may not see it.")
        target = holding(target, Permission.READ, "r")
        stored = StoredView(target.id, target.collection.path, None, None, True, ())
        if not view.is_link:
            allowed(target, Permission.CHANGE_ACL, "p")
            stored = _described(view, target, caller)
        elif view.attributes or view.condition:
            raise Invalid("VIEW_LINK", "A link shows all of its target: name no attributes and no condition.")
        default = parent.collection.default_acl_id
        acl = view.acl_id or default
        assert acl is not None and default is not None
        if (refusal := acl_refusal(acl, alteration.acl_permissions({acl}, caller))) is not None:
            raise refusal
        if not alteration.insert_view(parent.id, view, stored, (acl, default), target.collection.sensitive):
            _check_same(alteration, caller, view, stored)


def _described(view: View, target: StoredCollection, caller: Caller) -> StoredView:
    names = []
    for shown in view.attributes:
        attribute = target.by_name.get(shown.target.lower())
        if attribute is None:
            raise NotFound("ATTRIBUTE_UNKNOWN", "The target has no attribute of one of the names given.")
        name = shown.name or attribute.attribute.name
        replace(attribute.attribute, name=name).check()
        names.append((name, attribute.position))
    if len({name.lower() for name, _ in names}) != len(names):
        raise Invalid("ATTRIBUTE_TWICE", "A view shows two attributes under one name; case does not matter.")
    if not names and not view.with_key:
        raise Invalid("VIEW_EMPTY", f"A view shows attributes, or `{KEY_NAME}`, the key.")
    if len(view.condition) > MAX_CONDITION:
        raise Invalid("VIEW_CONDITION", f"A view's condition has at most {MAX_CONDITION} characters.")
    if view.condition:
        bind_condition(view.condition, target)
    return StoredView(target.id, target.collection.path, caller.dn, view.condition or None, view.with_key, tuple(names))


def _check_same(alteration: Alteration, caller: Caller, view: View, stored: StoredView) -> None:
    existing = alteration.visible(fold_path(view.path), caller)
    if existing is None or not existing.permissions & VISIBLE or existing.view != stored:
        raise Conflict("COLLECTION_EXISTS", "Something else is at this path.")


def create_sequence(store: Store, caller: Caller, path: str, name: str, start: int, step: int, *, resume: bool) -> None:
    """Create a sequence of a collection, whose first number is `start`. Needs `w`.

    With `resume`, one of this name and step that is there goes on at `start`, unless it is further already.

    Raises:
        MdmError: the caller may not, or there is one of this name.
    """
    _check_name(name)
    if not step or abs(step) > 2**31 or abs(start) > 2**62:
        raise Invalid("SEQUENCE_STEP", "A sequence has a step other than 0 within 32 bits, and a start within 62.")
    with store.transaction() as transaction:
        collection = holding(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")
        sequences = transaction.sequences()
        make = sequences.resume if resume else sequences.create
        if not make(collection.id, name.lower(), start, step):
            raise Conflict("SEQUENCE_EXISTS", f"The collection has a sequence of this name{' with another step' if resume else ''}.")


def drop_sequence(store: Store, caller: Caller, path: str, name: str) -> None:
    """Drop a sequence. Needs `w`.

    Raises:
        MdmError: the caller may not, or there is none of this name.
    """
    with store.transaction() as transaction:
        collection = holding(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")
        if not transaction.sequences().drop(collection.id, name.lower()):
            raise _no_sequence()


def take_numbers(store: Store, caller: Caller, path: str, name: str, count: int) -> tuple[int, int]:
    """Return the first of `count` numbers that nobody else gets, and the step to the next. Needs `w`.

    Raises:
        MdmError: the caller may not, or there is none of this name.
    """
    if not 1 <= count <= MAX_NUMBERS:
        raise Invalid("SEQUENCE_COUNT", f"1 to {MAX_NUMBERS} numbers a call.")
    with store.transaction() as transaction:
        collection = holding(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")
        taken = transaction.sequences().take(collection.id, name.lower(), count)
        if taken is None:
            raise _no_sequence()
    return taken


def list_sequences(store: Store, caller: Caller, path: str) -> list[SequenceState]:
    """Return a collection's sequences. Needs `l`, `g` or `r`; where they are is told to those who may take numbers (`w`)."""
    with store.transaction() as transaction:
        collection = allowed(transaction.collections([fold_path(path)], caller).get(fold_path(path)), VISIBLE, "l")
        found = transaction.sequences().states(collection.id)
    return found if collection.permissions & Permission.WRITE else [SequenceState(state.name) for state in found]


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or len(name) > 63:
        raise Invalid("SEQUENCE_NAME", "A sequence's name is a letter, then letters, digits or underscores, at most 63 in all.")


def _no_sequence() -> NotFound:
    return NotFound("SEQUENCE_NOT_FOUND", "The collection has no sequence of this name.")
