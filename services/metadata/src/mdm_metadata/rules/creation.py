"""CreateCollections."""

from collections.abc import Sequence

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import Collection, fold_path, parent_of
from mdm_metadata.rules.port import VISIBLE, Outcome, Transaction, acl_refusal, outcome_of


class Creation:
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

    def run(self) -> list[Outcome]:
        """Create what can be created, in order."""
        new: list[Collection] = []
        outcomes: list[Outcome] = [outcome_of(lambda item: self._plan(item, new), item) for item in self._collections]
        inserted = self._transaction.insert_collections(new)
        lost = [item.folded for item in new if item.folded not in inserted]
        if lost:  # created by somebody else since we looked
            existing = self._transaction.collections(lost, self._caller)
            self._views |= {path for path, stored in existing.items() if stored.view is not None}
            for index, item in enumerate(self._collections):
                if item.folded in existing and outcomes[index] is None:
                    outcomes[index] = outcome_of(lambda item: self._check_same(item, existing[item.folded].collection), item)
        return outcomes

    def _plan(self, item: Collection, new: list[Collection]) -> None:
        item.check()
        if item.folded == "/":
            raise Invalid("ROOT", "The root collection exists by configuration.")
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
            raise Forbidden("PARENT_FORBIDDEN", "You need `w` on the parent collection.")
        if parent.folded in self._views:
            raise Invalid("COLLECTION_IS_VIEW", "The parent is a view, link or copy, and nothing can be made below one.")
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
