"""Files of a site: each written in one step, in TOML or with a new secret."""

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

_PRIVATE, _PUBLIC = 0o600, 0o644


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file unless it has this content and mode; only its owner may read a private one.

    A reader, or a crash at any moment, finds either the old file or the new one.
    """
    mode = _PRIVATE if private else _PUBLIC
    if path.exists() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # private from the beginning
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def write_secret(path: Path, content: bytes) -> None:
    """Write a private file unless there is one."""
    if not path.exists():
        write_file(path, content, private=True)


def new_key_encryption_key() -> bytes:
    """Return a new line for a keystore's `kek` file."""
    return secrets.token_hex(32).encode() + b"\n"


def new_site_secret() -> bytes:
    """Return a new secret from which dicom-srm derives pseudonyms."""
    return secrets.token_bytes(32)


def new_password() -> bytes:
    """Return the content of a new password file."""
    return secrets.token_urlsafe(24).encode() + b"\n"


def to_toml(document: Mapping[str, object]) -> str:
    """Return a document as TOML: tables of the first level as sections, lists of tables as one section each, deeper tables inline."""
    return "\n".join(_section(document, "")).lstrip("\n") + "\n"


def _section(table: Mapping[str, object], name: str) -> Iterator[str]:
    """Yield the lines of a table: its plain values, then its subsections."""
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
