"""A site's listener for curators, on the hospital's side: what waits in quarantine, and decisions about it."""

from collections.abc import Iterator, Sequence
from itertools import islice

from mdm.srm.v1 import curator_pb2 as pb
from mdm.srm.v1 import curator_pb2_grpc
from mdm_wire.errors import Invalid, MdmError

from mdm_client.service import Service

_BATCH = 1_000
#: Left, top, width, height in pixels of the image.
Region = tuple[int, int, int, int]
#: The names of decisions, by their number in messages.
ACTIONS = {value: name.removeprefix("DECISION_ACTION_").lower() for name, value in pb.DecisionAction.items()}


class CuratorClient:
    """Calls of `mdm.srm.v1.CuratorService`. They raise MdmError, listings while they are iterated."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = curator_pb2_grpc.CuratorServiceStub(service.channel)

    def groups(self, reason: str = "") -> Iterator[pb.QuarantineGroup]:
        """Yield what waits, by series and reason, in that order; only one reason if it is given."""
        for page in self._service.pages(self._stub.ListQuarantine, lambda token: pb.ListQuarantineRequest(reason=reason, page_token=token)):
            yield from page.groups

    def instances(self, series: str, reason: str = "") -> Iterator[pb.QuarantinedInstance]:
        """Yield the instances of a series that wait, in order of GUID; only those that wait for one reason if it is given."""

        def request(token: str) -> pb.ListQuarantinedInstancesRequest:
            return pb.ListQuarantinedInstancesRequest(series=series, reason=reason, page_token=token)

        for page in self._service.pages(self._stub.ListQuarantinedInstances, request):
            yield from page.instances

    def kinds(self, reason: str = "") -> Iterator[pb.QuarantinedKind]:
        """Yield what waits, by kind of image and reason, in that order; only one reason if it is given."""
        pages = self._service.pages(
            self._stub.ListQuarantinedKinds, lambda token: pb.ListQuarantinedKindsRequest(reason=reason, page_token=token)
        )
        for page in pages:
            yield from page.kinds

    def alike(self, kind: str, reason: str = "") -> Iterator[pb.QuarantinedInstance]:
        """Yield the instances of a kind that wait, in order of GUID; only those that wait for one reason if it is given."""

        def request(token: str) -> pb.ListQuarantinedInstancesRequest:
            return pb.ListQuarantinedInstancesRequest(kind=kind, reason=reason, page_token=token)

        for page in self._service.pages(self._stub.ListQuarantinedInstances, request):
            yield from page.instances

    def page_alike(self, kind: str, reason: str, token: str, size: int) -> pb.ListQuarantinedInstancesResponse:
        """Return a page of the instances of a kind that wait for a reason, `size` of them after a page token."""
        request = pb.ListQuarantinedInstancesRequest(kind=kind, reason=reason, page_size=size, page_token=token)
        response: pb.ListQuarantinedInstancesResponse = self._service.call(self._stub.ListQuarantinedInstances, request)
        return response

    def picture(
        self, guid: str, frame: int = 0, side: int = 0, *, released: bool = False, regions: Sequence[Region] = ()
    ) -> pb.GetQuarantinedPictureResponse:
        """Return a frame, counted from 1, as JPEG; it may identify the patient. 0 means what is usual, `side` is the longest.

        `released`, or with `regions` to be blanked: as it would leave, instead of as the PACS has it.
        """
        request = pb.GetQuarantinedPictureRequest(guid=guid, frame=frame, side=side, released=released, regions=_messages(regions))
        response: pb.GetQuarantinedPictureResponse = self._service.call(self._stub.GetQuarantinedPicture, request)
        return response

    def head(self, guid: str) -> pb.GetQuarantinedHeadResponse:
        """Return the head that an image's series shows, with its face and without, as PNG; it identifies the patient."""
        response: pb.GetQuarantinedHeadResponse = self._service.call(self._stub.GetQuarantinedHead, pb.GetQuarantinedHeadRequest(guid=guid))
        return response

    def text(self, guid: str, frame: int = 0) -> Sequence[pb.FoundText]:
        """Return the lines of text that a detector finds in a frame; they may identify the patient."""
        response: pb.FindTextResponse = self._service.call(self._stub.FindText, pb.FindTextRequest(guid=guid, frame=frame))
        return response.found

    def create_rule(self, guid: str, regions: Sequence[Region], note: str = "", *, only: bool = False) -> pb.PixelRule:
        """Have regions blanked on every image of the kind of one that waits, or on it `only`; what waits is to be retried then."""
        request = pb.CreatePixelRuleRequest(guid=guid, regions=_messages(regions), note=note, this_instance_only=only)
        response: pb.CreatePixelRuleResponse = self._service.call(self._stub.CreatePixelRule, request)
        return response.rule

    def rules(self) -> Iterator[pb.PixelRule]:
        """Yield the pixel rules that curators made, the newest first; those that ended are among them."""
        for page in self._service.pages(self._stub.ListPixelRules, lambda token: pb.ListPixelRulesRequest(page_token=token)):
            yield from page.rules

    def end_rule(self, name: str) -> pb.PixelRule:
        """End a pixel rule and return it."""
        response: pb.EndPixelRuleResponse = self._service.call(self._stub.EndPixelRule, pb.EndPixelRuleRequest(name=name))
        return response.rule

    def blank_alike(self, guid: str, regions: Sequence[Region], note: str = "") -> tuple[pb.PixelRule, list[MdmError | None]]:
        """Make a rule of regions and have everything that waits for what it answers judged again; return it and each one's error."""
        rule = self.create_rule(guid, regions, note)
        guids = [item.guid for reason in rule.reasons for item in self.alike(rule.kind.name, reason)]
        # Their note names the rule; what was said about it is kept with the rule.
        return rule, self.retry(guids, f"pixel rule {rule.name}") if guids else []

    def blank_one(self, guid: str, regions: Sequence[Region], note: str = "") -> tuple[pb.PixelRule, list[MdmError | None]]:
        """Make a rule of regions for one image that waits, and have it judged again; return the rule and the image's error."""
        rule = self.create_rule(guid, regions, note, only=True)
        return rule, self.retry([guid], f"pixel rule {rule.name}")

    def show(self, guid: str) -> pb.GetQuarantinedResponse:
        """Return what an instance is in the PACS; it identifies the patient."""
        response: pb.GetQuarantinedResponse = self._service.call(self._stub.GetQuarantined, pb.GetQuarantinedRequest(guid=guid))
        return response

    def release(self, guids: Sequence[str], note: str = "") -> list[MdmError | None]:
        """Let instances leave; return the error of each, or None, in the order asked."""
        return self._service.errors(
            self._stub.ReleaseQuarantined, guids, lambda batch: pb.ReleaseQuarantinedRequest(guids=batch, note=note), _BATCH
        )

    def drop(self, guids: Sequence[str], note: str = "") -> list[MdmError | None]:
        """Leave instances out; return the error of each, or None, in the order asked."""
        return self._service.errors(
            self._stub.DropQuarantined, guids, lambda batch: pb.DropQuarantinedRequest(guids=batch, note=note), _BATCH
        )

    def retry(self, guids: Sequence[str], note: str = "") -> list[MdmError | None]:
        """Have instances judged again; return the error of each, or None, in the order asked."""
        return self._service.errors(
            self._stub.RetryQuarantined, guids, lambda batch: pb.RetryQuarantinedRequest(guids=batch, note=note), _BATCH
        )

    def decisions(self, guid: str = "", limit: int | None = None) -> Iterator[pb.Decision]:
        """Yield decisions, the newest first: those about one GUID if it is given, at most `limit`."""
        size = min(limit or _BATCH, _BATCH)

        def request(token: str) -> pb.ListDecisionsRequest:
            return pb.ListDecisionsRequest(guid=guid, page_size=size, page_token=token)

        pages = self._service.pages(self._stub.ListDecisions, request)
        yield from islice((item for page in pages for item in page.decisions), limit)


def _messages(regions: Sequence[Region]) -> list[pb.Region]:
    """Return regions as messages.

    Raises:
        Invalid: a number is too large for any image.
    """
    try:
        return [pb.Region(left=left, top=top, width=width, height=height) for left, top, width, height in regions]
    except ValueError:
        raise Invalid("REGIONS_MALFORMED", "a region is left, top, width, height in pixels of the image") from None
