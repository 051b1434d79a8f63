"""The lines of a dump: access lists, collections, views and links, entries, sequences, and the end."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError
from mdm_wire.permission import format_permissions

from mdm_client.acl import AclView
from mdm_client.cli.metadata.collection import facts_of
from mdm_client.metadata.collections import Attribute, Collection, SequenceState
from mdm_client.metadata.entries import Entry
from mdm_client.metadata.value import TYPES
from mdm_client.names import parse_permissions, parse_principal

#: 1 had no access lists, only their ids; 2 had no sequences, too little of views to make them, and no end.
_VERSIONS = (1, 2, 3)
END: Mapping[str, Any] = {"mdm_dump": _VERSIONS[-1], "end": True}
_KINDS = "neither a collection, nor an access list, nor an entry, nor a sequence, nor the end of a dump"
T = TypeVar("T")


@dataclass(frozen=True)
class AccessList:
    """An access list: permission bits by principal."""

    id: str
    owner: str
    entries: Mapping[str, int]


@dataclass(frozen=True)
class PlacedSequence:
    """A sequence of the collection at a path."""

    path: str
    state: SequenceState


Record = AccessList | Collection | Entry | PlacedSequence


def line_of_list(acl_id: str, acl: AclView) -> dict[str, Any]:
    """Return the line of an access list."""
    entries = {principal: format_permissions(bits) for principal, bits in sorted(acl.entries.items())}
    return {"acl": acl_id, "owner": acl.owner, "entries": entries}


def line_of_collection(item: Collection) -> dict[str, Any]:
    """Return the line of a collection, view or link."""
    return {"mdm_dump": _VERSIONS[-1], "collection": facts_of(item)}


def line_of_entry(entry: Entry) -> dict[str, Any]:
    """Return the line of an entry of the collection named last."""
    return {"entry": entry.key, "acl_id": entry.acl_id, "values": entry.values}


def line_of_sequence(path: str, state: SequenceState) -> dict[str, Any]:
    """Return the line of a sequence, which stands behind all entries: no number in them is given again."""
    return {"sequence": state.name, "path": path, "next": state.next, "step": state.step}


def malformed(file: Path, number: int, problem: str) -> MdmError:
    """Return the error that says what is wrong with a line."""
    return Invalid("DUMP_MALFORMED", f"{file}: line {number} {problem}")


def read_records(file: Path) -> Iterator[tuple[int, Record]]:
    """Yield line numbers and records. Views of a dump that says too little of them are passed over.

    Raises:
        Invalid: DUMP_MALFORMED, naming the line: it is not one of a dump, or the file ends before the dump does.
    """
    number = version = 0
    ended = False
    with file.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = _json_object(text)
                if ended:
                    raise _Wrong("stands behind the end of the dump")
                version = max(version, _version(line))
                if line.get("end") is True:
                    ended = True
                elif (record := _record(line)) is not None:
                    yield number, record
            except _Wrong as wrong:
                raise malformed(file, number, str(wrong)) from None
    if not ended and version in (0, _VERSIONS[-1]):
        raise malformed(file, number, "is the last and not the end of a dump: the file was cut off")


class _Wrong(Exception):
    """What is wrong with a line."""


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Wrong("is not a JSON object; CSV files end in .csv, or take --csv")
    return value


def _version(line: Mapping[str, Any]) -> int:
    if "collection" not in line and "end" not in line:
        return 0
    version = line.get("mdm_dump")
    if version not in _VERSIONS:
        raise _Wrong("is of a dump that this version does not know")
    return int(version)


def _record(line: Mapping[str, Any]) -> Record | None:
    """Return what a line says; None for a view of which it does not say enough."""
    for kind, read in _READERS.items():
        if kind in line:
            return read(line)
    raise _Wrong(f"is {_KINDS}")


def _collection(line: Mapping[str, Any]) -> Collection | None:
    facts = _taken(line, "collection", dict)
    if facts.get("definer") and "shows" not in facts:
        return None
    texts = {name: _taken(facts, name, str, "") for name in ("acl_id", "default_acl_id", "target", "condition", "definer")}
    return Collection(
        path=_taken(facts, "path", str),
        attributes=tuple(map(_attribute, _taken(facts, "attributes", list))),
        sensitive=_taken(facts, "sensitive", bool, False),
        min_cell=_counted(_taken(facts, "min_cell", int, 0), "min_cell"),
        checks=_texts(_taken(facts, "checks", dict, {}), "checks"),
        has_key=_taken(facts, "has_key", bool, True),
        shown=_texts(_taken(facts, "shows", dict, {}), "shows"),
        **texts,
    )


def _attribute(facts: Any) -> Attribute:
    kinds = {field.name: field.type for field in fields(Attribute)}
    if not isinstance(facts, dict) or not all(type(value) is kinds.get(name) for name, value in facts.items()):
        raise _Wrong("does not describe attributes as mdm meta dump does")
    if not facts.get("name") or facts.get("type") not in TYPES:
        raise _Wrong(f"has an attribute without a name, or with a type other than {', '.join(TYPES)}")
    _counted(facts.get("length", 0), "length")
    return Attribute(**facts)


def _access_list(line: Mapping[str, Any]) -> AccessList:
    entries = _texts(_taken(line, "entries", dict), "entries")
    try:
        bits = {parse_principal(principal): parse_permissions(letters) for principal, letters in entries.items()}
        return AccessList(str(UUID(_taken(line, "acl", str))), _taken(line, "owner", str, ""), bits)
    except Invalid as error:
        raise _Wrong(f"is an access list with an error: {error.message}") from None
    except ValueError:
        raise _Wrong("is an access list whose id is not a UUID") from None


def _entry(line: Mapping[str, Any]) -> Entry:
    values = _taken(line, "values", dict)
    for name, value in values.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and not _is_long(value)):
            raise _Wrong(f'has a value of "{name}" that is neither a text, nor true or false, nor a number within 64 bits')
    return Entry(str(_taken(line, "entry", (str, int))), values, _taken(line, "acl_id", str, ""))


def _sequence(line: Mapping[str, Any]) -> PlacedSequence:
    following, step = (_taken(line, name, int) for name in ("next", "step"))
    if not (_is_long(following) and _is_long(step)):
        raise _Wrong("has a number beyond 64 bits")
    return PlacedSequence(_taken(line, "path", str), SequenceState(_taken(line, "sequence", str), following, step))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Record | None]] = {
    "collection": _collection,
    "acl": _access_list,
    "sequence": _sequence,
    "entry": _entry,
}


def _taken(line: Mapping[str, Any], name: str, kind: type[T] | tuple[type[Any], ...], default: Any = None) -> Any:
    value = line.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Wrong(f'has no "{name}" as mdm meta dump writes it')
    return value


def _texts(values: Mapping[str, Any], name: str) -> Mapping[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise _Wrong(f'has no "{name}" as mdm meta dump writes it')
    return values


def _counted(value: int, name: str) -> int:
    if not 0 <= value < 2**31:
        raise _Wrong(f'has a "{name}" that is out of range')
    return value


def _is_long(value: int) -> bool:
    return -(2**63) <= value < 2**63
