"""Dumps of metadata: JSON lines of collections, views, entries, sequences and access lists, written by meta dump and read again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.permission import format_permissions

from mdm_client.acl import AclView
from mdm_client.cli.context import Session, force_option, session_command
from mdm_client.cli.error import show_error
from mdm_client.cli.metadata.collection import facts_of
from mdm_client.cli.metadata.entry import quoted_path
from mdm_client.cli.output import print_json
from mdm_client.client import Client
from mdm_client.local_file import new_file
from mdm_client.metadata.client import Entry
from mdm_client.metadata.collections import Attribute, Collection, SequenceState
from mdm_client.metadata.value import TYPES
from mdm_client.name_syntax import parse_permissions, parse_principal


@click.command()
@click.argument("path")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@force_option
@click.option("-R", "--recursive", is_flag=True, help="What is below PATH too.")
@session_command
def dump(run: Session, path: str, output: Path | None, force: bool, recursive: bool) -> None:
    """Write a collection, and the entries that you may read in it, as JSON lines that mdm meta load reads.

    The dump has links too; views if you may see what they show (`s` or `p`); access lists if you may see them (`g` or `p`); sequences
    if you may take numbers (`w`).
    """
    client = run.client()
    chosen = list(client.metadata.collections.walk(path)) if recursive else [client.metadata.collections.describe(path)]
    writer = _Dump(client)
    if output is None:
        for line in writer.lines(chosen):
            print_json(line)
    else:
        with new_file(output, replace=force) as file:
            for line in writer.lines(chosen):
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    for count, what, reason in (
        (writer.hidden_lists, "access lists are left out, for you may not see them: the dump has their ids", "ACLS_LEFT_OUT"),
        (writer.hidden_sequences, "sequences are left out, for you may not take numbers from them (`w`)", "SEQUENCES_LEFT_OUT"),
        (writer.hidden_views, "views are left out, for you may not see what they show (`s` or `p`)", "VIEWS_LEFT_OUT"),
    ):
        if count:
            show_error(f"{count} {what}", reason, run.as_json)


class _Dump:
    """Lines of a dump. Each access list precedes the first line that names it, an entry after its collection; sequences stand after
    all entries, so that no number in them is given again.

    `hidden_lists`, `hidden_sequences` and `hidden_views` count what is left out.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: set[str] = set()
        self.hidden_lists = self.hidden_sequences = self.hidden_views = 0

    def lines(self, chosen: Sequence[Collection]) -> Iterator[dict[str, Any]]:
        """Yield the lines of collections, of their entries and sequences, and the end."""
        self.hidden_views = sum(item.withheld for item in chosen)
        chosen = [item for item in chosen if not item.withheld]  # a view without its condition would show more
        for item in chosen:
            yield from self._lists([item.acl_id, item.default_acl_id])
            yield {"mdm_dump": _VERSIONS[-1], "collection": facts_of(item)}
            if not item.target:
                yield from self._entries(item)
        for item in chosen:
            if not item.target:
                yield from self._sequences(item.path)
        yield {"mdm_dump": _VERSIONS[-1], "end": True}

    def _entries(self, item: Collection) -> Iterator[dict[str, Any]]:
        names = [attribute.name for attribute in item.attributes]
        columns = ", ".join(["entry", "entry_acl", *(f'"{name}"' for name in names)])
        result = self._client.metadata.query(f"SELECT {columns} FROM {quoted_path(item.path)} ORDER BY entry")  # noqa: S608 - parsed again there
        for batch in result.batches():
            yield from self._lists([row[1] for row in batch])
            for key, acl_id, *values in batch:
                given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
                yield {"entry": key, "acl_id": acl_id, "values": given}

    def _sequences(self, path: str) -> Iterator[dict[str, Any]]:
        for state in self._client.metadata.sequences.of_collection(path):
            if state.step is None:
                self.hidden_sequences += 1
            else:
                yield {"sequence": state.name, "path": path, "next": state.next, "step": state.step}

    def _lists(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        new = [acl_id for acl_id in dict.fromkeys(ids) if acl_id not in self._known]
        self._known.update(new)
        for answer in self._client.metadata.acls.get(new) if new else ():
            if answer.acl is None:
                self.hidden_lists += 1
            else:
                entries = {who: format_permissions(bits) for who, bits in sorted(answer.acl.entries.items())}
                yield {"acl": answer.acl_id, "owner": answer.acl.owner, "entries": entries}


#: 1 had only the ids of access lists; 2 had no sequences, no end, and described views too little to make them.
_VERSIONS = (1, 2, 3)
_KINDS = "neither a collection, nor an access list, nor an entry, nor a sequence, nor the end of a dump"
T = TypeVar("T")


@dataclass(frozen=True)
class PlacedSequence:
    """A sequence of the collection at a path."""

    path: str
    state: SequenceState


Record = AclView | Collection | Entry | PlacedSequence


def malformed(file: Path, number: int, problem: str) -> MdmError:
    """Return the error for a malformed line."""
    return Invalid("DUMP_MALFORMED", f"{file}: line {number} {problem}")


def read_records(file: Path) -> Iterator[tuple[int, Record]]:
    """Yield line numbers and records. Views that an old dump describes too little are left out.

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
                    raise _Malformed("stands after the end of the dump")
                version = max(version, _version(line))
                if line.get("end") is True:
                    ended = True
                elif (record := _record(line)) is not None:
                    yield number, record
            except _Malformed as wrong:
                raise malformed(file, number, str(wrong)) from None
    if not ended and version in (0, _VERSIONS[-1]):
        raise malformed(file, number, "is the last and not the end of a dump: the file was cut off")


class _Malformed(Exception):
    """A line is malformed."""


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Malformed("is not a JSON object; for CSV, use a name that ends in .csv, or --csv")
    return value


def _version(line: Mapping[str, Any]) -> int:
    if "collection" not in line and "end" not in line:
        return 0
    version = line.get("mdm_dump")
    if version not in _VERSIONS:
        raise _Malformed("is of a dump that this version does not know")
    return int(version)


def _record(line: Mapping[str, Any]) -> Record | None:
    """Return the record of a line; None for a view that an old dump describes too little."""
    for kind, read in _READERS.items():
        if kind in line:
            return read(line)
    raise _Malformed(f"is {_KINDS}")


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
        raise _Malformed("does not describe attributes as mdm meta dump does")
    if not facts.get("name") or facts.get("type") not in TYPES:
        raise _Malformed(f"has an attribute without a name, or with a type other than {', '.join(TYPES)}")
    _counted(facts.get("length", 0), "length")
    return Attribute(**facts)


def _access_list(line: Mapping[str, Any]) -> AclView:
    entries = _texts(_taken(line, "entries", dict), "entries")
    try:
        bits = {parse_principal(principal): parse_permissions(letters) for principal, letters in entries.items()}
        return AclView(str(UUID(_taken(line, "acl", str))), _taken(line, "owner", str, ""), bits, rev=0)
    except Invalid as error:
        raise _Malformed(f"is an access list with an error: {error.message}") from None
    except ValueError:
        raise _Malformed("is an access list whose id is not a UUID") from None


def _entry(line: Mapping[str, Any]) -> Entry:
    values = _taken(line, "values", dict)
    for name, value in values.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and not _is_long(value)):
            raise _Malformed(f'has a value of "{name}" that is neither a text, nor true or false, nor a number within 64 bits')
    return Entry(str(_taken(line, "entry", (str, int))), values, _taken(line, "acl_id", str, ""))


def _sequence(line: Mapping[str, Any]) -> PlacedSequence:
    following, step = (_taken(line, name, int) for name in ("next", "step"))
    if not (_is_long(following) and _is_long(step)):
        raise _Malformed("has a number beyond 64 bits")
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
        raise _Malformed(f'has no "{name}" as mdm meta dump writes it')
    return value


def _texts(values: Mapping[str, Any], name: str) -> Mapping[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise _Malformed(f'has no "{name}" as mdm meta dump writes it')
    return values


def _counted(value: int, name: str) -> int:
    if not 0 <= value < 2**31:
        raise _Malformed(f'has a "{name}" that is out of range')
    return value


def _is_long(value: int) -> bool:
    return -(2**63) <= value < 2**63
