"""A quick look at an identity agrees with `cryptography`, and is unsure of everything that is not as it should be."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from mdm_wire.tls import TlsFiles
from mdm_wire.validity import is_usable, times

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
KEY = ec.generate_private_key(ec.SECP256R1())
moments = st.datetimes(datetime(1951, 1, 1), datetime(9998, 1, 1)).map(lambda moment: moment.replace(microsecond=0, tzinfo=UTC))


def certificate(begin: datetime, end: datetime, serial: int = 1) -> x509.Certificate:
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), serial, begin, end)
    return builder.sign(KEY, hashes.SHA256())


GOOD = certificate(datetime(2020, 1, 1), datetime(2030, 1, 1)).public_bytes(serialization.Encoding.DER)


@given(moments, st.timedeltas(timedelta(seconds=1), timedelta(days=365)), st.integers(1, 2**150))
def test_times_are_those_of_cryptography(begin, length, serial):
    end = (begin + length).replace(microsecond=0)
    made = certificate(begin, max(begin, end), serial)
    assert times(made.public_bytes(serialization.Encoding.DER)) == (made.not_valid_before_utc, made.not_valid_after_utc)


@given(st.integers(0, len(GOOD) - 1))
def test_a_certificate_that_is_cut_has_no_times(length):
    with pytest.raises((ValueError, IndexError)):
        times(GOOD[:length])


def test_an_identity_is_usable_in_its_time_and_with_its_own_key_only(pki, tmp_path):
    alice, bob = pki.issue(pki.subject("alice")), pki.issue(pki.subject("bob"))
    now = datetime.now(UTC)
    assert is_usable(alice, now)
    assert not is_usable(alice, now + timedelta(days=36_500)) and not is_usable(alice, now - timedelta(days=36_500))
    assert not is_usable(TlsFiles(alice.certificate, bob.key, alice.ca), now)
    (tmp_path / "other").write_text("no PEM")
    for name in ("certificate", "key", "ca"):
        for path in (tmp_path / "other", tmp_path / "none"):
            files = {"certificate": alice.certificate, "key": alice.key, "ca": alice.ca, name: path}
            assert not is_usable(TlsFiles(**files), now)


def test_an_encrypted_key_is_not_usable_and_nobody_is_asked_for_its_password(pki, tmp_path):
    alice = pki.issue(pki.subject("alice"))
    key = serialization.load_pem_private_key(alice.key.read_bytes(), None)
    locked = tmp_path / "key"
    how = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    assert not is_usable(TlsFiles(alice.certificate, locked, alice.ca), datetime.now(UTC))
