"""Operations of several kinds in one transaction: all of them or none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from mdm_service.identity.caller import Caller
from mdm_wire.batch import MAX_RENAMINGS, check_batch
from mdm_wire.errors import Failure, MdmError

from mdm_catalog.rules import replica
from mdm_catalog.rules.model import (
    AclAssignment,
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
from mdm_catalog.rules.namespace import change, creation
from mdm_catalog.rules.port import WriteTransaction

Operation: TypeAlias = (
    NewDirectory | NewFile | NewLink | Renaming | FileChange | AclAssignment | NewReplica | ReplicaChange | ReplicaRemoval | Removal
)


@dataclass
class Failed(Exception):
    """An operation failed, so none is done."""

    index: int
    error: MdmError


def apply(writing: WriteTransaction, caller: Caller, operations: Sequence[Operation]) -> None:
    """Apply operations in order; consecutive ones of one kind are applied as one batch.

    Raises:
        Failed: with the first operation that failed; what was done before it has to be undone.
        Invalid: more than 1,000 of them rename.
    """
    check_batch([item for item in operations if isinstance(item, Renaming)], MAX_RENAMINGS)
    start = 0
    for run in _runs(operations):
        failures = _APPLY[type(run[0])](writing, caller, run)
        for offset, error in enumerate(failures):
            if error is not None:
                raise Failed(start + offset, error)
        start += len(run)


def _runs(operations: Sequence[Operation]) -> Iterator[list[Any]]:
    """Return runs of consecutive operations that may be one batch; a second change of the same object begins another run."""
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


_Apply: TypeAlias = Callable[[WriteTransaction, Caller, list[Any]], list[Failure]]
_APPLY: dict[type, _Apply] = {
    NewDirectory: lambda writing, caller, run: creation.make_directories(writing, caller, run, parents=False),
    NewFile: creation.register_files,
    NewLink: creation.make_links,
    Renaming: change.rename,
    FileChange: change.set_attributes,
    AclAssignment: change.assign_acls,
    NewReplica: replica.add,
    ReplicaChange: replica.change,
    ReplicaRemoval: lambda writing, caller, run: replica.remove(writing, caller, [item.surl for item in run]),
    Removal: lambda writing, caller, run: change.remove(writing, caller, [item.target for item in run], recursive=run[0].recursive),
}
