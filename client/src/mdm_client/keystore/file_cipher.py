"""Encrypts and decrypts local files of any kind under keys of the keystores, in constant memory."""

from collections.abc import Callable
from uuid import UUID

from mdm_crypto.file import EncryptedFile, FormatError, encrypt_file
from mdm_crypto.stream import StreamError
from mdm_wire.errors import Corrupt, Invalid, MdmError

from mdm_client.keystore.client import KeySource
from mdm_client.local_file import STANDARD, InputFile, output_file, translated


def encrypt(
    keys: KeySource, guid: UUID, source: str, destination: str, durable: bool = False, received: Callable[[int], None] | None = None
) -> int:
    """Encrypt the file `source` into the file `destination` (either may be `-`); return the number of bytes of plaintext.

    The destination appears when it is complete; after any error it is unchanged. `received` is called with each count of bytes read.

    Raises:
        MdmError: no key, or a local file that cannot be read or written.
    """
    with InputFile(source, received) as plaintext:
        output = output_file(destination, durable)
        key = get_key(keys, guid)
        with translated(_shown(destination), "written"), output:
            return encrypt_file(key, guid, plaintext, output)


def decrypt(
    keys: KeySource, guid: UUID | None, source: str, destination: str, durable: bool = False, received: Callable[[int], None] | None = None
) -> tuple[UUID, int]:
    """Decrypt the file `source` into the file `destination`; return the key's GUID and the number of bytes of plaintext.

    `guid` is the key under which the file must be encrypted; None: the one it names. The destination appears when all of it is
    verified; after any error it is unchanged. Standard output, too, gets nothing of a file before all is verified;
    of standard input it gets each part that is verified, to be discarded if an error follows. `received` as in `encrypt`.

    Raises:
        Corrupt: CIPHERTEXT_NOT_AUTHENTIC, KEY_ID_DIFFERS.
        Invalid: NOT_ENCRYPTED, KEY_ID_MISSING.
        MdmError: no key, or a local file that cannot be read or written.
    """
    with InputFile(source, received) as ciphertext:
        output = output_file(destination, durable)
        piped = destination == STANDARD
        began = False
        try:
            file = EncryptedFile(ciphertext)
            named = _checked_guid(ciphertext.name, file.guid, guid)
            key = get_key(keys, named)
            if piped and ciphertext.size is not None:
                file.decrypt(key, named, _Discard())
                ciphertext.rewind()
                file = EncryptedFile(ciphertext)
            began = True
            with translated(_shown(destination), "written"), output:
                return named, file.decrypt(key, named, output)
        except FormatError as error:
            raise Invalid("NOT_ENCRYPTED", f"{ciphertext.name}: {error}") from error
        except StreamError as error:
            kept = "discard what was written" if piped and began else "nothing was kept"
            message = f"{ciphertext.name}: altered, cut short, or not what was encrypted under this key; {kept}"
            raise Corrupt("CIPHERTEXT_NOT_AUTHENTIC", message) from error


def get_key(keys: KeySource, guid: UUID) -> bytes:
    """Return one key, or raise the keystores' error."""
    answer = keys.get_keys([guid])[guid]
    if isinstance(answer, MdmError):
        raise answer.at(str(guid))
    return answer


class _Discard:
    def write(self, data: object, /) -> None: ...


def _checked_guid(name: str, found: UUID | None, wanted: UUID | None) -> UUID:
    if found is not None and wanted is not None and found != wanted:
        raise Corrupt("KEY_ID_DIFFERS", f"{name}: encrypted under the key {found}, not {wanted}")
    guid = found or wanted
    if guid is None:
        raise Invalid("KEY_ID_MISSING", f"{name}: a staged file, which does not name its key; give its ID")
    return guid


def _shown(destination: str) -> str:
    return "standard output" if destination == STANDARD else destination
