"""Access control of a subtree in every service at once: catalog, each keystore, metadata."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID, uuid4

from mdm.acl.v1 import acl_pb2
from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.acl import AclAnswer, AclClient, answer_of, view_from_proto
from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import SYMLINK, ChangedAcl, SubtreeAcl
from mdm_client.keystore.manager import KeyManager
from mdm_client.name_syntax import Name
from mdm_client.service import raise_first


@dataclass(frozen=True)
class AclReport:
    """The result of an operation on a subtree.

    `shared` counts ACLs that were not changed because they guard other objects too, `hidden` those that the caller may not see.
    """

    answers: tuple[AclAnswer, ...]
    shared: int = 0
    hidden: int = 0

    @property
    def complete(self) -> bool:
        """Whether every part succeeded and none is hidden."""
        return not self.hidden and all(answer.error is None for answer in self.answers)


class SubtreeAcls:
    """Reads and changes the ACLs of a subtree, in every service."""

    def __init__(self, catalog: CatalogClient, services: Sequence[AclClient], keys: KeyManager, caller: str) -> None:
        """Use the catalog, the ACLs at the catalog and at every other service that guards the same objects, and the keys;
        `caller` is the caller's DN as services write it."""
        self._catalog = catalog
        self._services = services
        self._keys = keys
        self._caller = caller

    def get(self, name: Name) -> AclReport:
        """Return the ACLs at and below `name`, as stored by each service."""
        acls, hidden = self._catalog.acls.of_subtree(name)
        return AclReport(self._ask_all(acls, lambda service, ids: service.get(ids), self._services), hidden=hidden)

    def change(self, name: Name, changes: Sequence[acl_pb2.AclChange], shared: bool = False) -> AclReport:
        """Apply changes (see `grant`, `revoke`, `replace`, `give`) to every ACL at and below `name`: first in the catalog, in one
        transaction, then in every other service.

        ACLs that guard other objects too are changed only with `shared`; the catalog, which has the names, decides for all
        services. Safe to repeat after a failure.

        Raises:
            Invalid: ACL_SHARED: every ACL guards other objects too.
            MdmError: the catalog changed nothing, so nothing was changed.
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
        """Give a directory or file an ACL of its own, owned by the caller: a copy of its present one (of a directory's default ACL without
        `own`), with changes applied.

        With `own` it guards the object itself; with `default`, what is made in a directory from now on. What is in the directory
        stays under its ACLs. A file's key gets the ACL too, on every keystore; its record in the metadata stays under its present ACL.

        Raises:
            Invalid: NOT_A_DIRECTORY, NOT_A_FILE. MdmError: nothing was changed.
        """
        [entry] = self._catalog.stat([name])
        if isinstance(entry, MdmError):
            raise entry
        if entry.kind == SYMLINK:
            raise Invalid("NOT_A_FILE", f"{name}: this is a link: name the entry that it points to")
        if default and not entry.default_acl_id:
            raise Invalid("NOT_A_DIRECTORY", f"{name}: only a directory has an access list for new entries")
        place, new_id = self._catalog.service.place, uuid4()
        acls = next(service for service in self._services if service.place == place)
        entries = acls.copy(entry.acl_id if own else entry.default_acl_id, str(new_id), self._caller)
        assigned = self._catalog.acls.assign([(name, str(new_id) if own else entry.acl_id, str(new_id) if default else "")])
        raise_first([error and error.at(place) for error in assigned])
        places = {place: None} if entry.guid is None else self._guard_outside_catalog(entry.guid, new_id, entries)
        reached = [service for service in self._services if service.place in places]
        return AclReport(tuple(self._changed_at(service, str(new_id), changes, places[service.place]) for service in reached))

    def _guard_outside_catalog(self, guid: UUID, acl_id: UUID, entries: Mapping[str, int]) -> dict[str, MdmError | None]:
        """Make a file's own ACL outside the catalog, and put the file's key under it; return errors by place.

        Keystores without the key are left out. In the metadata the ACL guards nothing yet; it exists for later changes.
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
        self, acls: Sequence[SubtreeAcl], ask: Callable[[AclClient, Sequence[str]], list[AclAnswer]], services: Sequence[AclClient]
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
            # An ACL of directories alone need not exist outside the catalog.
            if service.place == self._catalog.service.place or answer.acl_id in guards_files or not isinstance(answer.error, NotFound)
        )


def _changed(place: str, item: ChangedAcl) -> AclAnswer:
    if item.error is not None:
        return answer_of(place, item.acl.acl_id, item.error)
    return AclAnswer(place, item.acl.acl_id, view_from_proto(item.after) if item.after else None)
