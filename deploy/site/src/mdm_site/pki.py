"""A site's own certificate authority, also for local stacks and tests: its keys are unencrypted files beside its certificates."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from mdm_wire import dn
from mdm_wire.tls import TlsFiles

from mdm_site.file import write_file

_DAY = timedelta(days=1)
_RENEW_BEFORE = 7 * _DAY


class DevelopmentCa:
    """An authority in a directory: `ca.crt`, `ca.key`, `ca.crl`; made on first use, opened again later.

    The subjects it issues lie below `O=<organisation>`.
    """

    def __init__(self, directory: Path, organisation: str = "MDM Test") -> None:
        self.directory = directory
        self.organisation = organisation
        self.certificate_file = directory / "ca.crt"
        self.crl_file = directory / "ca.crl"
        self._key_file = directory / "ca.key"
        directory.mkdir(parents=True, exist_ok=True)
        if self._key_file.exists() and self.certificate_file.exists():
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key = key
            self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = self._self_signed()
            write_file(self._key_file, _pem(self._key), private=True)
            self.certificate_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        if not self.crl_file.exists():
            self.revoke([])

    @property
    def namespace(self) -> str:
        """The DN prefix of every subject this authority issues."""
        return f"O={self.organisation}"

    def subject(self, common_name: str) -> str:
        """Return the canonical DN that `issue` gives to a bare common name."""
        return dn.canonical(f"/O={self.organisation}/CN={common_name}")

    def issue(
        self,
        subject: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        key: object | None = None,
    ) -> TlsFiles:
        """Issue a certificate for a DN (RFC 4514 or slash form) as `<name>.crt` and `<name>.key` and return the paths.

        `hosts` become subject alternative names; `key` replaces the P-256 key that is made otherwise.
        """
        leaf_name = dn.parse(subject)
        file_name = name or str(leaf_name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        private = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(leaf_name)
            .issuer_name(self._certificate.subject)
            .public_key(private.public_key())  # type: ignore[attr-defined]
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - timedelta(hours=1))
            .not_valid_after(not_after or now + 90 * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = TlsFiles(self.directory / f"{file_name}.crt", self.directory / f"{file_name}.key", self.certificate_file)
        write_file(files.key, _pem(private), private=True)
        write_file(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return files

    def certify(self, common_name: str, hosts: Sequence[str]) -> bool:
        """Issue the certificate of a name if it is missing, lacks one of the hosts, or expires within a week; return whether it was."""
        file = self.directory / f"{common_name}.crt"
        if file.exists() and file.with_suffix(".key").exists():
            found = x509.load_pem_x509_certificate(file.read_bytes())
            if found.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE and set(map(_general_name, hosts)) <= set(_names(found)):
                return False
        self.issue(self.subject(common_name), hosts=hosts, name=common_name)
        return True

    def revoke(self, certificates: Sequence[Path], *, next_update: datetime | None = None) -> None:
        """Write a CRL that lists these certificates and no others."""
        serials = {x509.load_pem_x509_certificate(path.read_bytes()).serial_number for path in certificates}
        self.revoke_serials(serials, next_update=next_update)

    def revoked_serials(self) -> set[int]:
        """Return the serial numbers that the CRL lists."""
        return {entry.serial_number for entry in x509.load_pem_x509_crl(self.crl_file.read_bytes())}

    def renew_crl(self) -> None:
        """Sign the CRL again, with the same serial numbers, if it expires within a week."""
        expiry = x509.load_pem_x509_crl(self.crl_file.read_bytes()).next_update_utc
        if expiry is None or expiry - datetime.now(UTC) <= _RENEW_BEFORE:
            self.revoke_serials(self.revoked_serials())

    def revoke_serials(self, serials: Collection[int], *, next_update: datetime | None = None) -> None:
        """Write a CRL that lists these serial numbers and no others."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(now - timedelta(minutes=5)).next_update(next_update or now + 30 * _DAY)
        for serial in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build())
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        scratch = self.crl_file.with_suffix(".new")
        scratch.write_bytes(pem)
        scratch.replace(self.crl_file)

    def _self_signed(self) -> x509.Certificate:
        name = dn.parse(f"/O={self.organisation}/CN={self.organisation} CA")
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + 3650 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: object) -> bytes:
    encoded: bytes = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded
