"""Operations of any kind as one: wholly or not at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from mdm_service.identity.caller import Caller
from mdm_wire.errors import MdmError

from mdm_catalog.rules import replica
from mdm_catalog.rules.model import (
    AclAssignment,
    Failure,
    FileChange,
    NewDirectory,
    NewFile,
    NewLink,
    NewReplica,
    Removal,
    Renaming,
    ReplicaChange,
    ReplicaRemoval,
)
from mdm_catalog.rules.namespace import attribute, creation, removal, renaming
from mdm_catalog.rules.port import Writing
from mdm_catalog.rules.value import MAX_RENAMINGS, check_batch

Operation: TypeAlias = (
    NewDirectory | NewFile | NewLink | Renaming | FileChange | AclAssignment | NewReplica | ReplicaChange | ReplicaRemoval | Removal
)


@dataclass
class Failed(Exception):
    """An operation could not be done, and so nothing is."""

    index: int
    error: MdmError


def apply(writing: Writing, caller: Caller, operations: Sequence[Operation]) -> None:
    """Apply operations in order; neighbours of one kind go together, as the batch that their own call would be.

    Raises:
        Failed: with the first operation that could not be done; what was done before it is to be undone.
        Invalid: more than 1,000 of them rename.
    """
    check_batch([item for item in operations if isinstance(item, Renaming)], MAX_RENAMINGS)
    start = 0
    for run in _runs(operations):
        outcomes = _APPLY[type(run[0])](writing, caller, run)
        for offset, error in enumerate(outcomes):
            if error is not None:
                raise Failed(start + offset, error)
        start += len(run)


def _runs(operations: Sequence[Operation]) -> Iterator[list[Any]]:
    """Return neighbours that may go together; a change of the same thing as before begins another run."""
    for _, group in groupby(operations, key=lambda item: (type(item), isinstance(item, Removal) and item.recursive)):
        run: list[Any] = []
        seen: set[object] = set()
        for operation in group:
            subject = getattr(operation, "target", None) or getattr(operation, "surl", None)
            if subject is not None and subject in seen:
                yield run
                run, seen = [], set()
            run.append(operation)
            seen.add(subject)
        yield run


_Apply: TypeAlias = Callable[[Writing, Caller, list[Any]], list[Failure]]
_APPLY: dict[type, _Apply] = {
    NewDirectory: lambda writing, caller, run: creation.make_directories(writing, caller, run, parents=False),
    NewFile: creation.register_files,
    NewLink: creation.make_links,
    Renaming: renaming.rename,
    FileChange: attribute.set_attributes,
    AclAssignment: attribute.assign_acls,
    NewReplica: replica.add,
    ReplicaChange: replica.change,
    ReplicaRemoval: lambda writing, caller, run: replica.remove(writing, caller, [item.surl for item in run]),
    Removal: lambda writing, caller, run: removal.remove(writing, caller, [item.target for item in run], recursive=run[0].recursive),
}
