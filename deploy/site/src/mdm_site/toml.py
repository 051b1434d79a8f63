"""Writing TOML; the standard library only reads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath


def dumps(document: Mapping[str, object]) -> str:
    """Return a document as TOML: tables of the first level as sections, what lies deeper inline."""
    plain = [f"{_key(key)} = {_value(value)}" for key, value in document.items() if not isinstance(value, Mapping)]
    sections = [
        "\n".join([f"\n[{_key(key)}]", *(f"{_key(inner)} = {_value(item)}" for inner, item in value.items())])
        for key, value in document.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join([*plain, *sections]) + "\n"


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
