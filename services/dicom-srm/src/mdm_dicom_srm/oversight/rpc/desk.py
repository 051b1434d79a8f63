"""The calls of CuratorService that the desk adds: kinds, pictures, text, pixel rules."""

import re
from collections.abc import Iterable

import grpc
from mdm.srm.v1 import curator_pb2 as pb
from mdm.srm.v1 import curator_pb2_grpc
from mdm_deid.pixels.drawn import ImageKind
from mdm_deid.pixels.image import Box
from mdm_service.identity.caller import current_caller
from mdm_wire.errors import Invalid

from mdm_dicom_srm.judgement import RELEASABLE
from mdm_dicom_srm.oversight.rpc import message
from mdm_dicom_srm.oversight.rules.desk import DeskService
from mdm_dicom_srm.oversight.rules.model import FoundLine, KindGroup, SiteRule

_RULE = re.compile(r"desk-([1-9][0-9]{0,17})", re.ASCII)


class DeskCalls(curator_pb2_grpc.CuratorServiceServicer):
    """Serves the desk."""

    def __init__(self, desk: DeskService) -> None:
        self.desk = desk

    def ListQuarantinedKinds(
        self, request: pb.ListQuarantinedKindsRequest, context: grpc.ServicerContext
    ) -> pb.ListQuarantinedKindsResponse:
        """List a page; the page token is kind and reason of the last group."""
        found = self.desk.groups(request.reason, message.group_key(request.page_token), request.page_size)
        last = f"{found[-1].name.hex()}:{found[-1].reason}" if message.is_full(found, request.page_size) else ""
        return pb.ListQuarantinedKindsResponse(kinds=[_kind_group(item) for item in found], next_page_token=last)

    def GetQuarantinedPicture(
        self, request: pb.GetQuarantinedPictureRequest, context: grpc.ServicerContext
    ) -> pb.GetQuarantinedPictureResponse:
        """Draw a frame."""
        guid = message.uuid(request.guid, "guid")
        drawn = self.desk.picture(guid, request.frame, request.side, request.released, _boxes(request.regions))
        return pb.GetQuarantinedPictureResponse(jpeg=drawn.jpeg, columns=drawn.columns, rows=drawn.rows, frames=drawn.frames)

    def GetQuarantinedHead(self, request: pb.GetQuarantinedHeadRequest, context: grpc.ServicerContext) -> pb.GetQuarantinedHeadResponse:
        """Draw a head."""
        head = self.desk.head(message.uuid(request.guid, "guid"))
        return pb.GetQuarantinedHeadResponse(png=head.png, detail=head.detail, images=head.images)

    def FindText(self, request: pb.FindTextRequest, context: grpc.ServicerContext) -> pb.FindTextResponse:
        """Find text in a frame."""
        found = self.desk.text(message.uuid(request.guid, "guid"), request.frame)
        return pb.FindTextResponse(found=[_line(item) for item in found])

    def CreatePixelRule(self, request: pb.CreatePixelRuleRequest, context: grpc.ServicerContext) -> pb.CreatePixelRuleResponse:
        """Make a rule of regions."""
        guid = message.uuid(request.guid, "guid")
        rule = self.desk.create_rule(guid, _boxes(request.regions), current_caller().dn, request.note, only=request.this_instance_only)
        return pb.CreatePixelRuleResponse(rule=_rule(rule))

    def ListPixelRules(self, request: pb.ListPixelRulesRequest, context: grpc.ServicerContext) -> pb.ListPixelRulesResponse:
        """List a page; the page token is the last number."""
        found = self.desk.rules_made(message.number(request.page_token), request.page_size)
        last = str(found[-1].number) if message.is_full(found, request.page_size) else ""
        return pb.ListPixelRulesResponse(rules=[_rule(item) for item in found], next_page_token=last)

    def EndPixelRule(self, request: pb.EndPixelRuleRequest, context: grpc.ServicerContext) -> pb.EndPixelRuleResponse:
        """End a rule."""
        name = _RULE.fullmatch(request.name)
        if name is None:
            raise Invalid("RULE_MALFORMED", "Not the name of a rule: desk- and a number.", fields={"name": "must be desk-N"})
        return pb.EndPixelRuleResponse(rule=_rule(self.desk.end_rule(int(name[1]), current_caller().dn)))


def kind(name: bytes, item: ImageKind) -> pb.ImageKind:
    """Return a kind as a message."""
    return pb.ImageKind(
        name=name.hex(),
        manufacturer=item.manufacturer,
        model=item.model,
        modality=item.modality,
        sop_class_uid=item.sop_class,
        columns=item.columns,
        rows=item.rows,
    )


def _kind_group(item: KindGroup) -> pb.QuarantinedKind:
    return pb.QuarantinedKind(
        kind=kind(item.name, item.kind),
        reason=item.reason,
        count=item.count,
        oldest_time=message.timestamp(item.oldest),
        newest_time=message.timestamp(item.newest),
        example_guid=str(item.example),
        releasable=item.reason in RELEASABLE,
    )


def _rule(item: SiteRule) -> pb.PixelRule:
    return pb.PixelRule(
        name=item.name,
        kind=kind(item.kind_name, item.kind),
        regions=[_region(box) for box in item.regions],
        reasons=sorted(item.reasons),
        subject=item.subject,
        time=message.timestamp(item.at),
        note=item.note,
        ended_by=item.ended_by,
        end_time=message.timestamp(item.ended_at) if item.ended_at else None,
        guid=str(item.only.guid) if item.only else "",
    )


def _line(item: FoundLine) -> pb.FoundText:
    return pb.FoundText(region=_region(item.box), text=item.text, score=item.score, in_header=item.in_header)


def _region(box: Box) -> pb.Region:
    return pb.Region(left=box.left, top=box.top, width=box.right - box.left, height=box.bottom - box.top)


def _boxes(regions: Iterable[pb.Region]) -> list[Box]:
    return [Box(item.left, item.top, item.left + item.width, item.top + item.height) for item in regions]
