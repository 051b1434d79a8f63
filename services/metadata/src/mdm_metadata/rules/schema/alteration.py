"""Changes of a collection's schema, also while it has entries and others write to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, FailedPrecondition, Invalid, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import VISIBLE, acl_refusal, allowed, allowed_original
from mdm_metadata.rules.model import (
    FIRST_UNINDEXED,
    INDEX_SLOTS,
    LETTERS,
    MAX_ATTRIBUTES,
    Attribute,
    Check,
    StoredAttribute,
    StoredCollection,
    Validation,
    check_min_cell,
    check_path,
    fold_path,
)
from mdm_metadata.rules.port import Alteration, Store
from mdm_metadata.rules.query.binding.change import bind_condition, collection_of
from mdm_metadata.rules.schema.validation import new_number, validate

MAX_CHECKS = 50


@dataclass(frozen=True)
class AttributeChange:
    """A change of an attribute; None leaves a property as it is. An empty `references` removes a reference."""

    name: str
    new_name: str | None = None
    unit: str | None = None
    description: str | None = None
    not_null: bool | None = None
    indexed: bool | None = None
    unique: bool | None = None
    references: str | None = None


class Alterations:
    """Changes of one collection's schema. All need `s` on the collection, those of its ACLs `p`."""

    def __init__(self, store: Store, caller: Caller, path: str) -> None:
        check_path(path)
        self._store = store
        self._caller = caller
        self._path = fold_path(path)

    def add_attribute(self, attribute: Attribute) -> None:
        """Add an attribute; adding the same again has no effect.

        Raises:
            MdmError: it is not valid, or it must have a value and the collection has entries.
        """
        attribute.check()
        with self._store.altering() as alteration:
            collection = self._alterable(alteration)
            existing = collection.by_name.get(attribute.folded)
            if existing is not None:
                if replace(attribute, name=existing.attribute.name) == existing.attribute:
                    return
                raise Conflict("ATTRIBUTE_EXISTS", f"The collection has an attribute {attribute.name} already.")
            if len(collection.attributes) >= MAX_ATTRIBUTES:
                raise Invalid("TOO_MANY_ATTRIBUTES", f"A collection has at most {MAX_ATTRIBUTES} attributes.")
            if attribute.not_null and not alteration.is_empty(collection.id):
                raise FailedPrecondition(
                    "COLLECTION_NOT_EMPTY", "The collection has entries: add the attribute without NOT NULL, fill it, then set NOT NULL."
                )
            number = alteration.new_number(collection.id)
            slot = self._slot(alteration, collection, attribute, number)
            reference = self._target(alteration, collection, attribute.name, attribute.references)
            alteration.add_attribute(collection.id, StoredAttribute(attribute, slot, number, "", reference))

    def remove_attribute(self, name: str) -> None:
        """Remove an attribute with its values; views no longer show it.

        Raises:
            FailedPrecondition: a check or a view's condition uses it.
        """
        with self._store.altering() as alteration:
            collection = self._alterable(alteration)
            stored = _attribute(collection, name)
            self._check_dependents(alteration, collection, [other for other in collection.attributes if other is not stored])
            alteration.remove_attribute(collection.id, stored)
        self._store.backfill().erase(collection.id)

    def change_attribute(self, change: AttributeChange) -> None:
        """Change name, description, constraints or index of an attribute. Writers do not wait while an index is built.

        A new constraint holds for writers at once and is then validated on all entries; it is undone if one breaks it.

        Raises:
            MdmError: the change is not valid, or entries do not fulfil the constraint.
        """
        number = new_number()
        with self._store.hold(number):
            with self._store.altering() as alteration:
                collection = self._alterable(alteration)
                before = _attribute(collection, change.name)
                after = self._changed(alteration, collection, before, change)
                alteration.update_attribute(collection.id, after)
                if before.attribute.unique and not after.attribute.unique:
                    alteration.forget_unique(collection.id, before.slot)
                validation = Validation(number, collection.id, before.position, constraints=_to_validate(change))
                if validation.constraints or after.moving_to:
                    alteration.begin(validation)
            if validation.constraints or after.moving_to:
                validate(self._store, validation, before.attribute)

    def add_check(self, check: Check) -> None:
        """Add a condition that every entry fulfils; NULL counts as fulfilled. Adding the same again has no effect.

        Raises:
            MdmError: it is not a condition, or an entry does not fulfil it.
        """
        if not check.name.isidentifier() or not check.name.isascii() or len(check.name) > 63:
            raise Invalid("CHECK_NAME", "A check's name is a letter, then letters, digits or underscores, at most 63 in all.")
        number = new_number()
        with self._store.hold(number):
            with self._store.altering() as alteration:
                collection = self._alterable(alteration)
                allowed(collection, Permission.READ, "r")  # whether entries fulfil a condition reveals something of their values
                bind_condition(check.condition, collection)
                same = next((known for known in collection.checks if known.name.lower() == check.name.lower()), None)
                if same is not None and same.condition != check.condition:
                    raise Conflict("CHECK_EXISTS", f"The collection has another check {check.name}.")
                if same is None and len(collection.checks) >= MAX_CHECKS:
                    raise Invalid("TOO_MANY_CHECKS", f"A collection has at most {MAX_CHECKS} checks.")
                if same is None:
                    alteration.set_checks(collection.id, [*collection.checks, check])
                validation = Validation(number, collection.id, check=check.name if same is None else same.name)
                alteration.begin(validation)
            validate(self._store, validation)

    def drop_check(self, name: str) -> None:
        """Remove a check.

        Raises:
            NotFound: no check has this name.
        """
        with self._store.altering() as alteration:
            collection = self._alterable(alteration)
            rest = [check for check in collection.checks if check.name.lower() != name.lower()]
            if len(rest) == len(collection.checks):
                raise NotFound("CHECK_NOT_FOUND", "The collection has no check of this name.")
            alteration.set_checks(collection.id, rest)

    def set_min_cell(self, min_cell: int) -> None:
        """Set the smallest count given to callers with `l` and without `r`; 0 gives them none."""
        check_min_cell(min_cell)
        with self._store.altering() as alteration:
            collection = self._alterable(alteration, views=True)
            allowed(collection, Permission.CHANGE_ACL, "p")
            alteration.set_min_cell(collection.id, min_cell)

    def set_acls(self, acl_id: UUID | None, default_acl_id: UUID | None) -> None:
        """Point the collection itself, or what is created in it, at another ACL. Needs `p`."""
        with self._store.altering() as alteration:
            collection = allowed(alteration.collection(self._path, self._caller), Permission.CHANGE_ACL, "p")
            if collection.is_replica:
                allowed_original(collection, Permission.CHANGE_ACL, "p")
            if self._path == "/":
                raise Invalid("ROOT", "The ACL of the root collection is set in the configuration.")
            acl, default = acl_id or collection.collection.acl_id, default_acl_id or collection.collection.default_acl_id
            assert acl is not None and default is not None
            known = alteration.acl_permissions({acl, default}, self._caller)
            for item in (acl, default):
                if (refusal := acl_refusal(item, known)) is not None:
                    raise refusal
            alteration.set_acls(collection.id, acl, default)

    def _alterable(self, alteration: Alteration, *, views: bool = False) -> StoredCollection:
        found = alteration.collection(self._path, self._caller)
        if views and found is not None and found.view is not None:
            return allowed(found, Permission.SET, "s")
        return allowed_original(found, Permission.SET, "s")

    def _changed(
        self, alteration: Alteration, collection: StoredCollection, before: StoredAttribute, change: AttributeChange
    ) -> StoredAttribute:
        attribute = before.attribute
        given = {
            "name": change.new_name,
            "unit": change.unit,
            "description": change.description,
            "not_null": change.not_null,
            "indexed": change.indexed,
            "unique": change.unique,
            "references": change.references,
        }
        attribute = replace(attribute, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        attribute.check()
        if attribute.folded != before.attribute.folded and attribute.folded in collection.by_name:
            raise Conflict("ATTRIBUTE_EXISTS", f"The collection has an attribute {attribute.name} already.")
        after = replace(
            before, attribute=attribute, reference_id=self._target(alteration, collection, attribute.name, attribute.references)
        )
        if attribute.indexed != before.attribute.indexed:
            if before.moving_to:
                alteration.retire_slot(collection.id, before.moving_to)
            after = replace(after, moving_to=self._slot(alteration, collection, attribute, alteration.new_number(collection.id)))
        others = [after if other is before else other for other in collection.attributes]
        self._check_dependents(alteration, collection, others)
        return after

    def _slot(self, alteration: Alteration, collection: StoredCollection, attribute: Attribute, number: int) -> str:
        letter = LETTERS[attribute.type]
        if not attribute.indexed:
            return f"{letter}{max(number, FIRST_UNINDEXED)}"
        used = alteration.used_slots(collection.id)
        free = next((slot for n in range(1, INDEX_SLOTS[letter] + 1) if (slot := f"{letter}{n}") not in used), None)
        if free is None:
            most = f"at most {INDEX_SLOTS[letter]} indexed attributes of type {attribute.type.name}"
            raise Invalid("TOO_MANY_INDEXES", f"Attribute {attribute.name}: {most}.")
        return free

    def _target(self, alteration: Alteration, collection: StoredCollection, name: str, references: str) -> int | None:
        if not references:
            return None
        path = fold_path(references)
        target = collection if path == self._path else alteration.visible(path, self._caller)
        if target is None or target.view is not None or not target.permissions & VISIBLE:
            raise NotFound("REFERENCE_NOT_FOUND", f"Attribute {name} refers to a collection that does not exist, or that you may not see.")
        return target.id

    def _check_dependents(self, alteration: Alteration, collection: StoredCollection, attributes: Sequence[StoredAttribute]) -> None:
        shape = collection_of(attributes)
        conditions = [check.condition for check in collection.checks] + alteration.dependent_conditions(collection.id)
        for condition in conditions:
            try:
                bind_condition(condition, shape)
            except Invalid:
                raise FailedPrecondition("ATTRIBUTE_IN_USE", "A check or a view's condition uses the attribute: drop that first.") from None


def _to_validate(change: AttributeChange) -> frozenset[str]:
    """Return the constraints that a change sets."""
    wanted = {"required": change.not_null, "unique": change.unique, "references": change.references}
    return frozenset(name for name, value in wanted.items() if value)


def _attribute(collection: StoredCollection, name: str) -> StoredAttribute:
    stored = collection.by_name.get(name.lower())
    if stored is None:
        raise NotFound("ATTRIBUTE_UNKNOWN", "The collection has no attribute of this name.")
    return stored
