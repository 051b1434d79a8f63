"""Binding a SELECT: sqlglot's tree, with the schemas of its collections, becomes the typed tree."""

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from mdm_metadata.rules.model import ACL_NAME, KEY_NAME, AttributeType, fold_path
from mdm_metadata.rules.query.binding.expression import expressions
from mdm_metadata.rules.query.binding.scope import Scope, UnknownName, identifier, shown_path
from mdm_metadata.rules.query.sql.render import is_total
from mdm_metadata.rules.query.syntax.parse import Text
from mdm_metadata.rules.query.syntax.tree import (
    Aggregate,
    Call,
    Column,
    Expression,
    Literal,
    LiteralList,
    Order,
    Output,
    Query,
    Readable,
    Source,
    walk,
)

MAX_SOURCES = 8
MAX_OUTPUTS = 1_000
Find = Callable[[str], Readable | None]
_CLAUSES = ("expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset", "distinct")


def collection_paths(tree: exp.Select, text: str) -> list[str]:
    """Return the folded paths of the collections in FROM, in order.

    Raises:
        Refusal: it is missing, or something else is there.
    """
    return [fold_path(path_of(Text(text), table)) for table in _tables(Text(text), tree)]


def bind(tree: exp.Select, text: str, find: Find, parameters: Mapping[str, Literal]) -> Query:
    """Return the typed tree. `find` returns what the caller may read at a folded path, None if that is nothing.

    Raises:
        Refusal: something is not allowed, unknown or of the wrong type; the message says where.
    """
    return _Binder(tree, Text(text), find, parameters).query()


def _tables(text: Text, tree: exp.Select) -> list[exp.Expr]:
    text.only(tree, *_CLAUSES)
    start = tree.args.get("from_")
    if start is None:
        raise text.refuse(tree, 'FROM is missing: name a collection, as in FROM "/vo/site/images".')
    text.only(start, "this")
    tables = [start.this, *(join.this for join in tree.args.get("joins") or ())]
    if len(tables) > MAX_SOURCES:
        raise text.refuse(tables[MAX_SOURCES], f"a query has at most {MAX_SOURCES} collections.")
    return tables


def path_of(text: Text, table: exp.Expr) -> str:
    """Return the path that a table of FROM names.

    Raises:
        Refusal: it is not a quoted path.
    """
    if isinstance(table, exp.Subquery | exp.Query):
        raise text.refuse(table, "sub-selects are not allowed: join the collections.")
    if type(table) is not exp.Table:
        raise text.refuse(table, 'FROM needs collections as quoted identifiers, as in FROM "/vo/site/images".')
    name = identifier(table.this)
    if name is None or table.args.get("db") is not None or not table.this.args.get("quoted") or not name.startswith("/"):
        raise text.refuse(table, 'FROM needs collections as quoted identifiers, as in FROM "/vo/site/images".')
    text.only(table, "this", "alias")
    return name


def add_source(text: Text, table: exp.Expr, scope: Scope, find: Find) -> Readable:
    """Return the source that a table of FROM names, and add its names to the scope.

    Raises:
        Refusal: there is no such collection for the caller, or its alias is taken.
    """
    path = path_of(text, table)
    readable = find(fold_path(path))
    if readable is None:
        raise text.refuse(table, f"{shown_path(path)}: no such collection, or you may not read it.", "COLLECTION_NOT_FOUND")
    alias = table.args.get("alias")
    if alias is not None:
        text.only(alias, "this")
    try:
        scope.add(readable.collection, None if alias is None else identifier(alias.this))
    except UnknownName as error:
        raise text.refuse(table, str(error)) from None
    return readable


def order_by(text: Text, tree: exp.Expr, bind_item: Callable[[exp.Expr], Expression]) -> tuple[Order, ...]:
    """Return the criteria of a statement's ORDER BY; none without one.

    Raises:
        Refusal: an item is not an expression with ASC or DESC and NULLS FIRST or LAST.
    """
    order = tree.args.get("order")
    if order is None:
        return ()
    text.only(order, "expressions")
    found = []
    for node in order.expressions:
        if type(node) is not exp.Ordered:
            raise text.refuse(node, "ORDER BY allows expressions, each with ASC or DESC and NULLS FIRST or LAST.")
        text.only(node, "this", "desc", "nulls_first")
        found.append(Order(bind_item(node.this), bool(node.args.get("desc")), bool(node.args.get("nulls_first"))))
    return tuple(found)


def row_number(text: Text, tree: exp.Expr, name: str) -> int | None:
    """Return the number in LIMIT or OFFSET; None if it is absent.

    Raises:
        Refusal: it is not an integer constant.
    """
    clause = tree.args.get(name)
    if clause is None:
        return None
    if type(clause) not in (exp.Limit, exp.Offset):
        raise text.refuse(clause, "only LIMIT n and OFFSET n are allowed.")
    text.only(clause, "expression")
    node = clause.expression
    if type(node) is not exp.Literal or node.is_string or not str(node.this).isdecimal() or len(str(node.this)) > 18:
        raise text.refuse(clause, f"{name.upper()} is an integer constant, not negative.")
    return int(node.this)


