"""The allow-list: every operator and function of the query language, with its SQL, and whether it can fail on some value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mdm_metadata.rules.model import AttributeType

T = AttributeType
NUMBERS = (T.INT, T.NUMERIC, T.FLOAT)


@dataclass(frozen=True)
class Operation:
    """`render` makes SQL of the arguments' SQL. `total`: no argument makes it fail, so it may see rows that the caller may not read."""

    render: Callable[[Sequence[str]], str]
    total: bool = True


def _template(text: str, total: bool = True) -> Operation:
    return Operation(lambda arguments: text.format(*arguments), total)


def _joined(sign: str) -> Operation:
    return Operation(lambda arguments: "(" + f" {sign} ".join(arguments) + ")")


def _listed(function: str) -> Operation:
    return Operation(lambda arguments: f"{function}(" + ", ".join(arguments) + ")")


def _case(arguments: Sequence[str], subject: str = "") -> str:
    *branches, default = arguments
    pairs = zip(branches[::2], branches[1::2], strict=True)
    return f"(CASE {subject} " + " ".join(f"WHEN {when} THEN {then}" for when, then in pairs) + f" ELSE {default} END)"


def _substring(arguments: Sequence[str]) -> str:
    text, *numbers = arguments
    return f"substr({text}, " + ", ".join(f"({number})::integer" for number in numbers) + ")"


_COMPARISONS = {sign: _template(f"({{0}} {sign} {{1}})") for sign in ("=", "<>", "<", "<=", ">", ">=")}
_ARITHMETIC = {sign: _template(f"({{0}} {sign} {{1}})", total=False) for sign in ("+", "-", "*", "/")}
_ARITHMETIC["%"] = _template("({0} %% {1})", total=False)  # a lone % would be the driver's
_CASTS = {
    "text→int": "CAST({0} AS bigint)",
    # The domain keeps to 301 digits and 1,000 places: PostgreSQL's own bound of 147,455 digits takes it seconds for one division.
    "text→numeric": "CAST(CAST({0} AS bounded_numeric) AS numeric)",
    "text→float": "CAST({0} AS double precision)",
    "text→bool": "CAST({0} AS boolean)",
    "text→date": "CAST({0} AS date)",
    "text→timestamp": "CAST({0} AS timestamptz)",
    "text→uuid": "CAST({0} AS uuid)",
    "number→int": "CAST({0} AS bigint)",
    "number→numeric": "CAST({0} AS numeric)",
    "number→float": "CAST({0} AS double precision)",
    "int→bool": "({0} <> 0)",
    "bool→int": "({0})::integer::bigint",
    "any→text": '(CAST({0} AS text) COLLATE "C")',
    "date→text": "(to_char({0}, 'YYYY-MM-DD') COLLATE \"C\")",
    "timestamp→text": '(to_char({0} AT TIME ZONE \'UTC\', \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') COLLATE "C")',
    "timestamp→date": "({0} AT TIME ZONE 'UTC')::date",
    "date→timestamp": "(({0})::timestamp AT TIME ZONE 'UTC')",
}
_PARTS = {"year": "bigint", "month": "bigint", "day": "bigint", "hour": "bigint", "minute": "bigint", "second": "double precision"}
_EXTRACTS = {
    f"extract {part}": _template(f"CAST(extract({part} FROM {{0}} AT TIME ZONE 'UTC') AS {kind})", total=False)
    for part, kind in _PARTS.items()
}

OPERATIONS: Mapping[str, Operation] = {
    **_COMPARISONS,
    **_ARITHMETIC,
    **_EXTRACTS,
    **{name: _template(text, total=False) for name, text in _CASTS.items()},
    "AND": _joined("AND"),
    "OR": _joined("OR"),
    "NOT": _template("(NOT {0})"),
    "IS NULL": _template("({0} IS NULL)"),
    "IS TRUE": _template("({0} IS TRUE)"),
    "IS FALSE": _template("({0} IS FALSE)"),
    # No operand stands twice, except in BETWEEN, which does not nest: repeated at each of 40 levels, it would grow without bounds.
    "IN LIST": _template("({0} = ANY ({1}))"),
    "IN": Operation(lambda arguments: f"({arguments[0]} = ANY (ARRAY[{', '.join(arguments[1:])}]))"),
    "BETWEEN": _template("({0} BETWEEN {1} AND {2})"),
    "LIKE": _template("({0} LIKE {1} ESCAPE {2})"),
    "ILIKE": _template('(({0} COLLATE "default") ILIKE ({1} COLLATE "default") ESCAPE ({2} COLLATE "default"))'),
    "LIKE ANY PATTERN": _template("({0} LIKE {1} ESCAPE {2})", total=False),
    "ILIKE ANY PATTERN": _template('(({0} COLLATE "default") ILIKE ({1} COLLATE "default") ESCAPE ({2} COLLATE "default"))', total=False),
    "negate": _template("(- {0})", total=False),
    "days after": _template("({0} + {1}::integer)", total=False),
    "days before": _template("({0} - {1}::integer)", total=False),
    "days between": _template("({0} - {1})::bigint", total=False),
    "||": _template("({0} || {1})", total=False),
    "CASE": Operation(_case),
    "CASE OF": Operation(lambda arguments: _case(arguments[1:], arguments[0])),
    "COALESCE": _listed("coalesce"),
    "NULLIF": _template("nullif({0}, {1})"),
    "GREATEST": _listed("greatest"),
    "LEAST": _listed("least"),
    "LOWER": _template('(lower({0} COLLATE "default") COLLATE "C")', total=False),
    "UPPER": _template('(upper({0} COLLATE "default") COLLATE "C")', total=False),
    "LENGTH": _template("length({0})::bigint"),
    "TRIM": _template("btrim({0})", total=False),
    "SUBSTRING": Operation(_substring, total=False),
    "ABS": _template("abs({0})", total=False),
    "FLOOR": _template("floor({0})", total=False),
    "CEIL": _template("ceil({0})", total=False),
    "SQRT": _template("sqrt({0}::double precision)", total=False),
    "ROUND": _template("round({0}::numeric)", total=False),
    "ROUND TO": _template("round({0}::numeric, least(greatest(({1})::integer, -1000), 1000))", total=False),
}

#: What the documentation and the error messages list.
FUNCTIONS = (
    "ABS, CAST, CEIL, COALESCE, EXTRACT, FLOOR, GREATEST, LEAST, LENGTH, LOWER, NULLIF, ROUND, SQRT, SUBSTRING, TRIM, UPPER"
    " and the aggregates AVG, COUNT, MAX, MIN, SUM"
)
CAST_TYPES = "INT, FLOAT, NUMERIC, TEXT, BOOL, DATE, TIMESTAMP, UUID"

AGGREGATES: Mapping[str, Callable[[AttributeType], tuple[AttributeType, str] | None]] = {
    "count": lambda _: (T.INT, "count({0})"),
    "min": lambda kind: None if kind in (T.BOOL, T.UUID) else (kind, "min({0})"),
    "max": lambda kind: None if kind in (T.BOOL, T.UUID) else (kind, "max({0})"),
    "sum": {T.INT: (T.NUMERIC, "sum({0})"), T.NUMERIC: (T.NUMERIC, "sum({0})"), T.FLOAT: (T.FLOAT, "sum({0})")}.get,
    "avg": {T.INT: (T.FLOAT, "avg({0})::double precision"), T.NUMERIC: (T.NUMERIC, "avg({0})"), T.FLOAT: (T.FLOAT, "avg({0})")}.get,
}
