"""Views and links."""

from collections.abc import Sequence
from dataclasses import replace

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import VISIBLE, Failure, acl_refusal, allowed, allowed_original, check_batch, failure_of
from mdm_metadata.rules.model import KEY_NAME, StoredCollection, StoredView, View, check_path, fold_path, parent_of
from mdm_metadata.rules.port import Alteration, Store
from mdm_metadata.rules.query.binding.change import bind_condition

MAX_VIEWS = 1_000
MAX_CONDITION = 4_000


def create_views(store: Store, caller: Caller, views: Sequence[View | MdmError]) -> list[Failure]:
    """Create views and links, in order, each in a transaction of its own; see `create_view`. At most 1,000."""
    check_batch(views, MAX_VIEWS, "views")
    return [view if isinstance(view, MdmError) else failure_of(lambda view: create_view(store, caller, view), view) for view in views]


def create_view(store: Store, caller: Caller, view: View) -> None:
    """Create a view, which shows entries that its creator may read, or a link, which shows what each reader may read.

    Needs `w` on the parent, and on the target `r`, for a view `p` too: it gives to others what the creator may read.

    Raises:
        MdmError: that is not so, something is at the path, or the view speaks of what the target does not have.
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
            _check_same(alteration, caller, view, stored)


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


def _check_same(alteration: Alteration, caller: Caller, view: View, stored: StoredView) -> None:
    existing = alteration.visible(fold_path(view.path), caller)
    if existing is None or not existing.permissions & VISIBLE or existing.view != stored:
        raise Conflict("COLLECTION_EXISTS", "Something else is at this path.")
