"""Whether the files of an identity can be used, found out without `cryptography`, whose import costs a command a quarter of its start."""

import ssl
from datetime import UTC, datetime
from typing import NoReturn

from mdm_wire.tls import Identity

_END = "-----END CERTIFICATE-----"
# Tags of DER: ITU-T X.690; what a certificate consists of: RFC 5280, section 4.1.
_EXPLICIT_VERSION, _UTC_TIME = 0xA0, 0x17
_DIGITS = ((0, 4), (4, 2), (6, 2), (8, 2), (10, 2), (12, 2))


def is_usable(identity: Identity, now: datetime) -> bool:
    """Return whether certificate, key and roots can be read, the key is the certificate's, and `now` is in its time.

    False also in doubt: `mdm_wire.channel.check_identity` finds out what is wrong, if anything is.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(identity.certificate, identity.key, _refuse)
        context.load_verify_locations(identity.ca)
        first, _, _ = identity.certificate.read_text().partition(_END)
        begin, end = times(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :] + _END))
    except (OSError, ValueError, IndexError):  # ssl.SSLError is an OSError
        return False
    return begin <= now <= end


def times(certificate: bytes) -> tuple[datetime, datetime]:
    """Return from when until when a certificate in DER is valid.

    Raises:
        ValueError, IndexError: it is none.
    """
    fields = _parts(_parts(certificate)[0][1])[0][1]
    parts = _parts(fields)
    # version (optional), serial number, signature algorithm, issuer, validity
    validity = parts[4 if parts[0][0] == _EXPLICIT_VERSION else 3]
    begin, end = _parts(validity[1])
    return _moment(*begin), _moment(*end)


def _refuse() -> NoReturn:
    raise ValueError("the key is encrypted")


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents of elements that follow each other."""
    found, at = [], 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("cut short")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # of the years 1950 to 2049
        text = ("19" if text >= "5" else "20") + text
    if text[14:] != "Z":
        raise ValueError("not in UTC")
    year, month, day, hour, minute, second = (int(text[at : at + size]) for at, size in _DIGITS)
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
