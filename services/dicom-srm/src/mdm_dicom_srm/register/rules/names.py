"""Names that registration gives: GUIDs, ACL ids, tokens, LFNs, SURLs, collections; and the digest by which equal headers are known."""

import hmac
import struct
from collections.abc import Mapping
from uuid import UUID

from mdm_deid import Patient, Pseudonymiser
from mdm_deid.encoding.element import ITEM_END, UNDEFINED, Element, Encoding, items, skip, standard_vr
from mdm_deid.encoding.header import Header
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed
from mdm_wire.url import surl

from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rules.facts import listing_digest, read
from mdm_dicom_srm.register.rules.model import Candidate
from mdm_dicom_srm.site_secret import derive_key

_DIGITS = 4
_PIXEL_GROUP = 0x7FE00000
_TRAILING_PADDING = 0xFFFCFFFC
_PADDING = b" \0"
_TAG, _HEAD = struct.Struct(">I").pack, struct.Struct(">II").pack


class Names:
    """Derives every name of a site from its secret and configuration; the same input always gives the same name."""

    def __init__(self, vo: str, site: str, authority: str, site_secret: bytes) -> None:
        self.root = f"/{vo}/{site}"
        self.vo_root = f"/{vo}"
        self._authority = authority
        self._pseudonymiser = Pseudonymiser(site_secret)
        self._token_key = derive_key(site_secret, "token")
        self._acl_key = derive_key(site_secret, "acl")
        self._digest_key = derive_key(site_secret, "header")
        self._listing_key = derive_key(site_secret, "listing")

    def candidate(self, header: Header, pacs: str = "") -> Candidate:
        """Return the registration of an instance that has a SOP Instance UID, not yet judged, bound to the PACS that has it."""
        locator = InstanceLocator(header.study_uid, header.series_uid, header.sop_uid, pacs)
        facts, attributes = read(header.part10)
        return Candidate(
            instance=self.instance(header.sop_uid),
            study_token=self.study_token(header.study_uid),
            series_token=self.series_token(header.study_uid, header.series_uid),
            locator=locator,
            header=header.part10,
            digest=self.header_digest(header.part10),
            size=header.size,
            listing=self.listing_digest(locator, attributes),
            facts=facts,
        )

    def instance(self, sop_uid: str) -> UUID:
        """Return the GUID of an instance's generation 0, by which the registry knows it."""
        return self._pseudonymiser.guid(sop_uid)

    def series_token(self, study_uid: str, series_uid: str) -> bytes:
        """Return the keyed hash under which the instances of a series are taken together."""
        return self._token("series", study_uid, series_uid)

    def listing_digest(self, locator: InstanceLocator, attributes: Mapping[str, str]) -> bytes:
        """Return the keyed hash by which an equal listing is known; see `facts.listing_digest`."""
        return listing_digest(self._listing_key, locator, attributes)

    def header_digest(self, part10: bytes) -> bytes:
        """Return the keyed hash by which equal headers are known; see `digest`."""
        return digest(self._digest_key, part10)

    def guid(self, sop_uid: str, generation: int) -> UUID:
        """Return the GUID of a generation of an instance."""
        return self._pseudonymiser.guid(sop_uid, generation)

    def patient_token(self, patient: Patient) -> bytes:
        """Return the keyed hash of a patient's identity."""
        return self._token("patient", patient.id, patient.issuer)

    def statement_digest(self, content: bytes) -> bytes:
        """Return the keyed hash by which equal statements are known."""
        return hmac.digest(self._digest_key, b"statement" + content, "sha256")

    def entry_id(self, collection: str, key: str) -> UUID:
        """Return the id to which sealed records of a metadata entry are bound."""
        return UUID(bytes=self._token("entry", collection, key))

    def study_token(self, study_uid: str) -> bytes:
        """Return the keyed hash under which a study is counted."""
        return self._token("study", study_uid)

    def study_acl(self, study_uid: str) -> UUID:
        """Return the id of the ACL that guards a study in every service."""
        return self._acl_id("study", study_uid)

    def site_acl(self, name: str) -> UUID:
        """Return the id of an ACL that is the site's own, such as `directory`."""
        return self._acl_id("site", self.root, name)

    def collection(self, name: str) -> str:
        """Return the path of a metadata collection of the site."""
        return f"{self.root}/{name}"

    def directories_above(self, lfn: str) -> list[str]:
        """Return the directories of series, study and patient of an image's LFN; none if the LFN has another form."""
        parts = lfn.split("/")
        if not lfn.startswith(f"{self.root}/") or len(parts) != self.root.count("/") + 5:
            return []
        return ["/".join(parts[:count]) for count in (-1, -2, -3)]

    def surl(self, guid: UUID) -> str:
        """Return the storage URL of an image."""
        return surl(self._authority, guid)

    def _token(self, *parts: str) -> bytes:
        return _mac(self._token_key, parts)[:16]

    def _acl_id(self, *parts: str) -> UUID:
        value = int.from_bytes(_mac(self._acl_key, parts)[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76  # version 8, RFC 9562 section 5.8
        return UUID(int=value & ~(0x3 << 62) | 2 << 62)


def file_name(number: int | None, guid: UUID) -> str:
    """Return the last part of an image's LFN: names sort as instance numbers do.

    `0001-…` to `9999-…`, then `a10000-…`, `b100000-…`: the letter counts the further digits. Numbers that are missing or negative
    count as 0; the GUID keeps equal ones apart.
    """
    digits = f"{max(number or 0, 0):04d}"
    more = len(digits) - _DIGITS
    return f"{chr(ord('a') + more - 1) if more else ''}{digits}-{guid}.dcm"


def _mac(key: bytes, parts: tuple[str, ...]) -> bytes:
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
    return hmac.digest(key, b"".join(len(part).to_bytes(4, "big") + part for part in encoded), "sha256")


def digest(key: bytes, part10: bytes) -> bytes:
    """Return the HMAC-SHA-256 of transfer syntax, tags and values of a Part 10 file's header, sequences included.

    Left out is what changes from one transfer to the next: file meta information, group lengths, padding, and whether lengths of
    sequences and items are defined. What cannot be read with certainty is hashed byte for byte.
    """
    try:
        opened = open_part10(part10)
        parts = [opened.transfer_syntax.encode()]
        # Slices of bytes cost a third of those of a memoryview.
        _gather(parts, bytes(opened.data), opened.start, len(opened.data), opened.encoding, 0)
    except Malformed:
        parts = [part10]
    return hmac.digest(key, b"".join(parts), "sha256")


def _gather(parts: list[bytes], data: bytes, pos: int, limit: int, encoding: Encoding, depth: int) -> None:
    """Append tags and values of the elements from `pos` to `limit`, or to the item's delimiter."""
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, vr, value, length = head
        if tag == ITEM_END:
            return
        pos = value + length if length <= limit - value else skip(data, head, limit, encoding, depth)
        if tag & 0xFFFF == 0 or tag == _TRAILING_PADDING or (depth == 0 and tag >= _PIXEL_GROUP):
            continue
        if vr == b"SQ" or length == UNDEFINED or (not vr and standard_vr(tag) == b"SQ"):
            parts.append(_TAG(tag) + b"[")
            for item in items(memoryview(data), Element(tag, vr, value, value, length, pos), encoding, depth):
                parts.append(b"{")
                _gather(parts, data, item.start, item.limit, item.encoding, depth + 1)
                parts.append(b"}")
            parts.append(b"]")
        else:
            text = data[value:pos].rstrip(_PADDING)
            parts.append(_HEAD(tag, len(text)))
            parts.append(text)
