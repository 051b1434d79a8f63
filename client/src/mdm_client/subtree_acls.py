"""Access control of a subtree in every service at once: catalog, each keystore, metadata."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

from mdm.acl.v1 import acl_pb2
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.acl import AclAnswer, AclClient, answer_of, view_from_proto
from mdm_client.catalog.acls import ChangedAcl, SubtreeAcl
from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import SYMLINK
from mdm_client.names import Name
from mdm_client.service import raise_first


@dataclass(frozen=True)
class AclReport:
    """What became of an operation on a subtree.

    `shared` counts ACLs left alone because they guard objects elsewhere too, `hidden` those the caller may not see.
    """

    answers: tuple[AclAnswer, ...]
    shared: int = 0
    hidden: int = 0

    @property
    def complete(self) -> bool:
        """Whether every part succeeded and none was out of sight."""
        return not self.hidden and all(answer.error is None for answer in self.answers)


class KeyOwnLists(Protocol):
    """Gives keys lists of their own on every keystore; see `mdm_client.keystore.manager.KeyManager`."""

    def give_own_acl(self, guid: UUID, acl_id: UUID) -> Mapping[str, MdmError | None]: ...


class SubtreeAcls:
    """Reads and changes who may do what with a subtree, everywhere."""

    def __init__(self, catalog: CatalogClient, services: Sequence[AclClient], keys: KeyOwnLists, caller: str) -> None:
        """Take the catalog, the ACL service of the catalog and of every other service that guards the same objects, the keys, and
        the caller's DN as services write it."""
        self._catalog = catalog
        self._services = services
        self._keys = keys
        self._caller = caller

    def get(self, name: Name) -> AclReport:
        """Return the ACLs at and below `name` as every service holds them."""
        acls, hidden = self._catalog.acls.of_subtree(name)
        return AclReport(self._ask_all(acls, lambda service, ids: service.get(ids), self._services), hidden=hidden)

    def change(self, name: Name, changes: Sequence[acl_pb2.AclChange], shared: bool = False) -> AclReport:
        """Apply changes (see `grant`, `revoke`, `replace`, `give`) to every ACL at and below `name`: first in the catalog, in one
        transaction, then in every other service.

        ACLs that guard objects elsewhere too are changed only with `shared`: the catalog, which has the names, decides for all
        services. Safe to repeat after a failure.

        Raises:
            Invalid: ACL_SHARED where no ACL could be changed without reaching beyond `name`.
            MdmError: the catalog did not change anything, and so nothing was.
        """
        changed, hidden = self._catalog.acls.modify_subtree(name, changes, shared)
        left = [item.error for item in changed if item.error and item.error.reason == "ACL_SHARED"]
        rest = [item for item in changed if item.error is None or item.error.reason != "ACL_SHARED"]
        if left and not rest:
            raise left[0].at(str(name))
        place = self._catalog.service.place
        answers = tuple(_changed(place, item) for item in rest)
        others = [service for service in self._services if service.place != place]
        reached = [item.acl for item in rest]
        answers += self._ask_all(reached, lambda service, ids: service.modify(ids, changes, shared=True), others)
        return AclReport(answers, len(left), hidden)

    def set_own(self, name: Name, changes: Sequence[acl_pb2.AclChange], *, own: bool = True, default: bool = False) -> AclReport:
        """Give a directory or file a list of its own: a copy of its present one (a directory's default one without `own`), yours, with
        changes applied.

        With `own` it guards the object itself; with `default`, what is made in a directory from now on refers to it. What is in a
        directory stays under its lists. A file's key gets the list too, on every keystore; its record in the metadata stays
        under the list it has.

        Raises:
            Invalid: NOT_A_DIRECTORY, NOT_A_FILE. MdmError: it may not be shown, or not be changed; nothing was.
        """
        [entry] = self._catalog.stat([name])
        if isinstance(entry, MdmError):
            raise entry
        if entry.kind == SYMLINK:
            raise Invalid("NOT_A_FILE", f"{name}: a link has no list worth keeping: name what it leads to")
        if default and not entry.default_acl_id:
            raise Invalid("NOT_A_DIRECTORY", f"{name}: only a directory has a list for what is made in it")
        place, new_id = self._catalog.service.place, uuid4()
        acls = next(service for service in self._services if service.place == place)
        entries = acls.copy(entry.acl_id if own else entry.default_acl_id, str(new_id), self._caller)
        assigned = self._catalog.acls.assign([(name, str(new_id) if own else entry.acl_id, str(new_id) if default else "")])
        raise_first([error and error.at(place) for error in assigned])
        places = {place: None} if entry.guid is None else self._guard_outside_catalog(entry.guid, new_id, entries)
        reached = [service for service in self._services if service.place in places]
        return AclReport(tuple(self._changed_at(service, str(new_id), changes, places[service.place]) for service in reached))

    def _guard_outside_catalog(self, guid: UUID, acl_id: UUID, entries: Mapping[str, int]) -> dict[str, MdmError | None]:
        """Make a file's own list outside the catalog, and put the file's key under it; return what failed, by place.

        Keystores without the key are left out. In the metadata the list guards nothing yet, and is there for later changes.
        """
        parts = self._keys.give_own_acl(guid, acl_id)
        failed = {f"keystore {name}": error for name, error in parts.items()}
        absent = {place for place, error in failed.items() if isinstance(error, NotFound)}
        for service in self._services:
            if service.place == self._catalog.service.place or service.place in failed:
                continue
            try:
                service.create(entries, str(acl_id))
            except MdmError as error:
                failed[service.place] = error
        return {service.place: failed.get(service.place) for service in self._services if service.place not in absent}

    @staticmethod
    def _changed_at(service: AclClient, acl_id: str, changes: Sequence[acl_pb2.AclChange], error: MdmError | None) -> AclAnswer:
        if error is not None:
            return AclAnswer(service.place, acl_id, error=error)
        [changed] = service.modify([acl_id], changes)
        return changed

    def _ask_all(
        self,
        acls: Sequence[SubtreeAcl],
        ask: Callable[[AclClient, Sequence[str]], list[AclAnswer]],
        services: Sequence[AclClient],
    ) -> tuple[AclAnswer, ...]:
        if not acls or not services:
            return ()
        ids = [acl.acl_id for acl in acls]
        guards_files = {acl.acl_id for acl in acls if acl.files}
        with ThreadPoolExecutor(max_workers=len(services), thread_name_prefix="acl") as executor:
            found = list(executor.map(lambda service: ask(service, ids), services))
        return tuple(
            answer
            for service, answers in zip(services, found, strict=True)
            for answer in answers
            # An ACL of directories alone need not exist beside keys and metadata.
            if service.place == self._catalog.service.place or answer.acl_id in guards_files or not isinstance(answer.error, NotFound)
        )


def _changed(place: str, item: ChangedAcl) -> AclAnswer:
    if item.error is not None:
        return answer_of(place, item.acl.acl_id, item.error)
    return AclAnswer(place, item.acl.acl_id, view_from_proto(item.after) if item.after else None)
