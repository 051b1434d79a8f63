"""What a change of a schema does with all entries: constraints tried, indexes built; and what becomes of it after a crash."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from mdm_wire.errors import Aborted, FailedPrecondition

from mdm_metadata.rules.model import MAX_INDEXED_TEXT, Attribute, AttributeType, StoredAttribute, StoredCollection, Trial
from mdm_metadata.rules.port import Alteration, Store
from mdm_metadata.rules.query.change import bind_condition

_TEXTS = (AttributeType.TEXT, AttributeType.VARCHAR)


def new_number() -> int:
    """Return a number for a trial, which its doer holds in the database."""
    return secrets.randbits(62)


def carry_out(store: Store, trial: Trial, before: Attribute | None = None) -> None:
    """Try the constraints on all entries and build the index; where they do not hold, take everything of the trial back.

    `before` is the attribute as it was, where its name and description shall be taken back too.

    Raises:
        FailedPrecondition: CONSTRAINT_BROKEN, CHECK_BROKEN: and taken back. Aborted: somebody else changed the attribute meanwhile.
    """
    with store.altering() as alteration:
        collection = alteration.held(trial.collection_id)
    if collection is None:
        return
    if trial.position is None:
        _try_check(store, trial, collection)
        return
    stored = _attribute(collection, trial.position)
    if stored is None:
        _forget(store, trial)
        return
    try:
        _try_attribute(store, trial, stored)
    except FailedPrecondition:
        with store.altering() as alteration:
            _take_back(alteration, trial, before)
            alteration.end(trial.number)
        store.filling().erase(trial.collection_id)
        raise
    _finish(store, trial, stored)


def recover(store: Store) -> int:
    """End what crashes left undone; return how many trials were ended. What others are at is left alone."""
    ended = 0
    for trial in store.trials():
        with store.holding(trial.number) as free:
            if not free or trial not in store.trials():
                continue
            with suppress(FailedPrecondition, Aborted):  # taken back, and nobody waits to be told
                carry_out(store, trial)
            ended += 1
    for collection_id in store.unerased():
        store.filling().erase(collection_id)
    return ended


def _try_check(store: Store, trial: Trial, collection: StoredCollection) -> None:
    check = next((known for known in collection.checks if known.name == trial.check), None)
    broken = check is not None and store.filling().breaks(collection.id, bind_condition(check.condition, collection))
    with store.altering() as alteration:
        held = alteration.held(trial.collection_id)
        if broken and held is not None:
            alteration.set_checks(held.id, [known for known in held.checks if known.name != trial.check])
        alteration.end(trial.number)
    if broken:
        raise FailedPrecondition("CHECK_BROKEN", f"Entries do not fulfil {trial.check}: change them first.")


def _try_attribute(store: Store, trial: Trial, stored: StoredAttribute) -> None:
    filling, attribute, number = store.filling(), stored.attribute, trial.collection_id
    tests: dict[str, tuple[Callable[[], bool], str]] = {
        "required": (lambda: filling.lacks_value(number, stored.slot), "have no value"),
        "unique": (lambda: not filling.fill_unique(number, stored), "share a value"),
        "references": (lambda: filling.dangles(number, stored), "refer to no entry"),
    }
    for constraint, (breaks, problem) in tests.items():
        if constraint in trial.constraints and breaks():
            raise FailedPrecondition("CONSTRAINT_BROKEN", f"Attribute {attribute.name}: entries {problem}: change them first.")
    if stored.moving_to:
        if attribute.indexed and attribute.type in _TEXTS and filling.longest(number, stored.slot) > MAX_INDEXED_TEXT:
            raise FailedPrecondition(
                "CONSTRAINT_BROKEN", f"Attribute {attribute.name}: indexed text has at most {MAX_INDEXED_TEXT} characters."
            )
        filling.copy(number, stored.slot, stored.moving_to)


def _take_back(alteration: Alteration, trial: Trial, before: Attribute | None) -> None:
    collection = alteration.held(trial.collection_id)
    stored = None if collection is None or trial.position is None else _attribute(collection, trial.position)
    if stored is None:
        return
    present = stored.attribute
    attribute = replace(
        present,
        not_null=present.not_null and "required" not in trial.constraints,
        unique=present.unique and "unique" not in trial.constraints,
        references="" if "references" in trial.constraints else present.references,
        indexed=present.indexed is not bool(stored.moving_to),
    )
    if before is not None:
        attribute = replace(attribute, name=before.name, unit=before.unit, description=before.description)
    reference = stored.reference_id if attribute.references else None
    alteration.update_attribute(trial.collection_id, replace(stored, attribute=attribute, moving_to="", reference_id=reference))
    if stored.moving_to:
        alteration.retire_slot(trial.collection_id, stored.moving_to)
    if "unique" in trial.constraints:
        alteration.forget_unique(trial.collection_id, stored.slot)


def _finish(store: Store, trial: Trial, tried: StoredAttribute) -> None:
    """Let queries use the index, where one was built, and forget the trial."""
    with store.altering() as alteration:
        collection = alteration.held(trial.collection_id)
        stored = None if collection is None else _attribute(collection, tried.position)
        alteration.end(trial.number)
        is_same = stored is not None and stored.moving_to == tried.moving_to
        if stored is not None and is_same and stored.moving_to:
            alteration.update_attribute(trial.collection_id, replace(stored, slot=stored.moving_to, moving_to=""))
            alteration.retire_slot(trial.collection_id, stored.slot)
            if stored.attribute.unique:
                alteration.move_unique(trial.collection_id, stored.slot, stored.moving_to)
    if not is_same:
        raise Aborted("SCHEMA_CHANGED", "Somebody else changed the attribute meanwhile: look, and repeat.")
    if tried.moving_to:
        store.filling().erase(trial.collection_id)


def _forget(store: Store, trial: Trial) -> None:
    with store.altering() as alteration:
        alteration.end(trial.number)


def _attribute(collection: StoredCollection, position: int) -> StoredAttribute | None:
    return next((stored for stored in collection.attributes if stored.position == position), None)
