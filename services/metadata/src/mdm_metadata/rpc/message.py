"""Protobuf to model and back."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_wire.errors import Exhausted, Invalid
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import (
    Assignment,
    Attribute,
    AttributeType,
    Collection,
    Entry,
    Scalar,
    StoredCollection,
    StoredView,
    View,
    ViewAttribute,
)
from mdm_metadata.rules.query.merge import MergeCall, MergedColumn, MergeExpression, MergePlan
from mdm_metadata.rules.query.syntax.tree import Constant, Literal, Output
from mdm_metadata.rules.schema.alteration import AttributeChange

MAX_BATCH_BYTES = 4 * 1024 * 1024 - 1024

_PLACEHOLDERS: dict[str, Any] = {"ints": 0, "floats": 0.0, "texts": "", "bools": False}
_FIELDS = {AttributeType.INT: "ints", AttributeType.FLOAT: "floats", AttributeType.BOOL: "bools"}


def collection_from_proto(message: pb.Collection) -> Collection:
    """Return a collection as its creator describes it."""
    attributes = tuple(attribute_from_proto(attribute) for attribute in message.attributes)
    acl_id, default = acl_id_from_proto(message.acl_id), acl_id_from_proto(message.default_acl_id)
    return Collection(message.path, attributes, acl_id, default, message.sensitive, message.min_cell)


def attribute_from_proto(message: pb.Attribute) -> Attribute:
    """Return an attribute as its creator describes it."""
    if message.type not in AttributeType._value2member_map_:
        raise Invalid("ATTRIBUTE_TYPE", "Types are INT, FLOAT, NUMERIC, TEXT, VARCHAR, BOOL, DATE, TIMESTAMP, UUID.")
    return Attribute(
        message.name,
        AttributeType(message.type),
        message.length,
        message.unit,
        message.description,
        message.not_null,
        message.indexed,
        message.unique,
        message.references,
    )


def entry_from_proto(message: pb.Entry) -> Entry:
    """Return an entry as a caller sends it."""
    return Entry(message.key, {name: scalar_from_proto(value) for name, value in message.values.items()}, acl_id_from_proto(message.acl_id))


def scalar_from_proto(message: pb.Value) -> Scalar:
    """Return a value as a caller sends it."""
    kind = message.WhichOneof("kind")
    scalar: Scalar = None if kind is None else getattr(message, kind)
    return scalar


def assignment_from_proto(message: pb.AclAssignment) -> Assignment:
    """Return an assignment of another ACL to an entry."""
    acl_id = acl_id_from_proto(message.acl_id)
    if acl_id is None:
        raise Invalid("ACL_ID_MALFORMED", "An ACL id is a UUID.")
    return Assignment(message.collection, message.key, acl_id)


def acl_id_from_proto(text: str) -> UUID | None:
    """Return the id of an ACL, None for empty text."""
    try:
        return UUID(text) if text else None
    except ValueError:
        raise Invalid("ACL_ID_MALFORMED", "An ACL id is a UUID.") from None


def collection_to_proto(stored: StoredCollection) -> pb.Collection:
    """Return the description of a collection or view."""
    item = stored.collection
    attributes = [
        pb.Attribute(
            name=attribute.name,
            type=pb.AttributeType.ValueType(attribute.type),
            length=attribute.length,
            unit=attribute.unit,
            description=attribute.description,
            not_null=attribute.not_null,
            indexed=attribute.indexed,
            unique=attribute.unique,
            references=attribute.references,
        )
        for attribute in item.attributes
    ]
    checks = [pb.Check(name=check.name, condition=check.condition) for check in stored.checks]
    return pb.Collection(
        path=item.path,
        attributes=attributes,
        acl_id=str(item.acl_id),
        default_acl_id=str(item.default_acl_id),
        sensitive=item.sensitive,
        min_cell=item.min_cell,
        checks=checks,
        view=None if stored.view is None else _view_to_proto(stored.view, stored.shown, stored.permissions),
    )


def _view_to_proto(view: StoredView, shown: Sequence[ViewAttribute], permissions: int) -> pb.View:
    shown_to_caller = view.definer is None or permissions & (Permission.SET | Permission.CHANGE_ACL)  # a condition may name a person
    return pb.View(
        target=view.target_path,
        attributes=[pb.ViewAttribute(name=attribute.name, target=attribute.target) for attribute in shown],
        condition=(view.condition or "") if shown_to_caller else "",
        withheld=not shown_to_caller,
        with_key=view.with_key,
        is_link=view.definer is None,
        definer=view.definer or "",
    )


def view_from_proto(message: pb.View) -> View:
    """Return a view as its creator describes it."""
    shown = tuple(ViewAttribute(attribute.name, attribute.target) for attribute in message.attributes)
    acl_id = acl_id_from_proto(message.acl_id)
    return View(message.path, message.target, shown, message.condition, message.with_key, message.is_link, acl_id)


def attribute_change_from_proto(message: pb.AttributeChange) -> AttributeChange:
    """Return a change of an attribute."""

    def given(name: str) -> Any:
        return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type]

    names = ("new_name", "unit", "description", "not_null", "indexed", "unique", "references")
    return AttributeChange(message.name, **{name: given(name) for name in names})


def header_to_proto(outputs: Sequence[Output], merge: MergePlan | None = None) -> pb.QueryHeader:
    """Return the columns of an answer, and its merge plan if it is one of several."""
    return pb.QueryHeader(columns=[_column_to_proto(output) for output in outputs], merge=None if merge is None else _merge_to_proto(merge))


def _merge_to_proto(merge: MergePlan) -> pb.MergePlan:
    columns = [
        pb.MergeColumn(
            kind=pb.MergeKind.ValueType(column.kind),
            source=column.source,
            count_source=column.count_source,
            column=_column_to_proto(column.output),
            expression=None if column.expression is None else _expression_to_proto(column.expression),
        )
        for column in merge.columns
    ]
    order = [pb.MergeOrder(column=item.column, descending=item.descending, nulls_first=item.nulls_first) for item in merge.order]
    plan = pb.MergePlan(columns=columns, visible=merge.visible, order=order, grouped=merge.grouped, distinct=merge.distinct)
    plan.limit, plan.offset, plan.single = -1 if merge.limit is None else merge.limit, merge.offset, merge.single
    if merge.having is not None:
        plan.having.CopyFrom(_expression_to_proto(merge.having))
    return plan


def _expression_to_proto(item: MergeExpression) -> pb.MergeExpression:
    kind = pb.AttributeType.ValueType(item.type)
    match item:
        case MergedColumn(number):
            return pb.MergeExpression(column=number, type=kind)
        case Literal(value):
            return pb.MergeExpression(constant=_constant_to_proto(value), type=kind)
        case MergeCall(operation, arguments):
            call = pb.MergeCall(operation=operation, arguments=[_expression_to_proto(argument) for argument in arguments])
            return pb.MergeExpression(call=call, type=kind)


def _constant_to_proto(value: Constant) -> pb.Value:
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(bool=value)
        case int():
            return pb.Value(int=value)
        case float():
            return pb.Value(float=value)
        case Decimal():
            return pb.Value(text=format(value, "f"))
        case datetime() | date():
            return pb.Value(text=value.isoformat())
        case _:
            return pb.Value(text=str(value))


def column_fields(outputs: Sequence[Output]) -> list[str]:
    """Return the field of ColumnData for each column's values."""
    return [_FIELDS.get(output.type, "texts") for output in outputs]


