"""A fake dicom-srm: staging, transfer and registration, with faults that a test chooses."""

import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import grpc
from mdm.catalog.v1 import catalog_pb2
from mdm.common.v1.common_pb2 import ItemStatus
from mdm.srm.v1 import registration_pb2, registration_pb2_grpc, srm_pb2, srm_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from mdm_wire.errors import Forbidden, NotFound
from mdm_wire.status import failed
from mdm_wire.url import surl_authority

from client.tests.fake_catalog import PINNED, FakeCatalog, Image

CHUNK = 64 * 1024
TOKEN = f"srm-1-{'k9Qm' * 10}x7A"


class FakeSrm(srm_pb2_grpc.SrmServiceServicer, transfer_pb2_grpc.TransferServiceServicer):
    def __init__(self, catalog: FakeCatalog) -> None:
        self.catalog = catalog
        self.requests: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.calls: list[object] = []
        self.instance = "srm-1"
        self.released: list[str] = []
        self.aborted: list[str] = []
        self.offsets: list[int] = []
        self.hold = threading.Event()
        self.streams = 0
        self.without_streams = False  # as a dicom-srm of before ReadFiles
        self.stream: Callable[[transfer_pb2.ReadFilesRequest], Iterator[transfer_pb2.ReadFilesResponse]] | None = None

    def image(self, surl: str) -> Image | None:
        return self.catalog.find(catalog_pb2.Target(surl=surl))

    def PrepareToGet(self, request, context):
        token = uuid4().hex
        self.requests[token] = list(request.surls)
        response = srm_pb2.PrepareToGetResponse(token=token, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED)
        for surl in request.surls:
            self.asked[surl] = self.asked.get(surl, 0) + 1
            response.files.append(srm_pb2.FileStatus(surl=surl, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED))
        return response

    def WatchGetRequest(self, request, context):
        surls = self.requests[request.token]
        queued = [srm_pb2.FileStatus(surl=s, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED) for s in surls]
        yield srm_pb2.WatchGetRequestResponse(files=queued)
        for surl in sorted(surls, key=lambda surl: self.image(surl).held):
            image = self.image(surl)
            while image.held and not self.hold.wait(0.05):
                if not context.is_active():
                    return
            state = image.states[min(self.asked[surl], len(image.states)) - 1]
            turl = f"mdm+grpc://{surl_authority(surl)}/{request.token}/{image.guid}" if state == PINNED else ""
            status = srm_pb2.FileStatus(surl=surl, status=state, turl=turl, size=len(image.ciphertext), guid=str(image.guid))
            yield srm_pb2.WatchGetRequestResponse(files=[status])

    def Ping(self, request, context):
        return srm_pb2.PingResponse(site="hospital-a", instance=self.instance, version="1")

    def BringOnline(self, request, context):
        self.calls.append(request)
        files = [
            srm_pb2.FileStatus(surl=surl, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED)
            if self.image(surl) or not surl.endswith("none")
            else srm_pb2.FileStatus(surl=surl, status=srm_pb2.STATUS_CODE_INVALID_PATH)
            for surl in request.surls
        ]
        return srm_pb2.BringOnlineResponse(token=TOKEN, status=srm_pb2.STATUS_CODE_REQUEST_QUEUED, files=files)

    def StatusOfGetRequest(self, request, context):
        self.calls.append(request)
        files = [
            srm_pb2.FileStatus(surl="srm://hospital-a/1", status=PINNED, remaining_pin_seconds=60, size=5),
            srm_pb2.FileStatus(surl="srm://hospital-a/2", status=srm_pb2.STATUS_CODE_FILE_LOST, explanation="NOT_IN_PACS: gone"),
        ]
        return srm_pb2.StatusOfGetRequestResponse(
            status=srm_pb2.STATUS_CODE_PARTIAL_SUCCESS, files=files, kind=srm_pb2.REQUEST_KIND_BRING_ONLINE, pin_seconds=60
        )

    def AbortFiles(self, request, context):
        self.calls.append(request)
        files = [srm_pb2.FileStatus(surl=surl, status=srm_pb2.STATUS_CODE_ABORTED) for surl in request.surls]
        return srm_pb2.AbortFilesResponse(files=files)

    def ExtendFileLifeTime(self, request, context):
        self.calls.append(request)
        return srm_pb2.ExtendFileLifeTimeResponse(files=[srm_pb2.FileStatus(surl="srm://hospital-a/1", status=PINNED)])

    def SuspendRequest(self, request, context):
        return srm_pb2.SuspendRequestResponse(status=srm_pb2.STATUS_CODE_REQUEST_SUSPENDED)

    def ResumeRequest(self, request, context):
        return srm_pb2.ResumeRequestResponse(status=srm_pb2.STATUS_CODE_REQUEST_QUEUED)

    def GetRequestTokens(self, request, context):
        tokens = [srm_pb2.RequestToken(token=TOKEN)] if request.description in ("", "cohort 7") else []
        return srm_pb2.GetRequestTokensResponse(tokens=tokens)

    def GetRequestSummary(self, request, context):
        summaries = [
            srm_pb2.RequestSummary(token=token, status=srm_pb2.STATUS_CODE_SUCCESS, kind=2, description="cohort 7", files=3, pinned=3)
            for token in request.tokens
        ]
        return srm_pb2.GetRequestSummaryResponse(summaries=summaries)

    def Ls(self, request, context):
        self.calls.append(request)
        entry = srm_pb2.LsEntry(
            surl=request.surls[0], status=1, kind=srm_pb2.PATH_KIND_FILE, locality=srm_pb2.FILE_LOCALITY_NEARLINE, size=5, permissions=4
        )
        yield srm_pb2.LsResponse(entries=[entry])
        if request.offset == 0 and request.count == 0:
            yield srm_pb2.LsResponse(status=srm_pb2.STATUS_CODE_TOO_MANY_RESULTS, next_offset=1)

    def CheckPermission(self, request, context):
        found = [
            srm_pb2.SurlPermission(surl=surl, status=srm_pb2.STATUS_CODE_INVALID_PATH if surl.endswith("none") else 1, permissions=4 | 64)
            for surl in request.surls
        ]
        return srm_pb2.CheckPermissionResponse(permissions=found)

    def GetSpaceMetaData(self, request, context):
        sizes = {"total_bytes": 10_000, "free_bytes": 6_000, "stored_bytes": 5_000, "pinned_bytes": 4_000, "files": 2}
        known = srm_pb2.SpaceMetaData(token="srm-1", status=srm_pb2.STATUS_CODE_SUCCESS, **sizes)
        absent = srm_pb2.STATUS_CODE_INVALID_REQUEST
        other = [srm_pb2.SpaceMetaData(token=name, status=absent) for name in request.tokens if name != "srm-1"]
        return srm_pb2.GetSpaceMetaDataResponse(spaces=[known, *other])

    def ReleaseFiles(self, request, context):
        self.calls.append(request)
        self.released.append(request.token)
        return srm_pb2.ReleaseFilesResponse()

    def AbortRequest(self, request, context):
        self.aborted.append(request.token)
        return srm_pb2.AbortRequestResponse()

    def Read(self, request, context):
        image = self.catalog.find(catalog_pb2.Target(guid=request.turl.rpartition("/")[2]))
        if image.read_failures:
            raise image.read_failures.pop(0)
        self.offsets.append(request.offset)
        stop = image.breaks.pop(0) if image.breaks else None
        for start in range(request.offset, len(image.ciphertext), CHUNK):
            if stop is not None and start >= stop:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            yield transfer_pb2.ReadResponse(data=image.ciphertext[start : start + CHUNK])

    def ReadFiles(self, request, context):
        if self.without_streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        self.streams += 1
        if self.stream is not None:
            yield from self.stream(request)
            return
        images = {position.guid: self.catalog.find(catalog_pb2.Target(guid=position.guid)) for position in request.files}
        for position in sorted(request.files, key=lambda position: images[position.guid].held):
            image = images[position.guid]
            while image.held and not self.hold.wait(0.05):
                if not context.is_active():
                    return
            yield from self._parts(image, position.offset, context)

    def _parts(self, image: Image, offset: int, context):
        guid = str(image.guid)
        state = image.states[min(self.asked[image.surl], len(image.states)) - 1]
        if state != PINNED:
            status = srm_pb2.FileStatus(surl=image.surl, guid=guid, status=state)
            yield transfer_pb2.ReadFilesResponse(parts=[transfer_pb2.FilePart(guid=guid, status=status)])
            return
        if image.read_failures:
            failure = image.read_failures.pop(0)
            if not isinstance(failure, NotFound | Forbidden):  # of the whole call
                raise failure
            yield transfer_pb2.ReadFilesResponse(parts=[transfer_pb2.FilePart(guid=guid, error=failed(failure))])
            return
        self.offsets.append(offset)
        stop = image.breaks.pop(0) if image.breaks else None
        for start in range(offset, len(image.ciphertext), CHUNK):
            if stop is not None and start >= stop:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            data = image.ciphertext[start : start + CHUNK]
            part = transfer_pb2.FilePart(guid=guid, offset=start, length=len(data), size=len(image.ciphertext))
            yield transfer_pb2.ReadFilesResponse(parts=[part], data=data)


