"""Files for an archive that uses Crypt4GH: re-keyed for its recipients on the user's machine, with size and digests beside each."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from mdm_crypto.crypt4gh import Crypt4ghWriter, RecipientError, parse_recipient
from mdm_crypto.stream import decrypt_stream
from mdm_wire.errors import Invalid

from mdm_client.fetch.ciphertext import Ciphertext
from mdm_client.local_file import AtomicFile

SUFFIX = ".c4gh"
DIGESTS_SUFFIX = ".sha256"


def read_recipients(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Return the public keys in files.

    Raises:
        Invalid: RECIPIENT_UNUSABLE.
    """
    found = []
    for path in paths:
        try:
            found.append(parse_recipient(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, RecipientError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise Invalid("RECIPIENT_UNUSABLE", f"{path}: {why}") from error
    return tuple(found)


def export_file(
    source: Ciphertext, key: bytes, guid: UUID, destination: Path, recipients: Sequence[bytes], durable: bool, *, replace: bool
) -> int:
    """Write a staged file as Crypt4GH, and beside it `NAME.sha256`; return the size of its plaintext in bytes.

    The plaintext passes through memory, a segment at a time. The file gets its name only when it is whole and verified, after its digests.

    Raises:
        StreamError: it is not authentic. MdmError: the site could not be read. OSError: a local file could not be written.
    """
    with AtomicFile(destination, durable, replace=replace) as file:
        with Crypt4ghWriter(recipients, file) as writer:
            size = decrypt_stream(key, guid.bytes, source, writer)
        with AtomicFile(destination.with_name(destination.name + DIGESTS_SUFFIX), durable, replace=replace) as digests:
            digests.write(_digests(destination.name, writer).encode())
    return size


def _digests(name: str, writer: Crypt4ghWriter) -> str:
    """Return what `sha256sum --check --ignore-missing` reads: the encrypted file, and the plain one that `crypt4gh decrypt` makes of it.

    The sizes stand in a comment, which that program skips.
    """
    plain = name.removesuffix(SUFFIX)
    sizes = f"# {writer.size} bytes encrypted, {writer.plain_size} bytes plain\n"
    return sizes + _line(writer.sha256, name) + _line(writer.plain_sha256, plain)


def _line(digest: str, name: str) -> str:
    # A name with a backslash is written as sha256sum escapes it.
    return f"\\{digest}  {name.replace(chr(92), chr(92) * 2)}\n" if "\\" in name else f"{digest}  {name}\n"
