"""Use cases of who puts results: reserve, write, finish, withdraw, remove."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from mdm_crypto.stream import ciphertext_size
from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire import path
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import Permission

from mdm_dicom_srm.result.rules.access import by_sources
from mdm_dicom_srm.result.rules.description import check_attributes, sources_text
from mdm_dicom_srm.result.rules.model import MAX_FILES, MAX_SOURCES, About, Access, NewResult, Record, State
from mdm_dicom_srm.result.rules.port import Grid, Records, Space, Users
from mdm_dicom_srm.result.rules.publication import Publisher
from mdm_dicom_srm.stage.rules.model import new_token, token_digest
from mdm_dicom_srm.stage.rules.port import Clock, PathKind

_WRITING = Permission.WRITE | Permission.TRAVERSE
_SHA256_BYTES = 32
_RANDOM = 4  # of UUID versions, RFC 9562 section 5.4


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that a group or user may have: `quotas` by group, else `quota`; of one file; seconds until an upload is abandoned."""

    quota: int
    quotas: Mapping[str, int]
    file: int
    abandon_seconds: float


class ResultService:
    """Results of one site, whose names are below `root`; `instance` is who answers for a request."""

    def __init__(
        self,
        root: str,
        instance: str,
        records: Records,
        space: Space,
        grid: Grid,
        users: Users,
        publisher: Publisher,
        limits: Limits,
        clock: Clock = time.time,
    ) -> None:
        self._root = root
        self._instance = instance
        self._records = records
        self._space = space
        self._grid = grid
        self._users = users
        self._publisher = publisher
        self._limits = limits
        self._clock = clock
        self.service = grid.service

    def prepare(self, caller: Caller, wanted: Sequence[NewResult], group: str, *, private: bool) -> tuple[str, list[Record | MdmError]]:
        """Reserve names and space; return a token, and for each result its record or why it cannot be put.

        Raises:
            Invalid: too many results or sources, or a group that is not the caller's. Unavailable: the catalog does not answer.
        """
        if not 0 < len(wanted) <= MAX_FILES or sum(len(item.derived_from) for item in wanted) > MAX_SOURCES:
            message = f"Put 1 to {MAX_FILES:,} results at a time, of at most {MAX_SOURCES:,} sources."
            raise Invalid("BAD_BATCH", message, fields={"results": "too few or too many"})
        charged = self._charged(caller, group)
        token = new_token(self._instance)
        failures: dict[int, MdmError] = {}
        self._check_each(wanted, failures)
        self._check_places(caller.dn, wanted, failures)
        sources = self._check_sources(caller.dn, wanted, failures, private)
        records = [
            self._record(token, position, caller.dn, charged, item, *sources[position])
            for position, item in enumerate(wanted)
            if position not in failures
        ]
        quota = self._limits.quotas.get(charged, self._limits.quota)
        for record, error in zip(records, self._records.add(records, {charged: quota}) if records else [], strict=True):
            if error is not None:
                failures[record.position] = error
        kept = {record.position: record for record in records}
        return token, [failures.get(position) or kept[position] for position in range(len(wanted))]

    def status(self, owner: str, token: str) -> list[tuple[Record, int]]:
        """Return the files of a request, each with how many of its bytes are here.

        Raises:
            NotFound: REQUEST_UNKNOWN: not a request of `owner`, or nothing is left of it.
        """
        return [(record, self._received(record)) for record in self._of(owner, token)]

    def write(self, owner: str, token: str, guid: UUID, offset: int, parts: Iterator[bytes]) -> int:
        """Append to an upload from `offset` on; return how many bytes are here then.

        Raises:
            NotFound: REQUEST_UNKNOWN. FailedPrecondition: ALREADY_STORED. MdmError: as `Space.write`.
        """
        record = self._one(owner, token, guid)
        if record.state is not State.UPLOADING:
            raise FailedPrecondition("ALREADY_STORED", "The file is whole already.")
        if not record.place:
            record = replace(record, place=self._space.begin(guid))
            self._records.note_place(guid, record.place)
        try:
            return self._space.write(guid, record.place, offset, record.size, parts)
        finally:
            self._records.note_progress(guid, self._clock() + self._limits.abandon_seconds)

    def done(self, owner: str, token: str, written: Sequence[tuple[UUID, bytes, bytes]]) -> list[Record | MdmError]:
        """Verify files by GUID, SHA-256 of ciphertext and of plaintext, and publish them; return each record, or why it failed.

        One that is whole but cannot be published now stays STORED and is published later.

        Raises:
            NotFound: REQUEST_UNKNOWN.
        """
        by_guid = {record.guid: record for record in self._of(owner, token)}
        return [self._done(by_guid.get(guid), *digests) for guid, *digests in written]

    def withdraw(self, owner: str, token: str, guids: Sequence[UUID]) -> int:
        """Withdraw files that are not published, all of the request if none is named; return how many.

        Raises:
            NotFound: REQUEST_UNKNOWN.
        """
        withdrawn = 0
        for record in self._of(owner, token):
            if (not guids or record.guid in guids) and record.state in (State.UPLOADING, State.STORED):
                withdrawn += self._publisher.give_up(record)
        return withdrawn

    def remove(self, caller: Caller, guids: Sequence[UUID]) -> list[MdmError | None]:
        """Remove published results; return for each why not. Their names are gone then, what else there is of them follows.

        Raises:
            Unavailable: the catalog does not answer.
        """
        found = {guid: record for guid, record in self._records.get(guids).items() if record.state in (State.PUBLISHED, State.REMOVING)}
        known = list(found)
        entries = dict(zip(known, self._users.stat(caller.dn, list(known)) if known else [], strict=True))
        above = list(dict.fromkeys(entry.lfn.rpartition("/")[0] for entry in entries.values() if entry is not None))
        directories = dict(zip(above, self._users.stat(caller.dn, above) if above else [], strict=True))
        errors: list[MdmError | None] = []
        for guid in guids:
            record, entry = found.get(guid), entries.get(guid)
            if record is None or (entry is None and record.state is State.PUBLISHED and not caller.has_role(OPERATOR)):
                errors.append(NotFound("RESULT_NOT_FOUND", "No result of this site, or you may not see it."))
                continue
            if entry is not None and not caller.has_role(OPERATOR):
                directory = directories[entry.lfn.rpartition("/")[0]]
                if not entry.permissions & Permission.DELETE or directory is None or not directory.permissions & Permission.WRITE:
                    errors.append(
                        Forbidden("DELETE_FORBIDDEN", "Permission denied: this needs `d` on the result and `w` on its directory.")
                    )
                    continue
            elif entry is None and record.owner != caller.dn and not caller.has_role(OPERATOR):
                errors.append(NotFound("RESULT_NOT_FOUND", "No result of this site, or you may not see it."))
                continue
            errors.append(self._publisher.remove(record))
        return errors

    def _charged(self, caller: Caller, group: str) -> str:
        if group:
            if group not in caller.groups:
                raise Invalid("GROUP_NOT_YOURS", f"You are not in the group {group[:255]}.", fields={"group": "not the caller's"})
            return group
        return next((name for name in self._limits.quotas if name in caller.groups), caller.dn)

    def _check_each(self, wanted: Sequence[NewResult], failures: dict[int, MdmError]) -> None:
        """Refuse what is wrong by itself, and GUIDs of files that exist: what is given up loses its key, and must not be another's."""
        seen: set[object] = set()
        for position, item in enumerate(wanted):
            try:
                path.parse(item.lfn)
                if not item.lfn.startswith(f"{self._root}/"):
                    raise Invalid("NOT_OF_THIS_SITE", f"Results of this site are below {self._root}.", fields={"lfn": "of another site"})
                if item.guid.version != _RANDOM:
                    # What a site itself names, such as its images, has other versions: no upload can be mistaken for one of these.
                    raise Invalid("BAD_GUID", "The GUID of a result is a random one, of version 4.", fields={"guid": "not of version 4"})
                if item.lfn in seen or item.guid in seen:
                    raise Invalid("NAME_REPEATED", "A name or GUID is given twice.", fields={"lfn": "given twice"})
                if not 0 <= item.size <= self._limits.file:
                    raise Invalid("BAD_SIZE", f"A result has at most {self._limits.file:,} bytes.", fields={"size": "too large"})
                check_attributes(item.attributes)
            except MdmError as error:
                failures[position] = error
            seen |= {item.lfn, item.guid}
        good = [item.guid for position, item in enumerate(wanted) if position not in failures]
        taken = self._grid.named(good) if good else set()
        failures |= {
            position: Conflict("GUID_TAKEN", "There is a file of this GUID.")
            for position, item in enumerate(wanted)
            if item.guid in taken and position not in failures
        }

    def _check_places(self, owner: str, wanted: Sequence[NewResult], failures: dict[int, MdmError]) -> None:
        """Refuse names that are taken, and directories in which the caller or this service may not write."""
        good = [(position, item) for position, item in enumerate(wanted) if position not in failures]
        parents = list(dict.fromkeys(item.lfn.rpartition("/")[0] for _, item in good))
        if not parents:
            return
        seen = dict(zip(parents, self._users.stat(owner, parents), strict=True))
        ours = self._grid.permissions([*parents, *(item.lfn for _, item in good)])
        taken = self._users.stat(owner, [item.lfn for _, item in good])
        for (position, item), entry in zip(good, taken, strict=True):
            parent = item.lfn.rpartition("/")[0]
            directory = seen[parent]
            if directory is None:
                failures[position] = NotFound("DIRECTORY_NOT_FOUND", "No such directory, or you may not see it.")
            elif directory.kind is not PathKind.DIRECTORY:
                failures[position] = Invalid("NOT_A_DIRECTORY", "This is not a directory.", fields={"lfn": "not in a directory"})
            elif directory.permissions & _WRITING != _WRITING:
                failures[position] = Forbidden("WRITE_FORBIDDEN", "Permission denied: this needs `w` and `x` on the directory.")
            elif entry is not None or item.lfn in ours:
                failures[position] = Conflict("NAME_TAKEN", "There is an entry of this name; nothing is ever overwritten.")
            elif not ours.get(parent, Permission.NONE) & Permission.WRITE:
                message = f"The site may not write in this directory: grant dn:{self.service} the permissions wlx on it."
                failures[position] = FailedPrecondition("SITE_MAY_NOT_WRITE", message)

    def _check_sources(
        self, owner: str, wanted: Sequence[NewResult], failures: dict[int, MdmError], private: bool
    ) -> dict[int, tuple[Access, str]]:
        """Refuse sources that the caller cannot read; return access and description of sources for the others."""
        guids = list(dict.fromkeys(guid for p, item in enumerate(wanted) if p not in failures for guid in item.derived_from))
        readable = self._users.readable(owner, guids) if guids else set()
        seen = self._grid.sources(guids) if guids else {}
        acls = self._grid.acls(list({source.acl_id for source in seen.values() if source.acl_id is not None}))
        lists: dict[UUID, frozenset[UUID]] = {}
        for position, item in enumerate(wanted):
            if position in failures:
                continue
            ids = {seen[guid].acl_id for guid in item.derived_from if guid in seen}
            if any(guid not in readable for guid in item.derived_from):
                failures[position] = NotFound("SOURCE_NOT_FOUND", "A file that it is derived from does not exist, or you may not read it.")
            elif not private and (any(guid not in seen for guid in item.derived_from) or any(acl_id not in acls for acl_id in ids)):
                message = "This site cannot see who may read a file that it is derived from: put it as private, and grant by hand."
                failures[position] = FailedPrecondition("SOURCE_ACCESS_UNKNOWN", message)
            else:
                lists[item.guid] = frozenset() if private else frozenset(acl_id for acl_id in ids if acl_id is not None)
        access = by_sources(lists, acls, self.service)
        return {
            position: (access[item.guid], sources_text(item.derived_from, [seen[guid].lfn for guid in item.derived_from if guid in seen]))
            for position, item in enumerate(wanted)
            if item.guid in access and position not in failures
        }

    def _record(self, token: str, position: int, owner: str, charged: str, item: NewResult, access: Access, sources: str) -> Record:
        attributes = {**item.attributes, **({"derived_from": sources} if sources else {})}
        about = About(item.lfn, item.size, access, attributes)
        expires = self._clock() + self._limits.abandon_seconds
        size = ciphertext_size(item.size)
        return Record(item.guid, token_digest(token), position, owner, charged, State.UPLOADING, about, size, "", expires)

    def _of(self, owner: str, token: str) -> list[Record]:
        found = [record for record in self._records.of_request(token_digest(token)) if record.owner == owner]
        if not found:
            raise NotFound("REQUEST_UNKNOWN", "No such request of yours, or it has ended.")
        return found

    def _one(self, owner: str, token: str, guid: UUID) -> Record:
        found = next((record for record in self._of(owner, token) if record.guid == guid), None)
        if found is None:
            raise NotFound("REQUEST_UNKNOWN", "No such file of a request of yours, or it was withdrawn.")
        return found

    def _received(self, record: Record) -> int:
        if record.state is not State.UPLOADING:
            return record.size
        return self._space.received(record.guid, record.place) if record.place else 0

    def _done(self, record: Record | None, sha256: bytes, plain_sha256: bytes) -> Record | MdmError:
        if record is None:
            return NotFound("REQUEST_UNKNOWN", "No such file of the request, or it was withdrawn.")
        if len(sha256) != _SHA256_BYTES or len(plain_sha256) != _SHA256_BYTES:
            return Invalid("BAD_CHECKSUM", "A SHA-256 has 32 bytes.", fields={"sha256": "not 32 bytes"})
        if record.state is State.PUBLISHED:
            return record
        try:
            if record.state is State.UPLOADING:
                if not record.place:
                    return FailedPrecondition("UPLOAD_INCOMPLETE", "Nothing of the file has arrived.")
                self._space.finish(record.guid, record.place, record.size, sha256)
                stored = replace(record, state=State.STORED, about=replace(record.about, sha256=sha256, plain_sha256=plain_sha256))
                if not self._records.change(stored, (State.UPLOADING,)):
                    return NotFound("REQUEST_UNKNOWN", "The file was withdrawn meanwhile.")
                record = stored
            return self._publisher.publish(record)
        except Unavailable as error:
            return record if record.state is State.STORED else error
        except MdmError as error:
            if error.reason == "CHECKSUM_DIFFERS":
                self._publisher.give_up(record)
            return error
