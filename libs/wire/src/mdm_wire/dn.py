"""Distinguished names: canonical RFC 4514 text from certificates and from what people type."""

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from mdm_wire.errors import Invalid

_ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "C": NameOID.COUNTRY_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "STREET": NameOID.STREET_ADDRESS,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "GIVENNAME": NameOID.GIVEN_NAME,
    "SURNAME": NameOID.SURNAME,
    "SN": NameOID.SURNAME,
}
_PRINTED = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
}
_SLASH_PART = re.compile(r"/(?=[A-Za-z][A-Za-z0-9.]*=)")


def of_name(name: x509.Name) -> str:
    """Return the canonical RFC 4514 text of a decoded name.

    Raises:
        Invalid: the name is empty, contains a NUL, or has several common names (programs disagree on which one counts).
    """
    attributes = list(name)
    if not attributes:
        raise Invalid("DN_EMPTY", "The certificate's subject is empty.")
    if any("\x00" in str(attribute.value) for attribute in attributes):
        raise Invalid("DN_NUL", "The certificate's subject contains a NUL character.")
    if len(name.get_attributes_for_oid(NameOID.COMMON_NAME)) > 1:
        raise Invalid("DN_DUPLICATE_CN", "The certificate's subject has more than one common name.")
    # The order within a multi-valued RDN has no meaning, so it is fixed here.
    rdns = [x509.RelativeDistinguishedName(sorted(rdn, key=lambda part: part.oid.dotted_string)) for rdn in name.rdns]
    return x509.Name(rdns).rfc4514_string(_PRINTED)


def of_certificate(certificate: x509.Certificate) -> str:
    """Return the canonical subject of a certificate, read from its DER; errors as `of_name`."""
    return of_name(certificate.subject)


def canonical(text: str) -> str:
    """Return the canonical form of a DN given as RFC 4514 or as OpenSSL's slash form (`/C=EU/O=Lab/CN=alice`).

    RDN order is significant: the slash form lists the RDNs in the certificate's order, RFC 4514 in reverse.

    Raises:
        Invalid: the text is not a DN.
    """
    stripped = text.strip()
    try:
        name = _from_slashes(stripped) if stripped.startswith("/") else x509.Name.from_rfc4514_string(_upper_keys(stripped))
    except (ValueError, KeyError) as error:
        raise Invalid("DN_MALFORMED", "Not a distinguished name: write it like CN=alice,O=Lab,C=EU or /C=EU/O=Lab/CN=alice.") from error
    return of_name(name)


def is_within(dn: x509.Name, namespace: x509.Name) -> bool:
    """Return whether `dn` lies below `namespace`: its first RDNs, in certificate order, equal the namespace's."""
    rdns, prefix = dn.rdns, namespace.rdns
    return len(rdns) > len(prefix) and all(_same_rdn(a, b) for a, b in zip(rdns, prefix, strict=False))


def parse(text: str) -> x509.Name:
    """Return the name that a canonical or typed DN denotes; errors as `canonical`."""
    return x509.Name.from_rfc4514_string(_upper_keys(canonical(text)))


def _same_rdn(left: x509.RelativeDistinguishedName, right: x509.RelativeDistinguishedName) -> bool:
    return {(a.oid, a.value) for a in left} == {(a.oid, a.value) for a in right}


def _from_slashes(text: str) -> x509.Name:
    rdns = []
    for part in _SLASH_PART.split(text)[1:]:
        key, _, value = part.partition("=")
        rdns.append(x509.RelativeDistinguishedName([x509.NameAttribute(_oid(key), value)]))
    if not rdns:
        raise ValueError(text)
    return x509.Name(rdns)


def _oid(key: str) -> x509.ObjectIdentifier:
    return _ATTRIBUTES[key.upper()] if key.upper() in _ATTRIBUTES else x509.ObjectIdentifier(key)


_RFC4514_KEY = re.compile(r"(^|(?<!\\)[,+])\s*([A-Za-z][A-Za-z0-9]*)\s*=")


def _upper_keys(text: str) -> str:
    """Write attribute keys as the parser knows them: registered short names in upper case, and dotted OIDs."""

    def replace(match: re.Match[str]) -> str:
        key = match.group(2).upper()
        known = {"CN", "O", "OU", "C", "L", "ST", "STREET", "DC", "UID"}
        return f"{match.group(1)}{key if key in known else _oid(key).dotted_string}="

    return _RFC4514_KEY.sub(replace, text)
