"""What the desk's page asks, answered by a site's listener for curators."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mdm.srm.v1 import curator_pb2 as pb
from mdm_wire.errors import Invalid, MdmError

from mdm_client.curator import ACTIONS, CuratorClient
from mdm_client.desk.pictures import Pictures, regions_of

_PAGE = 60
_DECISIONS = 200
_DECIDE: dict[str, Callable[[CuratorClient, Sequence[str], str], list[MdmError | None]]] = {
    "release": CuratorClient.release,
    "drop": CuratorClient.drop,
    "retry": CuratorClient.retry,
}


class Work:
    """Questions of the page; each takes a JSON object and returns what is written as one. They raise MdmError."""

    def __init__(self, curator: Callable[[], CuratorClient], pictures: Pictures, caller: str) -> None:
        self._curator = curator
        self._pictures = pictures
        self._caller = caller

    def questions(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """Return what can be asked, by name."""
        return {
            "overview": self._overview,
            "images": self._images,
            "show": self._show,
            "text": self._text,
            "decide": self._decide,
            "decide-alike": self._decide_alike,
            "rule": self._rule,
            "rules": self._rules,
            "end-rule": self._end_rule,
            "decisions": self._decisions,
        }

    def _overview(self, _asked: dict[str, Any]) -> Any:
        kinds = [
            {
                **kind_facts(item.kind),
                "reason": item.reason,
                "count": item.count,
                "example": item.example_guid,
                "releasable": item.releasable,
            }
            for item in self._curator().kinds()
        ]
        return {"caller": self._caller, "kinds": sorted(kinds, key=lambda item: (-item["count"], item["kind"], item["reason"]))}

    def _images(self, asked: dict[str, Any]) -> Any:
        page = self._curator().page_alike(str(asked["kind"]), str(asked["reason"]), str(asked.get("after", "")), _PAGE)
        return {"guids": [item.guid for item in page.instances], "after": page.next_page_token}

    def _show(self, asked: dict[str, Any]) -> Any:
        found = self._curator().show(str(asked["guid"]))
        suspicious = {item.tag for item in found.suspicious}
        elements = [*found.suspicious, *(item for item in found.elements if item.tag not in suspicious)]
        return {
            "guid": found.instance.guid,
            "reason": found.instance.reason,
            "releasable": found.releasable,
            "suspicions": list(found.suspicions),
            **kind_facts(found.kind),
            "elements": [
                {"tag": item.tag, "name": item.keyword, "value": item.value, "suspicious": item.tag in suspicious} for item in elements
            ],
        }

    def _text(self, asked: dict[str, Any]) -> Any:
        found = self._curator().text(str(asked["guid"]), int(asked.get("frame", 1)))
        return [{"region": _region(item.region), "text": item.text, "score": item.score, "in_header": item.in_header} for item in found]

    def _decide(self, asked: dict[str, Any]) -> Any:
        return self._decided(asked, [str(guid) for guid in asked["guids"]])

    def _decide_alike(self, asked: dict[str, Any]) -> Any:
        curator = self._curator()
        return self._decided(asked, [item.guid for item in curator.alike(str(asked["kind"]), str(asked["reason"]))])

    def _decided(self, asked: dict[str, Any], guids: list[str]) -> Any:
        decide = _DECIDE.get(str(asked["action"]))
        if decide is None:
            raise Invalid("ACTION_UNKNOWN", f"an action is one of {', '.join(_DECIDE)}")
        return _outcome(decide(self._curator(), guids, str(asked.get("note", ""))) if guids else [])

    def _rule(self, asked: dict[str, Any]) -> Any:
        curator = self._curator()
        blank = curator.blank_one if asked.get("only") is True else curator.blank_alike
        rule, errors = blank(str(asked["guid"]), regions_of(asked["regions"]), str(asked.get("note", "")))
        self._pictures.forget()
        return {"rule": rule_facts(rule), **_outcome(errors)}

    def _rules(self, _asked: dict[str, Any]) -> Any:
        return [rule_facts(rule) for rule in self._curator().rules()]

    def _end_rule(self, asked: dict[str, Any]) -> Any:
        rule = self._curator().end_rule(str(asked["name"]))
        self._pictures.forget()
        return rule_facts(rule)

    def _decisions(self, asked: dict[str, Any]) -> Any:
        return [
            {
                "time": f"{item.time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                "action": ACTIONS[item.action],
                "guid": item.guid,
                "reason": item.reason,
                "subject": item.subject,
                "note": item.note,
            }
            for item in islice(self._curator().decisions(str(asked.get("guid", "")), _DECISIONS), _DECISIONS)
        ]


def kind_facts(kind: pb.ImageKind) -> dict[str, Any]:
    """Return a kind as the page has it."""
    return {
        "kind": kind.name,
        "manufacturer": kind.manufacturer,
        "model": kind.model,
        "modality": kind.modality,
        "columns": kind.columns,
        "rows": kind.rows,
    }


def rule_facts(rule: pb.PixelRule) -> dict[str, Any]:
    """Return a rule as the page has it."""
    return {
        "name": rule.name,
        **kind_facts(rule.kind),
        "regions": [_region(region) for region in rule.regions],
        "reasons": list(rule.reasons),
        "subject": rule.subject,
        "time": f"{rule.time.ToDatetime():%Y-%m-%d %H:%M:%S}",
        "note": rule.note,
        "ended_by": rule.ended_by,
        "guid": rule.guid,
    }


def _region(region: pb.Region) -> list[int]:
    return [region.left, region.top, region.width, region.height]


def _outcome(errors: Sequence[MdmError | None]) -> dict[str, Any]:
    failures = [error for error in errors if error is not None]
    reasons = {error.reason: error.message for error in failures}
    return {"done": len(errors) - len(failures), "failed": len(failures), "why": list(reasons.values())}
