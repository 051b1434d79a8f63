"""Creating, listing and dropping collections; creating views and links of them."""

from collections.abc import Sequence
from dataclasses import replace

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import (
    VISIBLE,
    Failure,
    acl_refusal,
    allowed,
    allowed_original,
    check_batch,
    failure_of,
    find_collection,
)
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import KEY_NAME, Collection, StoredCollection, StoredView, View, check_path, fold_path, parent_of
from mdm_metadata.rules.port import Alteration, Store, Transaction
from mdm_metadata.rules.query.binding.change import bind_condition

MAX_COLLECTIONS = 1_000
MAX_VIEWS = 1_000
MAX_CONDITION = 4_000


def create(store: Store, caller: Caller, collections: Sequence[Collection]) -> list[Failure]:
    """Create collections in order. One that exists with the same schema counts as created.

    Each needs `w` on its parent; an ACL that is not named is the parent's default ACL.
    """
    check_batch(collections, MAX_COLLECTIONS, "collections")
    with store.transaction() as transaction:
        return _Creation(transaction, caller, collections).run()


def list_at_and_below(store: Store, caller: Caller, path: str, after: str, limit: int) -> list[StoredCollection]:
    """Return at most `limit` collections at and below `path` that the caller may list or get, after the folded path `after`."""
    check_path(path)
    with store.transaction() as transaction:
        return transaction.list_collections(fold_path(path), after, limit, caller)


def drop(store: Store, caller: Caller, paths: Sequence[str], cancellation: Cancellation | None = None) -> list[Failure]:
    """Drop collections with their entries, in order. Each needs `d` and no collection below it."""
    check_batch(paths, MAX_COLLECTIONS, "collections")
    with store.transaction(cancellation) as transaction:
        return [failure_of(lambda path: _drop(transaction, caller, path), path) for path in paths]


def _drop(transaction: Transaction, caller: Caller, path: str) -> None:
    collection = allowed(find_collection(transaction, caller, path), Permission.DELETE, "d")
    if collection.is_replica:
        raise FailedPrecondition("COLLECTION_IS_REPLICA", "This is a copy of another service's collection: change the original.")
    if fold_path(path) == "/":
        raise Invalid("ROOT", "The root collection cannot be dropped.")
    if not transaction.drop_collection(collection.id):
        raise FailedPrecondition(
            "COLLECTION_NOT_EMPTY", "It has collections below it, or views of it or references to it: drop those first."
        )


class _Creation:
    """One batch of CreateCollections."""

    def __init__(self, transaction: Transaction, caller: Caller, collections: Sequence[Collection]) -> None:
        self._transaction = transaction
        self._collections = collections
        self._caller = caller
        found = transaction.collections(_mentioned(collections), caller)
        self._views = {path for path, stored in found.items() if stored.view is not None or stored.is_replica}
        self._known: dict[str, tuple[Collection, int]] = {path: (stored.collection, stored.permissions) for path, stored in found.items()}
        named = {acl for item in collections for acl in (item.acl_id, item.default_acl_id) if acl is not None}
        defaults = {known.default_acl_id for known, _ in self._known.values() if known.default_acl_id is not None}
        self._acls = transaction.acl_permissions(named | defaults, caller)

    def run(self) -> list[Failure]:
        """Create what can be created, in order."""
        new: list[Collection] = []
        failures: list[Failure] = [failure_of(lambda item: self._check(item, new), item) for item in self._collections]
        inserted = self._transaction.insert_collections(new)
        lost = [item.folded for item in new if item.folded not in inserted]
        if lost:  # another call created them meanwhile
            existing = self._transaction.collections(lost, self._caller)
            self._views |= {path for path, stored in existing.items() if stored.view is not None}
            for index, item in enumerate(self._collections):
                if item.folded in existing and failures[index] is None:
                    failures[index] = failure_of(lambda item: self._check_same(item, existing[item.folded].collection), item)
        return failures

    def _check(self, item: Collection, new: list[Collection]) -> None:
        item.check()
        if item.folded == "/":
            raise Invalid("ROOT", "The root collection is created from the configuration.")
        parent = self._parent(item)
        existing, _ = self._known.get(item.folded, (None, 0))
        if existing is not None:
            self._check_same(item, existing)
            return
        self._check_references(item)
        acl = item.acl_id or parent.default_acl_id
        default = item.default_acl_id or parent.default_acl_id
        for acl_id in (acl, default):
            if (refusal := None if acl_id is None else acl_refusal(acl_id, self._acls)) is not None:
                raise refusal
        complete = Collection(item.path, item.attributes, acl, default, item.sensitive, item.min_cell)
        new.append(complete)
        self._known[item.folded] = (complete, self._acls[acl] if acl else 0)

    def _parent(self, item: Collection) -> Collection:
        parent, permissions = self._known.get(parent_of(item.folded), (None, 0))
        if parent is None or not permissions & (VISIBLE | Permission.WRITE):
            raise NotFound("PARENT_NOT_FOUND", "The parent collection does not exist, or you may not see it: create parents first.")
        if not permissions & Permission.WRITE:
            raise Forbidden("PARENT_FORBIDDEN", "Permission denied: this needs `w` on the parent collection.")
        if parent.folded in self._views:
            raise Invalid("COLLECTION_IS_VIEW", "The parent is a view, link or copy: no collection can be created below it.")
        return parent

    def _check_references(self, item: Collection) -> None:
        for attribute in item.attributes:
            target, permissions = self._known.get(fold_path(attribute.references), (None, 0)) if attribute.references else (item, 255)
            own = fold_path(attribute.references) == item.folded
            if not own and (target is None or not permissions & VISIBLE or target.folded in self._views):
                raise _no_target(attribute.name)

    def _check_same(self, item: Collection, existing: Collection) -> None:
        if existing.folded in self._views or not item.is_satisfied_by(existing):
            raise Conflict("COLLECTION_EXISTS", "The collection exists with another schema.")


