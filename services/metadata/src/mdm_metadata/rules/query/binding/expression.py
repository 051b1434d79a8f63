"""Expressions: sqlglot's nodes to the typed tree, by allow-list. A node without a row here is refused."""

from collections.abc import Mapping

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binding import arithmetic, function, logic
from mdm_metadata.rules.query.binding.binder import Binder, Handler
from mdm_metadata.rules.query.binding.scope import Scope, UnknownName, identifier
from mdm_metadata.rules.query.syntax.position import Text
from mdm_metadata.rules.query.syntax.tree import Expression, Literal

T = AttributeType


def expressions(text: Text, scope: Scope, parameters: Mapping[str, Literal]) -> Binder:
    """Return what binds the expressions of one query."""
    return Binder(text, scope, _HANDLERS, parameters)


def _column(binder: Binder, node: exp.Column) -> Expression:
    binder.text.only(node, "this", "table")
    binder.count_term(node)
    name, table = identifier(node.this), node.args.get("table")
    if name is None:
        raise binder.text.refuse(node, "* is allowed alone in the SELECT list and in COUNT(*).")
    try:
        return binder.scope.column(name, None if table is None else identifier(table))
    except UnknownName as error:
        raise binder.text.refuse(node, str(error), "ATTRIBUTE_UNKNOWN") from None


def _literal(binder: Binder, node: exp.Literal) -> Expression:
    return binder.literal(node)


def _parameter(binder: Binder, node: exp.Placeholder) -> Expression:
    return binder.parameter(node, node.args.get("this"))


def _paren(binder: Binder, node: exp.Paren) -> Expression:
    binder.text.only(node, "this")
    return binder.part(node.this)


_HANDLERS: Mapping[type, Handler] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Placeholder: _parameter,
    exp.Boolean: lambda _, node: Literal(bool(node.this), T.BOOL),
    exp.Null: lambda _binder, _node: Literal(None, T.TEXT),
    exp.Paren: _paren,
    **logic.HANDLERS,
    **arithmetic.HANDLERS,
    **function.HANDLERS,
}
