"""Parameters of a query, `:name` in its text: checked when the call comes, and given to statements that were compiled before."""

import re
from collections.abc import Mapping

from mdm_wire.errors import Invalid

from mdm_metadata.rules.model import AttributeType, Scalar
from mdm_metadata.rules.query.sql.compile import Statement
from mdm_metadata.rules.query.syntax import literal
from mdm_metadata.rules.query.syntax.tree import Literal

MAX_PARAMETERS = 1_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_TYPES = {bool: AttributeType.BOOL, int: AttributeType.INT, float: AttributeType.FLOAT}

Parameters = Mapping[str, Literal]


def constants(values: Mapping[str, Scalar]) -> dict[str, Literal]:
    """Return a caller's parameters as constants, each of the type its value has by itself; NULL counts as TEXT.

    Raises:
        Invalid: too many, an invalid name, or a value that cannot be stored.
    """
    if len(values) > MAX_PARAMETERS:
        raise Invalid("PARAMETER_INVALID", f"A query has at most {MAX_PARAMETERS} parameters.")
    return {_checked(name): _constant(name, value) for name, value in values.items()}


def shape(parameters: Parameters) -> tuple[tuple[str, AttributeType, bool], ...]:
    """Return all of the parameters that a compiled statement depends on: names, types, and which are NULL."""
    return tuple(sorted((name, constant.type, constant.value is None) for name, constant in parameters.items()))


def adapted(statement: Statement, parameters: Parameters) -> dict[str, object]:
    """Return the values that a statement's SQL parameters have for other parameters of the same `shape`.

    Raises:
        ValueError: one cannot become what the first one became, such as a date.
    """
    found: dict[str, object] = {}
    for place, (name, kind) in statement.given.items():
        constant = literal.adapt(parameters[name], kind)
        if constant is None:
            raise ValueError(f"{kind.name} is expected")
        found[place] = constant.value
    return found


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid("PARAMETER_INVALID", "The name of a parameter is a letter or _, then letters, digits or _, at most 63 in all.")
    return name


def _constant(name: str, value: Scalar) -> Literal:
    kind = _TYPES.get(type(value))
    if kind is not None:
        return Literal(value, kind, name)
    try:
        return Literal(None if value is None else literal.text_literal(str(value)).value, AttributeType.TEXT, name)
    except ValueError as error:
        raise Invalid("PARAMETER_INVALID", f"Parameter {name}: {error} is expected.") from None