class _Binder:
    """Binds one SELECT."""

    def __init__(self, tree: exp.Select, text: Text, find: Find, parameters: Mapping[str, Literal]) -> None:
        self._tree = tree
        self._text = text
        self._find = find
        self._scope = Scope()
        self._expressions = expressions(text, self._scope, parameters)
        self._named_outputs: dict[str, set[Expression]] = {}

    def query(self) -> Query:
        sources = self._sources()
        outputs = self._outputs()
        for output in outputs:
            self._named_outputs.setdefault(output.name.casefold(), set()).add(output.expression)
        where, having = self._clause("where"), self._clause("having")
        query = Query(
            sources=sources,
            outputs=outputs,
            where=None if where is None else self._expressions.condition(where),
            group_by=self._group_by(outputs),
            having=None if having is None else self._expressions.condition(having, aggregates=True),
            order_by=self._order_by(outputs),
            distinct=self._distinct(),
            limit=row_number(self._text, self._tree, "limit"),
            offset=row_number(self._text, self._tree, "offset"),
            min_cell=max(source.readable.min_cell for source in sources),
        )
        self._expressions.check_all_used(self._tree)
        self._check_grouping(query)
        self._check_distinct(query)
        if query.min_cell:
            self._check_counting(query)
        return query

    def _clause(self, name: str) -> exp.Expr | None:
        node = self._tree.args.get(name)
        if node is None:
            return None
        self._text.only(node, "this")
        condition: exp.Expr = node.this
        return condition

    def _sources(self) -> tuple[Source, ...]:
        joins: Sequence[exp.Join] = self._tree.args.get("joins") or ()
        sources = []
        for index, table in enumerate(_tables(self._text, self._tree)):
            readable = add_source(self._text, table, self._scope, self._find)
            join, condition = self._join(joins[index - 1]) if index else ("", None)
            sources.append(Source(readable, join, None if condition is None else self._expressions.condition(condition)))
        return tuple(sources)

    def _join(self, join: exp.Join) -> tuple[str, exp.Expr | None]:
        self._text.only(join, "this", "side", "kind", "on")
        kind = " ".join(str(join.args.get(part) or "").upper() for part in ("side", "kind")).strip()
        condition = join.args.get("on")
        if kind in ("", "INNER") and condition is not None:
            return "JOIN", condition
        if kind in ("LEFT", "LEFT OUTER") and condition is not None:
            return "LEFT JOIN", condition
        if kind in ("", "CROSS") and condition is None:
            return "CROSS JOIN", None
        raise self._text.refuse(join, "joins are [INNER] JOIN … ON, LEFT JOIN … ON and CROSS JOIN.")

    def _outputs(self) -> tuple[Output, ...]:
        outputs: list[Output] = []
        for node in self._tree.expressions:
            if type(node) is exp.Star or (type(node) is exp.Column and type(node.this) is exp.Star):
                outputs.extend(self._star(node))
            else:
                outputs.append(self._output(node))
            if len(outputs) > MAX_OUTPUTS:
                raise self._text.refuse(node, f"an answer has at most {MAX_OUTPUTS} columns.")
        if not outputs:
            raise self._text.refuse(self._tree, "the SELECT list is empty.")
        return tuple(outputs)

    def _star(self, node: exp.Expr) -> list[Output]:
        self._text.only(node, *(("this", "table") if type(node) is exp.Column else ()))
        if type(node) is exp.Column:
            self._text.only(node.this)
        table = node.args.get("table")
        try:
            columns = self._scope.all_columns(None if table is None else identifier(table))
        except UnknownName as error:
            raise self._text.refuse(node, str(error)) from None
        return [self._named(column, None) for column in columns]

    def _output(self, node: exp.Expr) -> Output:
        alias = None
        if type(node) is exp.Alias:
            self._text.only(node, "this", "alias")
            alias = identifier(node.args["alias"])
            if alias is None or not alias.isprintable() or not 1 <= len(alias) <= 255:
                raise self._text.refuse(node, "an alias is 1 to 255 printable characters.")
            node = node.this
        return self._named(self._expressions.bind(node, aggregates=True), alias)

    def _named(self, expression: Expression, alias: str | None) -> Output:
        if isinstance(expression, Column):
            stored = self._scope.attribute(expression)
            if stored is not None:
                return Output(alias or stored.attribute.name, expression, expression.type, stored.attribute.unit)
            return Output(alias or (ACL_NAME if expression.slot else KEY_NAME), expression, expression.type)
        if isinstance(expression, Aggregate):
            return Output(alias or expression.function, expression, expression.type)
        return Output(alias or "expression", expression, expression.type)

    def _group_by(self, outputs: Sequence[Output]) -> tuple[Expression, ...]:
        group = self._tree.args.get("group")
        if group is None:
            return ()
        self._text.only(group, "expressions")
        return tuple(self._output_or_expression(node, outputs, attributes_first=True) for node in group.expressions)

    def _order_by(self, outputs: Sequence[Output]) -> tuple[Order, ...]:
        return order_by(self._text, self._tree, lambda node: self._output_or_expression(node, outputs, attributes_first=False))

    def _output_or_expression(self, node: exp.Expr, outputs: Sequence[Output], *, attributes_first: bool) -> Expression:
        """Return the meaning of an item of GROUP BY or ORDER BY: the number or name of an output, or an expression."""
        if type(node) is exp.Literal and not node.is_string:
            if not str(node.this).isdecimal() or not 1 <= int(str(node.this)[:9]) <= len(outputs):
                raise self._text.refuse(node, f"a number here is that of a column of the SELECT list, 1 to {len(outputs)}.")
            return self._checked(node, outputs[int(node.this) - 1].expression, allowed=not attributes_first)
        if type(node) is exp.Column and node.args.get("table") is None and (name := identifier(node.this)) is not None:
            named = self._named_outputs.get(name.casefold(), set())
            if len(named) > 1:
                raise self._text.refuse(node, f"{name[:63]} names two columns of the SELECT list: give them aliases.")
            if named and not (attributes_first and self._is_attribute(name)):
                return self._checked(node, next(iter(named)), allowed=not attributes_first)
        return self._expressions.bind(node, aggregates=not attributes_first)

    def _is_attribute(self, name: str) -> bool:
        try:
            self._scope.column(name, None)
        except UnknownName:
            return False
        return True

    def _checked(self, node: exp.Expr, expression: Expression, *, allowed: bool) -> Expression:
        if not allowed and any(isinstance(part, Aggregate) for part in walk(expression)):
            raise self._text.refuse(node, "aggregates are not allowed in GROUP BY.")
        return expression

    def _distinct(self) -> bool:
        node = self._tree.args.get("distinct")
        if node is not None:
            self._text.only(node)
        return node is not None

    def _check_grouping(self, query: Query) -> None:
        expressions = [output.expression for output in query.outputs] + [order.expression for order in query.order_by]
        expressions += [] if query.having is None else [query.having]
        aggregated = query.group_by or query.having is not None
        if not aggregated and not any(isinstance(part, Aggregate) for expression in expressions for part in walk(expression)):
            return
        groups = frozenset(query.group_by)
        for expression in expressions:
            if not _is_grouped(expression, groups):
                node = self._tree.args.get("group") or self._tree.expressions[0]
                raise self._text.refuse(node, "with aggregates, an attribute must be in GROUP BY or inside an aggregate.")

    def _check_distinct(self, query: Query) -> None:
        selected = {output.expression for output in query.outputs}
        if query.distinct and any(order.expression not in selected for order in query.order_by):
            raise self._text.refuse(self._tree.args["order"], "with DISTINCT, ORDER BY allows only columns of the SELECT list.")

    def _check_counting(self, query: Query) -> None:
        """Check that a query returns only counts where the caller may only count."""
        count = Aggregate("count", None, False, AttributeType.INT)
        allowed = {*query.group_by, count}
        asked = [*(output.expression for output in query.outputs), *(order.expression for order in query.order_by)]
        whole = [*query.group_by, *([] if query.where is None else [query.where])]
        columns = [part for item in whole for part in walk(item) if isinstance(part, Column)]
        if any(self._identifies(column) for column in columns):
            raise self._text.refuse(
                self._tree,
                "you may only count here: conditions and groups by `entry`, `entry_acl` and unique attributes would reveal single entries.",
                "QUERY_COUNTS_ONLY",
            )
        plain = len(query.sources) == 1 and query.having is None and not query.distinct
        if not plain or count not in asked or any(item not in allowed for item in asked) or not all(is_total(item) for item in whole):
            raise self._text.refuse(
                self._tree,
                "you may only count here: one collection, SELECT of the GROUP BY expressions and COUNT(*), no HAVING or DISTINCT,"
                " and conditions without arithmetic, CAST or text functions.",
                "QUERY_COUNTS_ONLY",
            )

    def _identifies(self, column: Column) -> bool:
        """Return whether a column identifies single entries: the key, the ACL, a unique attribute."""
        stored = self._scope.attribute(column)
        return stored is None or stored.attribute.unique


def _is_grouped(expression: Expression, groups: frozenset[Expression]) -> bool:
    if expression in groups or isinstance(expression, Aggregate | Literal | LiteralList):
        return True
    return isinstance(expression, Call) and all(_is_grouped(part, groups) for part in expression.arguments)
