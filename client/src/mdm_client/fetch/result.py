"""Results at one site: calls of ResultService, and those of studies that are fetched."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol
from uuid import UUID

import grpc
from mdm.srm.v1 import result_pb2 as pb
from mdm.srm.v1 import result_pb2_grpc
from mdm_wire.batch import in_batches
from mdm_wire.errors import FailedPrecondition, MdmError, NotFound
from mdm_wire.retry import RetryPolicy
from mdm_wire.status import from_item, from_rpc_error

from mdm_client.catalog.client import CatalogClient
from mdm_client.fetch.plan import Plan, make_plan
from mdm_client.metadata.client import MetadataClient
from mdm_client.name_syntax import Name
from mdm_client.service import Service

_BATCH = 1_000
_STUDIES = 200
# Of a name split at `/`: empty, VO, site, patient, study, series, file.
_IMAGE_PARTS = 7
# Verifying a large file takes longer than other calls.
_DONE_SECONDS = 900.0


class ResultClient:
    """Calls of `mdm.srm.v1.ResultService`; they raise MdmError."""

    def __init__(self, site: str, channel: grpc.Channel, policy: RetryPolicy) -> None:
        self.place = f"srm {site}"
        self.site = site
        self._service = Service(self.place, channel, policy)
        self._stub = result_pb2_grpc.ResultServiceStub(channel)

    def prepare(self, results: Sequence[pb.NewResult], group: str, *, private: bool) -> pb.PrepareToPutResponse:
        """Reserve names and space for at most 10,000 results.

        Raises:
            FailedPrecondition: NO_RESULT_SPACE: the site takes none.
        """
        request = pb.PrepareToPutRequest(results=results, group=group, private=private)
        try:
            response: pb.PrepareToPutResponse = self._service.call(self._stub.PrepareToPut, request)
        except MdmError as error:
            raise self._explained(error) from None
        return response

    def write(self, turl: str, offset: int, parts: Iterator[bytes]) -> int:
        """Send a file's ciphertext from `offset` on; return how much of it is there. Before it is sent again, ask how much that is."""

        def requests() -> Iterator[pb.WriteRequest]:
            yield pb.WriteRequest(turl=turl, offset=offset)
            for part in parts:
                yield pb.WriteRequest(data=part)

        try:
            return int(self._stub.Write(requests()).received)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.place) from error

    def status(self, token: str) -> dict[UUID, pb.PutStatus]:
        """Return the files of a request by GUID."""
        response = self._service.call(self._stub.StatusOfPutRequest, pb.StatusOfPutRequestRequest(token=token))
        return {UUID(file.guid): file for file in response.files}

    def done(self, token: str, guid: UUID, sha256: bytes, plain_sha256: bytes) -> pb.PutStatus:
        """Have a file verified and published; return its state, or raise why not."""
        file = pb.WrittenResult(guid=str(guid), sha256=sha256, plain_sha256=plain_sha256)
        response = self._service.call(self._stub.PutDone, pb.PutDoneRequest(token=token, files=[file]), _DONE_SECONDS)
        found: pb.PutStatus = response.files[0]
        if (error := from_item(found.status)) is not None:
            raise error
        return found

    def withdraw(self, token: str, guids: Sequence[UUID] = ()) -> int:
        """Withdraw files of a request that are not published, all unless some are named; return how many."""
        return int(self._service.call(self._stub.AbortPut, pb.AbortPutRequest(token=token, guids=map(str, guids))).withdrawn)

    def remove(self, guids: Sequence[UUID]) -> list[MdmError | None]:
        """Remove results with their keys; return for each why not."""
        errors: list[MdmError | None] = []
        for batch in in_batches(guids, _BATCH):
            try:
                response = self._service.call(self._stub.Rm, pb.RmRequest(guids=map(str, batch)), _DONE_SECONDS)
            except MdmError as error:
                raise self._explained(error) from None
            errors += [from_item(item) for item in response.statuses]
        return errors

    def _explained(self, error: MdmError) -> MdmError:
        if error.code.name == "UNIMPLEMENTED":
            return FailedPrecondition("NO_RESULT_SPACE", f"{self.place}: this site takes no results")
        return error


class Services(Protocol):
    """What finding results needs of a client."""

    @property
    def catalog(self) -> CatalogClient:
        """Where files are."""

    @property
    def metadata(self) -> MetadataClient:
        """What they are."""


def with_results_of(client: Services, plan: Plan, *, with_digests: bool = False) -> Plan:
    """Return a plan with the results of its files' studies too, those that the caller may read; they come into `results/`.

    A study is known by the names of its images, /vo/site/patient/study/series/file; results below other names are taken as they are.
    """
    studies: dict[str, dict[str, None]] = {}
    for file in plan.files:
        parts = file.location.lfn.split("/")
        if len(parts) == _IMAGE_PARTS:
            studies.setdefault("/".join(parts[:3]), {})[parts[4]] = None
    names = [name for base, uids in studies.items() for name in _names(client.metadata, base, list(uids))]
    known = {file.guid for file in plan.files}
    wanted = [name for name in names if name.guid not in known]
    if not wanted:
        return plan
    more = make_plan(client.catalog, wanted, with_digests=with_digests)
    files = [replace(file, path=f"results/{file.guid}-{file.location.lfn.rpartition('/')[2]}") for file in more.files]
    return Plan([*plan.files, *files], [*plan.failures, *more.failures])


def _names(metadata: MetadataClient, base: str, uids: Sequence[str]) -> Iterator[Name]:
    for batch in in_batches(uids, _STUDIES):
        parameters = {f"u{number}": uid for number, uid in enumerate(batch)}
        places = ", ".join(f":{name}" for name in parameters)
        sql = f'SELECT guid FROM "{base}/results" WHERE study IN ({places}) ORDER BY guid'  # noqa: S608 - values are parameters
        try:
            for row in metadata.query(sql, parameters=parameters):
                yield Name(guid=UUID(str(row[0])))
        except NotFound:  # a site without results
            return
