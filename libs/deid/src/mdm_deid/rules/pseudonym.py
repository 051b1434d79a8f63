"""Stable pseudonyms: everything is HMAC-SHA-256 under the site secret, with one derived key per purpose."""

import base64
import hmac
import uuid

_MAX_SHIFT_DAYS = 3650
_MIN_SECRET = 32
_PURPOSES = (b"uid", b"patient", b"guid", b"dates", b"label", b"identifier")


def _mac(keyed: hmac.HMAC, *parts: str) -> bytes:
    """Return the MAC over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ.

    A copy of a keyed HMAC rather than `hmac.digest`: that gives up the interpreter's lock for a microsecond of work, and among busy threads
    waits milliseconds to have it back.
    """
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
    mac = keyed.copy()
    mac.update(b"".join(len(part).to_bytes(4, "big") + part for part in encoded))
    return mac.digest()


class Pseudonymiser:
    """Maps identifiers to pseudonyms; equal on every machine that holds the same secret, not invertible without it."""

    def __init__(self, secret: bytes) -> None:
        """Derive the keys.

        Raises:
            ValueError: the secret is shorter than 32 bytes.
        """
        if len(secret) < _MIN_SECRET:
            raise ValueError(f"site secret has {len(secret)} bytes, at least {_MIN_SECRET} are needed")
        self.__setstate__(tuple(hmac.digest(secret, b"mdm-deid-v1:" + purpose, "sha256") for purpose in _PURPOSES))

    def __getstate__(self) -> tuple[bytes, ...]:
        """Return the derived keys, as a keyed HMAC cannot be given to a worker process."""
        return self._keys

    def __setstate__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        self._uid, self._patient, self._guid, self._dates, self._label, self._identifier = (
            hmac.new(key, digestmod="sha256") for key in keys
        )

    def __repr__(self) -> str:
        return "Pseudonymiser()"

    def uid(self, original: str) -> str:
        """Return `2.25.<128-bit decimal>` (PS3.5 B.2) for a UID; does not itself spare the standard's own UIDs."""
        return f"2.25.{int.from_bytes(_mac(self._uid, original)[:16], 'big')}"

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """Return `P` and 16 base32 characters (80 bits); surrounding spaces do not matter, as in DICOM's LO."""
        digest = _mac(self._patient, patient_id.strip(), issuer.strip())
        return "P" + base64.b32encode(digest[:10]).decode("ascii")

    def label(self, patient_id: str, issuer: str, text: str) -> str:
        """Return `LABEL_` and 10 base32 characters (50 bits) for what someone called a thing; equal for one patient only."""
        digest = _mac(self._label, patient_id.strip(), issuer.strip(), text.strip())
        return "LABEL_" + base64.b32encode(digest[:10]).decode("ascii")[:10]

    def identifier(self, original: str) -> str:
        """Return `I` and 15 base32 characters (75 bits) for an identifier of a thing: 16 in all, which every VR of text can hold.

        The same identifier has the same pseudonym in whatever attribute it stands, so that references between attributes hold.
        Blanks around it do not matter, as in DICOM's SH and LO.
        """
        return "I" + base64.b32encode(_mac(self._identifier, original.strip())[:10]).decode("ascii")[:15]

    def guid(self, sop_instance_uid: str, generation: int = 0) -> uuid.UUID:
        """Return the instance's grid name, a version 8 UUID (RFC 9562); each generation has another, and none tells the next."""
        parts = (sop_instance_uid, str(generation)) if generation else (sop_instance_uid,)
        value = int.from_bytes(_mac(self._guid, *parts)[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76
        return uuid.UUID(int=value & ~(0x3 << 62) | 2 << 62)

    def date_offset_days(self, patient_id: str, issuer: str = "") -> int:
        """Return how many days this patient's dates move: -1 to -3650, always into the past."""
        digest = _mac(self._dates, patient_id.strip(), issuer.strip())
        return -1 - int.from_bytes(digest[:8], "big") % _MAX_SHIFT_DAYS