def _column_to_proto(output: Output) -> pb.ResultColumn:
    return pb.ResultColumn(name=output.name, type=pb.AttributeType.ValueType(output.type), unit=output.unit)


def batches_to_proto(fields: Sequence[str], columns: Sequence[Sequence[Any]]) -> Iterator[pb.RowBatch]:
    """Yield rows as one message, or as several when one would be too large for a message."""
    count = len(columns[0])
    batch = pb.RowBatch(count=count, columns=[_data(field, values) for field, values in zip(fields, columns, strict=True)])
    if batch.ByteSize() <= MAX_BATCH_BYTES:
        yield batch
        return
    if count == 1:
        raise Exhausted("QUERY_ROW_TOO_LARGE", f"A row has more than {MAX_BATCH_BYTES} bytes: select fewer columns.")
    for part in (slice(0, count // 2), slice(count // 2, count)):
        yield from batches_to_proto(fields, [values[part] for values in columns])


def _data(field: str, values: Sequence[Any]) -> pb.ColumnData:
    data = pb.ColumnData()
    if None in values:
        bits = bytearray((len(values) + 7) // 8)
        for index, value in enumerate(values):
            if value is None:
                bits[index >> 3] |= 1 << (index & 7)
        data.nulls = bytes(bits)
        missing = _PLACEHOLDERS[field]
        values = [missing if value is None else value for value in values]
    getattr(data, field).extend(values)
    return data
