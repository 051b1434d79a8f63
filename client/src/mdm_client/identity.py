"""Distinguished names as the services write them."""

from cryptography import x509
from cryptography.x509.oid import NameOID

_NAMES = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
}


def subject(name: x509.Name) -> str:
    """Return a name as RFC 4514 text."""
    return name.rfc4514_string(_NAMES)
