"""Binding UPDATE, DELETE and single conditions: sqlglot's tree, with a collection's schema, becomes the typed tree."""

from collections.abc import Mapping, Sequence

from sqlglot import exp

from mdm_metadata.rules.model import ACL_NAME, KEY_NAME, AttributeType, Collection, StoredAttribute, StoredCollection, fold_path
from mdm_metadata.rules.query.binding.expression import expressions
from mdm_metadata.rules.query.binding.expression_binder import plain
from mdm_metadata.rules.query.binding.scope import Scope
from mdm_metadata.rules.query.binding.select import MAX_OUTPUTS, Find, add_source, order_by, path_of, row_number
from mdm_metadata.rules.query.sql.render import is_total
from mdm_metadata.rules.query.syntax import literal
from mdm_metadata.rules.query.syntax.operation import NUMBERS
from mdm_metadata.rules.query.syntax.parse import Refusal, Text, parse
from mdm_metadata.rules.query.syntax.tree import Change, Column, Expression, Literal, Output

_UPDATE = ("this", "expressions", "where", "order", "limit", "returning")
_DELETE = ("this", "where", "limit", "order")
_CONDITION_PREFIX = 'SELECT 1 FROM "/" WHERE\n'


def changed_path(tree: exp.Update | exp.Delete, text: str) -> str:
    """Return the folded path of the collection that is to be changed.

    Raises:
        Refusal: it is not a quoted path.
    """
    return fold_path(path_of(Text(text), tree.this))


def bind_change(tree: exp.Update | exp.Delete, text: str, find: Find, parameters: Mapping[str, Literal]) -> Change:
    """Return the typed tree of a change.

    Raises:
        Refusal: something is not allowed, unknown or of the wrong type; the message says where.
    """
    return _ChangeBinder(tree, Text(text), find, parameters).change()


def bind_condition(text: str, collection: StoredCollection) -> Expression:
    """Return the typed tree of a condition on one entry that cannot fail on any value, as checks and views have.

    Raises:
        Refusal: it is anything else; the message says where in `text`.
    """
    whole = _CONDITION_PREFIX + text
    try:
        tree, checked, scope = parse(whole), Text(whole), Scope()
        checked.only(tree, "expressions", "from_", "where")
        scope.add(collection, None)
        where = tree.args.get("where")
        if where is None:
            raise checked.refuse(tree, "a condition is missing.")
        condition = expressions(checked, scope, {}).condition(where.this)
        if not is_total(condition):
            raise checked.refuse(where.this, "a condition here must not fail on any value: no arithmetic, CAST or text functions.")
    except Refusal as refusal:
        raise refusal.moved(-1) from None
    return condition


def collection_of(attributes: Sequence[StoredAttribute]) -> StoredCollection:
    """Return a collection that has these attributes, to bind a condition to."""
    return StoredCollection(0, Collection("/", tuple(stored.attribute for stored in attributes)), tuple(attributes), 0)


class _ChangeBinder:
    """Binds one UPDATE or DELETE."""

    def __init__(self, tree: exp.Update | exp.Delete, text: Text, find: Find, parameters: Mapping[str, Literal]) -> None:
        self._tree = tree
        self._text = text
        self._scope = Scope()
        text.only(tree, *(_UPDATE if type(tree) is exp.Update else _DELETE))
        self._readable = add_source(text, tree.this, self._scope, find)
        self._expressions = expressions(text, self._scope, parameters)

    def change(self) -> Change:
        where = self._tree.args.get("where")
        if where is None:
            raise self._text.refuse(self._tree, "WHERE is missing; WHERE TRUE means all entries.")
        self._text.only(where, "this")
        sets = tuple(self._set(node) for node in self._tree.expressions) if type(self._tree) is exp.Update else ()
        if type(self._tree) is exp.Update and not sets:
            raise self._text.refuse(self._tree, "SET needs attribute = value, separated by commas.")
        if len({stored.slot for stored, _ in sets}) != len(sets):
            raise self._text.refuse(self._tree, "an attribute is set twice.")
        condition = self._expressions.condition(where.this)
        limit = row_number(self._text, self._tree, "limit")
        change = Change(self._readable, sets, condition, order_by(self._text, self._tree, self._expressions.bind), limit, self._returning())
        self._expressions.check_all_used(self._tree)
        return change

    def _set(self, node: exp.Expr) -> tuple[StoredAttribute, Expression]:
        if type(node) is not exp.EQ or type(node.this) is not exp.Column:
            raise self._text.refuse(node, "SET needs attribute = value, separated by commas.")
        column = self._expressions.part(node.this)
        stored = self._scope.attribute(column) if isinstance(column, Column) else None
        if stored is None:
            raise self._text.refuse(node, "the key and the ACL of an entry cannot be set.")
        return stored, self._fitting(node, self._expressions.bind(node.expression), stored.attribute.type)

    def _fitting(self, node: exp.Expr, value: Expression, kind: AttributeType) -> Expression:
        target = plain(kind)
        if isinstance(value, Literal):
            try:
                adapted = literal.adapt(value, target)
            except ValueError as error:
                raise self._text.refuse(node, f"set to {target.name}: {error} is expected.") from None
            if adapted is not None:
                return adapted
        source = plain(value.type)
        if source is target:
            return value
        if source in NUMBERS and target in NUMBERS and NUMBERS.index(source) < NUMBERS.index(target):
            return self._expressions.cast(node, value, target)
        raise self._text.refuse(node, f"{target.name} is expected, this is {source.name}: CAST it.")

    def _returning(self) -> tuple[Output, ...]:
        returning = self._tree.args.get("returning")
        if returning is None:
            return ()
        self._text.only(returning, "expressions")
        outputs: list[Output] = []
        for node in returning.expressions:
            columns: Sequence[Expression] = [self._expressions.bind(node)] if type(node) is not exp.Star else self._scope.all_columns(None)
            for column in columns:
                if not isinstance(column, Column):
                    raise self._text.refuse(node, "RETURNING allows attributes, entry and *.")
                stored = self._scope.attribute(column)
                plain = ACL_NAME if column.slot else KEY_NAME
                name, unit = (plain, "") if stored is None else (stored.attribute.name, stored.attribute.unit)
                outputs.append(Output(name, column, column.type, unit))
            if len(outputs) > MAX_OUTPUTS:
                raise self._text.refuse(node, f"RETURNING gives at most {MAX_OUTPUTS} columns.")
        return tuple(outputs)