def _mentioned(collections: Sequence[Collection]) -> set[str]:
    paths = {path for item in collections for path in (item.folded, parent_of(item.folded))}
    return paths | {fold_path(a.references) for item in collections for a in item.attributes if a.references}


def _no_target(name: str) -> MdmError:
    return NotFound("REFERENCE_NOT_FOUND", f"Attribute {name} refers to a collection that does not exist, or that you may not see.")


def create_views(store: Store, caller: Caller, views: Sequence[View | MdmError]) -> list[Failure]:
    """Create at most 1,000 views and links, in order, each in a transaction of its own, as `create_view` does."""
    check_batch(views, MAX_VIEWS, "views")
    return [view if isinstance(view, MdmError) else failure_of(lambda view: create_view(store, caller, view), view) for view in views]


def create_view(store: Store, caller: Caller, view: View) -> None:
    """Create a view, which shows entries that its creator may read, or a link, which shows what each reader may read.

    Needs `w` on the parent, and on the target `r`, for a view `p` too: it gives to others what the creator may read.

    Raises:
        MdmError: a right is missing, there is another object at the path, or the view names an attribute that the target does not have.
    """
    check_path(view.path)
    check_path(view.target)
    with store.altering() as alteration:
        parent = allowed_original(alteration.collection(parent_of(fold_path(view.path)), caller), Permission.WRITE, "w")
        target = alteration.visible(fold_path(view.target), caller)
        if target is None or not target.permissions & VISIBLE:
            raise NotFound("TARGET_NOT_FOUND", "The target does not exist, or you may not see it.")
        target = allowed_original(target, Permission.READ, "r")
        stored = StoredView(target.id, target.collection.path, None, None, True, ())
        if not view.is_link:
            allowed(target, Permission.CHANGE_ACL, "p")
            stored = _stored_view(view, target, caller)
        elif view.attributes or view.condition:
            raise Invalid("VIEW_LINK", "A link shows all of its target: name no attributes and no condition.")
        default = parent.collection.default_acl_id
        acl = view.acl_id or default
        assert acl is not None and default is not None
        if (refusal := acl_refusal(acl, alteration.acl_permissions({acl}, caller))) is not None:
            raise refusal
        if not alteration.insert_view(parent.id, view, stored, (acl, default), target.collection.sensitive):
            _check_same_view(alteration, caller, view, stored)


def _stored_view(view: View, target: StoredCollection, caller: Caller) -> StoredView:
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


def _check_same_view(alteration: Alteration, caller: Caller, view: View, stored: StoredView) -> None:
    existing = alteration.visible(fold_path(view.path), caller)
    if existing is None or not existing.permissions & VISIBLE or existing.view != stored:
        raise Conflict("COLLECTION_EXISTS", "There is another object at this path.")
