"""The result space in S3."""

import hashlib
import logging
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import Aborted, Corrupt, FailedPrecondition, Invalid, NotFound, Unavailable

from mdm_dicom_srm.config import S3Settings

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_THREADS = 4
_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})


def open_s3(settings: S3Settings) -> "S3Space":
    """Return the result space in a bucket; no call is made.

    Raises:
        ConfigurationError: a file of the credentials cannot be read, or the endpoint is no URL.
    """
    try:
        access, secret = (path.read_text().strip() for path in (settings.access_key_file, settings.secret_key_file))
        client = boto3.client(
            "s3",
            endpoint_url=settings.endpoint or None,
            region_name=settings.region,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            verify=str(settings.ca) if settings.ca else None,
            config=Config(
                retries={"mode": "standard", "max_attempts": 4}, s3={"addressing_style": "path"}, max_pool_connections=4 * _THREADS
            ),
        )
    except (OSError, ValueError, BotoCoreError) as error:
        raise ConfigurationError(f"results.s3: {error}") from error
    return S3Space(client, settings.bucket, settings.prefix, settings.part_bytes)


class S3Space:
    """Objects of a bucket named by prefix and GUID; an upload is a multipart upload of parts of one size, several sent at a time.

    An object appears when its upload is completed, whole; it is named nowhere before its checksum has been compared.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, part_bytes: int) -> None:
        """`client` is one of boto3."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._part_bytes = part_bytes
        self._pool = ThreadPoolExecutor(2 * _THREADS, thread_name_prefix="results-s3")
        self._lock = threading.Lock()
        self._writing: set[UUID] = set()
        # The digest of what this process has sent of an upload, and up to where.
        self._digests: dict[UUID, tuple[hashlib._Hash, int]] = {}

    def begin(self, guid: UUID) -> str:
        """Begin a multipart upload and return its id."""
        return str(self._call("create_multipart_upload", Key=self._name(guid))["UploadId"])

    def received(self, guid: UUID, place: str) -> int:
        """Return the size of the parts without a gap from the first one on."""
        return sum(size for _, size, _ in self._parts(guid, place))

    def write(self, guid: UUID, place: str, offset: int, size: int, parts: Iterator[bytes]) -> int:
        """Append to an upload; see `Space`. Of a stream that breaks, what fills whole parts stays."""
        with self._lock:
            if guid in self._writing:
                raise Aborted("WRITE_UNDER_WAY", "Another stream is writing this file.")
            self._writing.add(guid)
        sending: deque[Future[None]] = deque()
        try:
            here = self._parts(guid, place)
            position = sum(length for _, length, _ in here)
            if offset != position:
                message = f"{position:,} bytes of the file are here: go on there."
                raise Invalid("BAD_OFFSET", message, fields={"offset": "not where the file ends"})
            with self._lock:
                digest, counted = self._digests.pop(guid, (hashlib.sha256(), 0))
            known = counted == position
            for number, part in enumerate(self._gathered(parts, size - position), len(here) + 1):
                if len(sending) == _THREADS:
                    sending.popleft().result()
                sending.append(self._pool.submit(self._send, guid, place, number, part))
                digest.update(part)
                position += len(part)
            while sending:
                sending.popleft().result()
            if known:
                with self._lock:
                    self._digests[guid] = digest, position
            return position
        finally:
            wait(sending)
            with self._lock:
                self._writing.discard(guid)

    def finish(self, guid: UUID, place: str, size: int, sha256: bytes) -> None:
        """Complete an upload; see `Space`. What this process has not seen whole is read back to be compared."""
        if self._size(guid) is None:
            here = self._parts(guid, place)
            if (received := sum(length for _, length, _ in here)) != size:
                raise FailedPrecondition("UPLOAD_INCOMPLETE", f"{received:,} of {size:,} bytes have arrived.")
            chosen = [{"PartNumber": number, "ETag": etag} for number, _, etag in here]
            self._call("complete_multipart_upload", Key=self._name(guid), UploadId=place, MultipartUpload={"Parts": chosen})
        with self._lock:
            digest, counted = self._digests.pop(guid, (hashlib.sha256(), 0))
        if counted != size:
            digest = self._digest(guid)
        if digest.digest() != sha256:
            self.remove(guid, "")
            raise Corrupt("CHECKSUM_DIFFERS", "What arrived is not what was sent: its SHA-256 is another one. Put it again.")

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Fetch an object into a file; see `Space`."""
        body = self._call("get_object", Key=self._name(guid), absent="RESULT_LOST")["Body"]
        try:
            with path.open("wb") as file:
                path.chmod(0o600)
                shutil.copyfileobj(body, file, _BLOCK)
        except (BotoCoreError, ClientError) as error:
            raise _away(error) from error
        return path.stat().st_size

    def remove(self, guid: UUID, place: str) -> None:
        """Remove an object, and abort its upload."""
        with self._lock:
            self._digests.pop(guid, None)
        if place:
            with suppress(NotFound):
                self._call("abort_multipart_upload", Key=self._name(guid), UploadId=place)
        self._call("delete_object", Key=self._name(guid))

    def free(self) -> int | None:
        """Return None: a bucket has no bound that we know."""
        return None

    def _gathered(self, parts: Iterator[bytes], rest: int) -> Iterator[bytes]:
        """Yield what arrives in parts of one size, the file's last one shorter; a short rest of a broken stream is dropped."""
        pending = bytearray()
        for part in parts:
            rest -= len(part)
            if rest < 0:
                raise Invalid("TOO_LONG", "More bytes than the file has.", fields={"data": "beyond the end"})
            pending += part
            while len(pending) >= self._part_bytes:
                whole, pending = bytes(memoryview(pending)[: self._part_bytes]), pending[self._part_bytes :]
                yield whole
        if pending and not rest:
            yield bytes(pending)

    def _send(self, guid: UUID, place: str, number: int, part: bytes) -> None:
        self._call("upload_part", Key=self._name(guid), UploadId=place, PartNumber=number, Body=part)

    def _parts(self, guid: UUID, place: str) -> list[tuple[int, int, str]]:
        """Return number, size and tag of an upload's parts, from the first one to the first gap; all that a completed object has."""
        found: list[tuple[int, int, str]] = []
        marker = 0
        while True:
            try:
                page = self._call("list_parts", Key=self._name(guid), UploadId=place, PartNumberMarker=marker)
            except NotFound:
                size = self._size(guid)
                return [] if size is None else [(1, size, "")]
            for part in page.get("Parts", ()):
                if part["PartNumber"] != len(found) + 1:
                    return found
                found.append((part["PartNumber"], part["Size"], part["ETag"]))
            if not page.get("IsTruncated"):
                return found
            marker = page["NextPartNumberMarker"]

    def _size(self, guid: UUID) -> int | None:
        """Return the size of an object; None if there is none."""
        try:
            return int(self._call("head_object", Key=self._name(guid))["ContentLength"])
        except NotFound:
            return None

    def _digest(self, guid: UUID) -> "hashlib._Hash":
        digest = hashlib.sha256()
        try:
            for block in self._call("get_object", Key=self._name(guid))["Body"].iter_chunks(_BLOCK):
                digest.update(block)
        except (BotoCoreError, ClientError) as error:
            raise _away(error) from error
        return digest

    def _name(self, guid: UUID) -> str:
        return f"{self._prefix}{guid}"

    def _call(self, method: str, *, absent: str = "RESULT_LOST", **arguments: Any) -> Any:
        """Call S3.

        Raises:
            NotFound: there is no such object or upload. Unavailable: S3 does not answer, or refuses.
        """
        try:
            return getattr(self._client, method)(Bucket=self._bucket, **arguments)
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code", "")) in _ABSENT:
                raise NotFound(absent, "The result space does not have the file.") from None
            raise _away(error) from error
        except BotoCoreError as error:
            raise _away(error) from error


def _away(error: Exception) -> Unavailable:
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else type(error).__name__
    _log.warning("the bucket for results refuses or does not answer", extra={"code": code})
    return Unavailable("RESULT_SPACE_UNAVAILABLE", "The site's space for results does not answer now; try again later.")
