"""What the dearest texts cost that the caps let through: the processor of the service, before the database sees anything."""

import time
from collections.abc import Callable

import pytest
from mdm_metadata.rules.model import Attribute, AttributeType, Collection, StoredCollection, assign_slots
from mdm_metadata.rules.query.binding.change import bind_change
from mdm_metadata.rules.query.binding.select import bind, collection_paths
from mdm_metadata.rules.query.merge import split
from mdm_metadata.rules.query.sql.statement import compile_query
from mdm_metadata.rules.query.syntax.parse import MAX_LENGTH, parse, parse_change
from mdm_metadata.rules.query.syntax.tree import Readable
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Invalid

#: Processor seconds that one query may hold the interpreter: measured are 0.3 at most, and this machine may be a slow one.
SECONDS = 1.5
NUMBERS = ("date", "time", *(f"a{number}" for number in range(400)))
SCHEMA = (Attribute("b", AttributeType.BOOL), *(Attribute(name, AttributeType.INT) for name in NUMBERS))
READABLE = Readable(StoredCollection(1, Collection("/c", SCHEMA), assign_slots(SCHEMA), 255), Caller("CN=alice"))


def understood(sql: str) -> None:
    tree = parse(sql)
    collection_paths(tree, sql)
    compile_query(bind(tree, sql, lambda _: READABLE, {}))


def merged(sql: str) -> None:
    part, _ = split(bind(parse(sql), sql, lambda _: READABLE, {}))
    compile_query(part)


def changed(sql: str) -> None:
    bind_change(parse_change(sql), sql, lambda _: READABLE, {})


def nested(word: str, depth: int) -> str:
    return f"{word}(" * depth + "a1" + ")" * depth


def terms(count: int, form: str = "a1 + {}", sign: str = ",") -> str:
    return sign.join(form.format(number) for number in range(count))


@pytest.mark.parametrize(
    ("understand", "sql"),
    [
        (understood, f'SELECT {nested("DATE", 38)} FROM "/c"'),
        (understood, f'SELECT {",".join([nested("DATE", 8)] * 600)} FROM "/c"'),
        (understood, f'SELECT {nested("STRUCT", 38)} FROM "/c"'),
        (understood, f'SELECT a1{"[1]" * 6000} FROM "/c"'),
        (understood, f'SELECT a1 FROM "/c" WHERE {terms(4_000, "a1 = {}", " OR ")}'),
        (understood, f'SELECT a1 FROM "/c" WHERE a1 IN ({terms(9_000, "{}")})'),
        (understood, f'SELECT {",".join(["a1"] * 1_000)} FROM "/c" ORDER BY {",".join(["a1"] * 8_000)}'),
        (understood, f'SELECT {",".join(["a2"] * 999)}, a1 AS z FROM "/c" ORDER BY {",".join(["z"] * 8_000)}'),
        (understood, f'SELECT {terms(999)} FROM "/c" ORDER BY {terms(3_500, "a2 + {}")}'),
        (merged, f'SELECT a1 FROM "/c" ORDER BY {terms(4_500)}'),
        (merged, f'SELECT COUNT(*) FROM "/c" GROUP BY {terms(4_500)}'),
        (merged, f'SELECT {terms(900, "COUNT(DISTINCT a1 + {})")} FROM "/c"'),
        (changed, f'UPDATE "/c" SET a1 = 1 WHERE b RETURNING {",".join(["*"] * 9_000)}'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value.__name__,
)
def test_no_text_holds_the_interpreter_for_long(understand: Callable[[str], None], sql: str):
    assert len(sql) <= MAX_LENGTH
    begin = time.process_time()
    try:
        understand(sql)
    except Invalid as error:
        assert error.reason in ("QUERY_INVALID", "QUERY_TOO_DEEP", "QUERY_TOO_LONG")
    assert time.process_time() - begin < SECONDS


def test_an_attribute_may_be_called_like_a_type():
    understood('SELECT date, time FROM "/c" WHERE date IN (1, 2) AND (date > (0) OR NOT (time < (date)) OR date BETWEEN (time) AND (3))')
