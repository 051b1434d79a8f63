"""Names that registration gives: GUIDs, ACL ids, tokens, LFNs, SURLs, collections."""

import hmac
from uuid import UUID

from mdm_deid import Patient, Pseudonymiser
from mdm_wire.url import surl

from mdm_dicom_srm.pacs.part10 import Header
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.record_seal import derive_key
from mdm_dicom_srm.register.rules.digest import digest
from mdm_dicom_srm.register.rules.model import Candidate

_DIGITS = 4


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

    def candidate(self, header: Header) -> Candidate:
        """Return the registration of an instance that has a SOP Instance UID, not yet judged."""
        return Candidate(
            instance=self._pseudonymiser.guid(header.sop_uid),
            study_token=self.study_token(header.study_uid),
            series_token=self._token("series", header.study_uid, header.series_uid),
            locator=InstanceLocator(header.study_uid, header.series_uid, header.sop_uid),
            header=header.part10,
            digest=self.header_digest(header.part10),
            size=header.size,
        )

    def header_digest(self, part10: bytes) -> bytes:
        """Return the keyed hash by which equal headers are known; see `digest.digest`."""
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
        """Return what stands for a metadata entry where something is bound to it."""
        return UUID(bytes=self._token("entry", collection, key))

    def study_token(self, study_uid: str) -> bytes:
        """Return the keyed hash under which a study is counted."""
        return self._token("study", study_uid)

    def series_token(self, locator: InstanceLocator) -> bytes:
        """Return the keyed hash under which a series is counted."""
        return self._token("series", locator.study_uid, locator.series_uid)

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
        """Return the directories of series, study and patient of an image's LFN; none of an LFN that is not of this form."""
        parts = lfn.split("/")
        if not lfn.startswith(f"{self.root}/") or len(parts) != self.root.count("/") + 5:
            return []
        return ["/".join(parts[:count]) for count in (-1, -2, -3)]

    def surl(self, guid: UUID) -> str:
        """Return the storage URL of an image."""
        return surl(self._authority, guid)

    @property
    def host(self) -> str:
        """The name under which replicas give their host."""
        return self._authority

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
