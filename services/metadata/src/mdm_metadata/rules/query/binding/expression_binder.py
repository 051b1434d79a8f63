"""The binder of one query's expressions: dispatch by allow-list, limits, and the types of operands."""

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from mdm_metadata.rules.model import AttributeType
from mdm_metadata.rules.query.binding.scope import Scope
from mdm_metadata.rules.query.syntax import literal
from mdm_metadata.rules.query.syntax.operation import FUNCTIONS, NUMBERS
from mdm_metadata.rules.query.syntax.parse import MAX_DEPTH, Text
from mdm_metadata.rules.query.syntax.tree import Call, Expression, Literal

T = AttributeType
Handler = Callable[..., Expression]
MAX_TERMS = 10_000


def plain(kind: AttributeType) -> AttributeType:
    """Return the type as expressions see it: VARCHAR is TEXT."""
    return T.TEXT if kind is T.VARCHAR else kind


class Binder:
    """Binds the expressions of one query with a table of handlers: a node is refused if its type has no handler."""

    def __init__(self, text: Text, scope: Scope, handlers: Mapping[type, Handler], parameters: Mapping[str, Literal]) -> None:
        self.text = text
        self.scope = scope
        self._parameters = parameters
        self._used: set[str] = set()
        self.aggregates_allowed = False
        self._handlers = handlers
        self._terms = 0
        self._depth = 0

    def bind(self, node: exp.Expr, *, aggregates: bool = False) -> Expression:
        """Return the typed expression of a node.

        Raises:
            Refusal: something in it is not allowed, unknown, or of the wrong type.
        """
        self.aggregates_allowed = aggregates
        return self.part(node)

    def condition(self, node: exp.Expr, *, aggregates: bool = False) -> Expression:
        """Return the typed expression of a node that must be of type BOOL.

        Raises:
            Refusal: as `bind`, and when its type is another.
        """
        self.aggregates_allowed = aggregates
        return self.boolean(node)

    def part(self, node: exp.Expr) -> Expression:
        """Return the typed expression of a part of the node being bound."""
        handler = self._handlers.get(type(node))
        if handler is None:
            raise self._refuse_unknown(node)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.text.refuse(node, f"nested more than {MAX_DEPTH} deep.", "QUERY_TOO_DEEP")
        bound = handler(self, node)
        self._depth -= 1
        return bound

    def _refuse_unknown(self, node: exp.Expr) -> Exception:
        if isinstance(node, exp.Subquery | exp.Query | exp.Exists):
            return self.text.refuse(node, "sub-selects are not allowed: join the collections.")
        if isinstance(node, exp.Func):
            return self.text.refuse(node, f"this function is not allowed here; allowed are {FUNCTIONS}.")
        if isinstance(node, exp.Parameter | exp.SessionParameter):
            return self.text.refuse(node, "a parameter is written :name.")
        return self.text.refuse(
            node,
            "not allowed here; allowed are attributes, constants, comparisons, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT,"
            f" arithmetic, CASE and the functions {FUNCTIONS}.",
        )

    def count_term(self, node: exp.Expr, number: int = 1) -> None:
        """Count attributes and constants.

        Raises:
            Refusal: there are too many.
        """
        self._terms += number
        if self._terms > MAX_TERMS:
            raise self.text.refuse(node, f"a query has at most {MAX_TERMS} attributes and constants.", "QUERY_TOO_LONG")

    def literal(self, node: exp.Literal, *, negative: bool = False) -> Literal:
        """Return a constant."""
        self.count_term(node)
        try:
            return literal.text_literal(node.this) if node.is_string else literal.number(node.this, negative=negative)
        except ValueError as error:
            raise self.text.refuse(node, f"{error} is expected.") from None

    def parameter(self, node: exp.Placeholder, name: object) -> Literal:
        """Return the value of a parameter."""
        self.count_term(node)
        if not isinstance(name, str) or node.args.keys() != {"this"}:
            raise self.text.refuse(node, "a parameter is written :name.")
        if name not in self._parameters:
            raise self.text.refuse(node, f"the parameter :{name[:63]} has no value; give one with the query.", "PARAMETER_MISSING")
        self._used.add(name)
        return self._parameters[name]

    def check_all_used(self, node: exp.Expr) -> None:
        """Check that every parameter was used.

        Raises:
            Refusal: one was not.
        """
        unused = sorted(self._parameters.keys() - self._used)
        if unused:
            raise self.text.refuse(node, f"the parameter {unused[0]} is given and :{unused[0]} not used.", "PARAMETER_UNUSED")

    def boolean(self, node: exp.Expr) -> Expression:
        """Return the expression of a part that must be of type BOOL."""
        return self.expect(node, self.part(node), T.BOOL)

    def number(self, node: exp.Expr) -> Expression:
        """Return the expression of a part that must be a number."""
        return self.expect(node, self.part(node), *NUMBERS)

    def expect(self, node: exp.Expr, bound: Expression, *kinds: AttributeType) -> Expression:
        """Return `bound`, whose type must be one of `kinds`."""
        if isinstance(bound, Literal) and bound.value is None:
            return Literal(None, kinds[0])
        if plain(bound.type) not in kinds:
            raise self.text.refuse(node, f"{' or '.join(kind.name for kind in kinds)} is expected, this is {bound.type.name}.")
        return bound

    def unified(self, node: exp.Expr, operands: Sequence[Expression]) -> list[Expression]:
        """Return operands that can be compared: constants are converted to the type of the others; numeric types may differ."""
        kinds = [plain(operand.type) for operand in operands if not isinstance(operand, Literal)]
        if not kinds:
            kinds = [operand.type for operand in operands if isinstance(operand, Literal) and operand.value is not None]
            kinds = kinds or [plain(operands[0].type)]
        target = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
        adapted: list[Expression] = []
        for operand in operands:
            if isinstance(operand, Literal):
                adapted.append(self._adapted(node, operand, target))
            elif plain(operand.type) is target or (target in NUMBERS and operand.type in NUMBERS):
                adapted.append(operand)
            else:
                raise self._mismatch(node, operand.type, target)
        return adapted

    def _adapted(self, node: exp.Expr, operand: Literal, target: AttributeType) -> Expression:
        try:
            adapted = literal.adapt(operand, target)
        except ValueError as error:
            raise self.text.refuse(node, f"compared with {target.name}: {error} is expected.") from None
        if adapted is None and target in NUMBERS and operand.type in NUMBERS:
            return operand  # INT with 0.5: compared as decimals
        if adapted is None:
            raise self._mismatch(node, operand.type, target)
        return adapted

    def converted(self, node: exp.Expr, operands: Sequence[Expression]) -> list[Expression]:
        """Return operands of exactly one type, for the branches of a choice."""
        unified = self.unified(node, operands)
        kinds = [plain(operand.type) for operand in unified]
        target = max(kinds, key=NUMBERS.index) if all(kind in NUMBERS for kind in kinds) else kinds[0]
        return [self.cast(node, operand, target) for operand in unified]

    def cast(self, node: exp.Expr, operand: Expression, target: AttributeType) -> Expression:
        """Return `operand` as type `target`; a constant is converted at once."""
        if isinstance(operand, Literal):
            try:
                adapted = literal.adapt(operand, target)
            except ValueError as error:
                raise self.text.refuse(node, f"{error} is expected.") from None
            if adapted is not None:
                return adapted
        source = plain(operand.type)
        if source is target:
            return operand
        operation = _cast_operation(source, target)
        if operation is None:
            raise self.text.refuse(node, f"{source.name} cannot be cast to {target.name}.")
        return Call(operation, (operand,), target)

    def _mismatch(self, node: exp.Expr, one: AttributeType, other: AttributeType) -> Exception:
        return self.text.refuse(node, f"{one.name} and {other.name} cannot be compared or mixed: CAST one of them.")


def _cast_operation(source: AttributeType, target: AttributeType) -> str | None:
    if source is T.TEXT:
        return f"text→{target.name.lower()}"
    if target is T.TEXT:
        return f"{source.name.lower()}→text" if source in (T.DATE, T.TIMESTAMP) else "any→text"
    if source in NUMBERS and target in NUMBERS:
        return f"number→{target.name.lower()}"
    pair = f"{source.name.lower()}→{target.name.lower()}"
    return pair if pair in ("int→bool", "bool→int", "timestamp→date", "date→timestamp") else None
