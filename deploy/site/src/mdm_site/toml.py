"""Writing TOML; the standard library only reads it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath


def dumps(document: Mapping[str, object]) -> str:
    """Return a document as TOML: tables of the first level as sections, lists of tables as one section each, what lies deeper inline."""
    return "\n".join(_section(document, "")).lstrip("\n") + "\n"


def _section(table: Mapping[str, object], name: str) -> Iterator[str]:
    """Yield the lines of a table: its plain values, then what has a section of its own."""
    nested = {key: value for key, value in table.items() if _is_tables(value) or (isinstance(value, Mapping) and not name)}
    for key, value in table.items():
        if key not in nested:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in nested.items():
        path = f"{name}.{_key(key)}" if name else _key(key)
        if isinstance(value, Mapping):
            if not value or not all(map(_is_tables, value.values())):
                yield f"\n[{path}]"
            yield from _section(value, path)
        elif isinstance(value, Sequence):
            for item in value:
                yield f"\n[[{path}]]"
                yield from (f"{_key(inner)} = {_value(deep)}" for inner, deep in item.items())


def _is_tables(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PurePath):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")
