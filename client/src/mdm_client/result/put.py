"""Putting local files into a site's result space: keys, encryption, upload, publication."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from mdm.acl.v1 import acl_pb2
from mdm.srm.v1 import result_pb2 as pb
from mdm_wire.errors import Aborted, FailedPrecondition, Invalid, MdmError, NotFound, TimedOut, Unavailable
from mdm_wire.permission import Permission
from mdm_wire.retry import Retries
from mdm_wire.status import from_item

from mdm_client.client import Client
from mdm_client.fetch.result import ResultClient
from mdm_client.keystore.file_cipher import get_key
from mdm_client.result.ciphertext import Ciphertext

_BATCH = 1_000
# A site that was away for less, without a byte in between, gets the rest.
_PATIENCE_SECONDS = 300.0
_WITHDRAWN = "UPLOAD_WITHDRAWN"
#: What the site may do with keys of results: destroy them, never read them.
_OF_SITE = int(Permission.DELETE | Permission.GET)


@dataclass(frozen=True, slots=True)
class LocalResult:
    """A local file to be put under a name; `attributes` describe it, `derived_from` are the files that it was made from."""

    path: Path
    lfn: str
    derived_from: tuple[UUID, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PutResult:
    """What became of a file: its GUID and size, or the error; `published` is False while the site has it, but not its catalog yet."""

    path: Path
    lfn: str
    guid: UUID | None = None
    size: int = 0
    published: bool = False
    error: MdmError | None = None


def put(
    client: Client,
    site: str,
    files: Sequence[LocalResult],
    *,
    group: str = "",
    private: bool = False,
    sent: Callable[[int], None] | None = None,
) -> Iterator[PutResult]:
    """Put files, yielding what became of each; `sent` is called with each count of bytes.

    Each gets a key of its own, under an access list that the site computes of the lists of what it was made from. A break of
    the connection is mended by going on where the site has its bytes. What fails is withdrawn.

    Raises:
        MdmError: nothing can be put.
    """
    results = client.results(site)
    for start in range(0, len(files), _BATCH):
        yield from _put_batch(client, results, files[start : start + _BATCH], group, private, sent)


def _put_batch(
    client: Client, results: ResultClient, files: Sequence[LocalResult], group: str, private: bool, sent: Callable[[int], None] | None
) -> Iterator[PutResult]:
    sizes, wanted, chosen = {}, [], []
    for file in files:
        try:
            sizes[file.lfn] = _size(file.path)
        except MdmError as error:
            yield PutResult(file.path, file.lfn, error=error)
            continue
        chosen.append(file)
        wanted.append(_message(file, sizes[file.lfn]))
    if not wanted:
        return
    response = results.prepare(wanted, group, private=private)
    open_guids: set[UUID] = set()
    try:
        keyed, good = [], []
        for file, status in zip(chosen, response.files, strict=True):
            if (refusal := from_item(status.status)) is not None:
                yield PutResult(file.path, file.lfn, error=refusal)
                continue
            open_guids.add(UUID(status.guid))
            keyed.append(status)
            good.append(file)
        errors = _make_keys(client, keyed, response.service)
        for file, status in zip(good, keyed, strict=True):
            guid = UUID(status.guid)
            try:
                if (failure := errors.get(guid)) is not None:
                    raise failure
                state = _send(client, results, file, status, response.token, sizes[file.lfn], sent)
            except MdmError as error:
                yield PutResult(file.path, file.lfn, guid, error=error)
                continue
            open_guids.discard(guid)
            yield PutResult(file.path, file.lfn, guid, sizes[file.lfn], state == pb.RESULT_STATE_PUBLISHED)
    finally:
        if open_guids:
            _withdraw(client, results, response.token, sorted(open_guids))


def _withdraw(client: Client, results: ResultClient, token: str, guids: Sequence[UUID]) -> None:
    """Withdraw what failed; what cannot be withdrawn now, the site gives up by itself."""
    try:
        results.withdraw(token, guids)
        try:
            kept = results.status(token)
        except NotFound:
            kept = {}
        # One whose publication was not answered in time may be published: its key is all that opens it.
        client.keystores.delete_keys([guid for guid in guids if guid not in kept])
    except MdmError:
        return


def _message(file: LocalResult, size: int) -> pb.NewResult:
    return pb.NewResult(
        lfn=file.lfn, guid=str(uuid4()), size=size, derived_from=map(str, file.derived_from), attributes=dict(file.attributes)
    )


def _size(path: Path) -> int:
    try:
        if not path.is_file():
            kind = "a directory: name its files" if path.is_dir() else "no such file"
            raise Invalid("LOCAL_FILE", f"{path}: {kind}")
        return path.stat().st_size
    except OSError as error:
        raise Invalid("LOCAL_FILE", f"{path}: {error.strerror}") from None


def _make_keys(client: Client, files: Sequence[pb.PutStatus], service: str) -> dict[UUID, MdmError | None]:
    """Create access lists and keys on every keystore; return each file's error."""
    lists: dict[str, list[UUID]] = {}
    acls: dict[str, acl_pb2.Acl] = {}
    for file in files:
        lists.setdefault(file.acl.id, []).append(UUID(file.guid))
        entries = {**file.acl.entries, f"dn:{service}": _OF_SITE}
        wanted = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in sorted(entries.items())]
        acls[file.acl.id] = acl_pb2.Acl(id=file.acl.id, entries=wanted)
    found: dict[UUID, MdmError | None] = {}
    of_servers = client.keystores.create_acls(list(acls.values())) if acls else {}
    for acl_id, guids in lists.items():
        failure = next((error for errors in of_servers.values() if (error := errors[UUID(acl_id)]) is not None), None)
        found |= dict.fromkeys(guids, failure) if failure is not None else client.keystores.create_keys(guids, UUID(acl_id))
    return found


def _send(
    client: Client,
    results: ResultClient,
    file: LocalResult,
    status: pb.PutStatus,
    token: str,
    size: int,
    sent: Callable[[int], None] | None,
) -> "pb.ResultState.ValueType":
    """Encrypt and send a file and have it published; return its state."""
    guid = UUID(status.guid)
    with Ciphertext(str(file.path), get_key(client.keystores, guid), guid, size) as ciphertext:
        if ciphertext.size != status.size:
            raise FailedPrecondition("SIZE_DIFFERS", f"{results.place}: expects another size of ciphertext; are the versions the same?")
        retries = Retries(_PATIENCE_SECONDS)
        received, broken = 0, False
        while received < ciphertext.size:
            try:
                received = _received(results, token, guid) if broken else received
                received = results.write(status.turl, received, _counted(ciphertext.parts(received), sent))
                retries.progress()
                broken = False
            except (Unavailable, TimedOut, Aborted) as error:
                retries.after(error, _passes)
                broken = True
        digests = ciphertext.digests()
        while True:
            try:
                return results.done(token, guid, *digests).state
            except Unavailable as error:
                retries.after(error, _passes)


def _passes(error: MdmError) -> bool:
    """Return whether an upload may go on after a failure; the end of another stream of the same file is soon known to the site."""
    return error.reason != _WITHDRAWN


def _received(results: ResultClient, token: str, guid: UUID) -> int:
    found = results.status(token).get(guid)
    if found is None:
        raise Aborted(_WITHDRAWN, f"{results.place}: the upload was withdrawn, or given up")
    return found.received


def _counted(parts: Iterator[bytes], sent: Callable[[int], None] | None) -> Iterator[bytes]:
    for part in parts:
        if sent is not None:
            sent(len(part))
        yield part
