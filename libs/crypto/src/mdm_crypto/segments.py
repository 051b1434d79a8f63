"""Reading any place of a ciphertext of `mdm_crypto.stream`: its segments, opened one by one and in any order."""

from mdm_crypto.stream import HEADER_SIZE, SEGMENT_SIZE, TAG_SIZE, Buffer, StreamError, open_header


class Segments:
    """The segments of one ciphertext, of which the header and the size in bytes are known.

    What `open` returns is authentic and in place. That nothing was cut off, and with it `plaintext_size`, is proven by the last segment:
    open it before the size is believed.
    """

    def __init__(self, key: bytes, associated_data: bytes, header: Buffer, ciphertext_size: int) -> None:
        """Take the first `HEADER_SIZE` bytes.

        Raises:
            StreamError: no ciphertext has such a header, or such a size.
        """
        self._cipher, _ = open_header(key, associated_data, memoryview(header))
        self._size = ciphertext_size
        self.count = max(1, -(-ciphertext_size // SEGMENT_SIZE))
        self.plaintext_size = ciphertext_size - HEADER_SIZE - self.count * TAG_SIZE
        if self.plaintext_size < 0 or ciphertext_size - self.place(self.count - 1)[0] < TAG_SIZE:
            raise StreamError("no ciphertext has this size: it was cut short")

    def place(self, index: int) -> tuple[int, int]:
        """Return where a segment begins and ends in the ciphertext."""
        return index * SEGMENT_SIZE if index else HEADER_SIZE, min((index + 1) * SEGMENT_SIZE, self._size)

    def holding(self, offset: int) -> tuple[int, int]:
        """Return the segment that holds a byte of the plaintext, and where in the opened segment that byte is."""
        first = SEGMENT_SIZE - HEADER_SIZE - TAG_SIZE
        if offset < first:
            return 0, offset
        index, within = divmod(offset - first, SEGMENT_SIZE - TAG_SIZE)
        return index + 1, within

    def open(self, index: int, segment: Buffer) -> bytes:
        """Return the plaintext of a segment.

        Raises:
            StreamError: it is not authentic, or not the one of this number.
        """
        return self._cipher.open(segment, index, last=index == self.count - 1)
