"""Validation: constraints tested on all entries, indexes built from them; undone if one fails, finished after a crash."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from mdm_wire.errors import Aborted, FailedPrecondition

from mdm_metadata.rules.model import MAX_INDEXED_TEXT, Attribute, AttributeType, StoredAttribute, StoredCollection, Validation
from mdm_metadata.rules.port import Alteration, Store
from mdm_metadata.rules.query.binding.change import bind_condition

_TEXTS = (AttributeType.TEXT, AttributeType.VARCHAR)


def new_number() -> int:
    """Return a number for a new validation; the process that carries it out holds its lock in the database."""
    return secrets.randbits(62)


def validate(store: Store, validation: Validation, before: Attribute | None = None) -> None:
    """Validate the constraints on all entries and build the index; if a constraint does not hold, undo the whole change.

    `before` is the attribute before the change, where its name and description are to be restored too.

    Raises:
        FailedPrecondition: CONSTRAINT_BROKEN, CHECK_BROKEN: the change is undone. Aborted: another call changed the attribute meanwhile.
    """
    with store.altering() as alteration:
        collection = alteration.held(validation.collection_id)
    if collection is None:
        return
    if validation.position is None:
        _validate_check(store, validation, collection)
        return
    stored = _attribute(collection, validation.position)
    if stored is None:
        _forget(store, validation)
        return
    try:
        _validate_attribute(store, validation, stored)
    except FailedPrecondition:
        with store.altering() as alteration:
            _undo(alteration, validation, before)
            alteration.end(validation.number)
        store.backfill().erase(validation.collection_id)
        raise
    _finish(store, validation, stored)


def recover(store: Store) -> int:
    """Finish validations that crashes interrupted, and return how many; those that another process carries out are left alone."""
    finished = 0
    for validation in store.validations():
        with store.hold(validation.number) as free:
            if not free or validation not in store.validations():
                continue
            with suppress(FailedPrecondition, Aborted):  # undone, and no caller waits for the error
                validate(store, validation)
            finished += 1
    for collection_id in store.unerased():
        store.backfill().erase(collection_id)
    return finished


def _validate_check(store: Store, validation: Validation, collection: StoredCollection) -> None:
    check = next((known for known in collection.checks if known.name == validation.check), None)
    broken = check is not None and store.backfill().breaks(collection.id, bind_condition(check.condition, collection))
    with store.altering() as alteration:
        held = alteration.held(validation.collection_id)
        if broken and held is not None:
            alteration.set_checks(held.id, [known for known in held.checks if known.name != validation.check])
        alteration.end(validation.number)
    if broken:
        raise FailedPrecondition("CHECK_BROKEN", f"Entries do not fulfil {validation.check}: change them first.")


def _validate_attribute(store: Store, validation: Validation, stored: StoredAttribute) -> None:
    backfill, attribute, number = store.backfill(), stored.attribute, validation.collection_id
    tests: dict[str, tuple[Callable[[], bool], str]] = {
        "required": (lambda: backfill.lacks_value(number, stored.slot), "have no value"),
        "unique": (lambda: not backfill.fill_unique(number, stored), "share a value"),
        "references": (lambda: backfill.dangles(number, stored), "refer to no entry"),
    }
    for constraint, (breaks, problem) in tests.items():
        if constraint in validation.constraints and breaks():
            raise FailedPrecondition("CONSTRAINT_BROKEN", f"Attribute {attribute.name}: entries {problem}: change them first.")
    if stored.moving_to:
        if attribute.indexed and attribute.type in _TEXTS and backfill.longest(number, stored.slot) > MAX_INDEXED_TEXT:
            raise FailedPrecondition(
                "CONSTRAINT_BROKEN", f"Attribute {attribute.name}: indexed text has at most {MAX_INDEXED_TEXT} characters."
            )
        backfill.copy(number, stored.slot, stored.moving_to)


def _undo(alteration: Alteration, validation: Validation, before: Attribute | None) -> None:
    collection = alteration.held(validation.collection_id)
    stored = None if collection is None or validation.position is None else _attribute(collection, validation.position)
    if stored is None:
        return
    present = stored.attribute
    attribute = replace(
        present,
        not_null=present.not_null and "required" not in validation.constraints,
        unique=present.unique and "unique" not in validation.constraints,
        references="" if "references" in validation.constraints else present.references,
        indexed=present.indexed is not bool(stored.moving_to),
    )
    if before is not None:
        attribute = replace(attribute, name=before.name, unit=before.unit, description=before.description)
    reference = stored.reference_id if attribute.references else None
    alteration.update_attribute(validation.collection_id, replace(stored, attribute=attribute, moving_to="", reference_id=reference))
    if stored.moving_to:
        alteration.retire_slot(validation.collection_id, stored.moving_to)
    if "unique" in validation.constraints:
        alteration.forget_unique(validation.collection_id, stored.slot)


def _finish(store: Store, validation: Validation, validated: StoredAttribute) -> None:
    """Let queries use the index, if one was built, and end the validation."""
    with store.altering() as alteration:
        collection = alteration.held(validation.collection_id)
        stored = None if collection is None else _attribute(collection, validated.position)
        alteration.end(validation.number)
        is_same = stored is not None and stored.moving_to == validated.moving_to
        if stored is not None and is_same and stored.moving_to:
            alteration.update_attribute(validation.collection_id, replace(stored, slot=stored.moving_to, moving_to=""))
            alteration.retire_slot(validation.collection_id, stored.slot)
            if stored.attribute.unique:
                alteration.move_unique(validation.collection_id, stored.slot, stored.moving_to)
    if not is_same:
        raise Aborted("SCHEMA_CHANGED", "Another call changed the attribute meanwhile: check it and try again.")
    if validated.moving_to:
        store.backfill().erase(validation.collection_id)


def _forget(store: Store, validation: Validation) -> None:
    with store.altering() as alteration:
        alteration.end(validation.number)


def _attribute(collection: StoredCollection, position: int) -> StoredAttribute | None:
    return next((stored for stored in collection.attributes if stored.position == position), None)