def scan(state: int, **fields) -> registration_pb2.Scan:
    counts = registration_pb2.ScanCounts(**fields.pop("counts", {}))
    return registration_pb2.Scan(scan_id="scan-7", action=1, state=state, studies=2, counts=counts, **fields)


class FakeRegistration(registration_pb2_grpc.RegistrationServiceServicer):
    def __init__(self) -> None:
        self.counts = [{4: 7, 1: 3}, {4: 10}]
        self.watched: set[str] = set()
        self.requests = []
        self.scan = [scan(1, inspected=1), scan(3, inspected=2, counts={"listed": 5, "new": 4, "left_out": 1})]
        self.breaks = 0

    def RegisterStudies(self, request, context):
        return registration_pb2.RegisterStudiesResponse(
            results=[registration_pb2.StudyResult(queued=3, known=1) for _ in request.study_instance_uids]
        )

    def GetRegistrationSummary(self, request, context):
        self.watched |= set(request.study_instance_uids)
        counts = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return registration_pb2.GetRegistrationSummaryResponse(
            counts=[registration_pb2.StateCount(state=state, count=count) for state, count in counts.items()]
        )

    def StartScan(self, request, context):
        self.requests.append(request)
        return registration_pb2.StartScanResponse(scan_id="scan-7")

    def WatchScan(self, request, context):
        for item in self.scan:
            yield registration_pb2.WatchScanResponse(scan=item)
            if self.breaks:
                self.breaks -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")

    def ListScans(self, request, context):
        return registration_pb2.ListScansResponse(scans=self.scan)

    def CancelScan(self, request, context):
        self.requests.append(request)
        return registration_pb2.CancelScanResponse()

    def Unregister(self, request, context):
        self.requests.append(request)
        missing = ItemStatus(code=5, reason="REGISTRATION_NOT_FOUND", message="Nothing of this name is registered.")
        names = [*request.guids, *request.lfns, *request.study_instance_uids]
        results = [
            registration_pb2.UnregisterResult(status=missing) if "unknown" in name else registration_pb2.UnregisterResult(registrations=3)
            for name in names
        ]
        return registration_pb2.UnregisterResponse(results=results)

    def ListRegistrations(self, request, context):
        self.requests.append(request)
        item = registration_pb2.Registration(guid="g", state=5, reason="SITE_POLICY", rule="no-ct")
        return registration_pb2.ListRegistrationsResponse(registrations=[item])
