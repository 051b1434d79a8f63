"""Memory that this process shares with its sealing workers: what arrives from the PACS is worked on where it lies, without a copy.

The memory has no name in any file system (memfd), is never synchronised to a disk, and is gone with the last process that maps it.
"""

import itertools
import mmap
import os
import threading

#: Files up to about this size share blocks, which are used again; a larger one has a block of its own.
BLOCK_BYTES = 4 * 1024 * 1024
# So many blocks are kept for the next files.
_SPARE = 8
_numbers = itertools.count(1)


class Block:
    """Shared bytes. `number` is unique in this process; `lasting` says whether a worker meets the block again."""

    __slots__ = ("__weakref__", "_map", "_pool", "_uses", "descriptor", "lasting", "number", "size", "view")

    def __init__(self, size: int, pool: "BlockPool", lasting: bool) -> None:
        self.number, self.size, self.lasting = next(_numbers), size, lasting
        self._pool, self._uses = pool, 1
        self.descriptor = os.memfd_create("mdm-stage", os.MFD_CLOEXEC)
        os.fchmod(self.descriptor, 0o600)
        os.ftruncate(self.descriptor, size)
        self._map = mmap.mmap(self.descriptor, size)
        # A dump of this process is for finding defects, not for pixels.
        self._map.madvise(mmap.MADV_DONTDUMP)
        self.view = memoryview(self._map)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def find(self, mark: bytes, start: int, end: int) -> int:
        """Return where `mark` stands between two positions, -1 if it does not."""
        return self._map.find(mark, start, end)

    def piece(self, start: int, size: int) -> "Piece":
        """Return a part of the block, which keeps it from being used again until it is released."""
        self._pool.hold(self)
        return Piece(self, start, size)

    def release(self) -> None:
        """End one use; after the last one the block is used again."""
        self._pool.release(self)


class Piece:
    """A file in shared memory. `release` it once, when nobody looks at it any more.

    One that is never released only keeps its block from being used again; the memory is freed with the last view.
    """

    __slots__ = ("_released", "block", "size", "start")

    def __init__(self, block: Block, start: int, size: int) -> None:
        self.block, self.start, self.size = block, start, size
        self._released = False

    @property
    def view(self) -> memoryview:
        """The bytes; they change after `release`."""
        return self.block.view[self.start : self.start + self.size]

    def release(self) -> None:
        """Let the memory be used again. A second call does nothing."""
        if not self._released:
            self._released = True
            self.block.release()


class BlockPool:
    """Gives blocks out, and takes those of the usual size back. Thread-safe."""

    def __init__(self, block_bytes: int = BLOCK_BYTES, spare: int = _SPARE) -> None:
        self.block_bytes = block_bytes
        self._most = spare
        self._spare: list[Block] = []
        self._lock = threading.Lock()
        # Where `put` goes on.
        self._loading = threading.Lock()
        self._open: Block | None = None
        self._filled = 0

    def take(self, size: int = 0) -> Block:
        """Return a block of at least `size` bytes with one use, its content arbitrary.

        Raises:
            MemoryError: the system has no more.
        """
        if size <= self.block_bytes:
            with self._lock:
                if self._spare:
                    block = self._spare.pop()
                    block._uses = 1
                    return block
        try:
            return Block(max(size, self.block_bytes), self, lasting=size <= self.block_bytes)
        except OSError:
            raise MemoryError from None

    def put(self, content: bytes | memoryview) -> Piece:
        """Return a copy of a file; small ones share a block."""
        size = len(content)
        if size > self.block_bytes // 2:
            block = self.take(size)
            piece = block.piece(0, size)
            block.release()
        else:
            with self._loading:
                if self._open is None or self._filled + size > self._open.size:
                    if self._open is not None:
                        self._open.release()
                    self._open, self._filled = self.take(), 0
                piece = self._open.piece(self._filled, size)
                self._filled += size
        piece.view[:] = content
        return piece

    def hold(self, block: Block) -> None:
        """Note one more use."""
        with self._lock:
            block._uses += 1

    def release(self, block: Block) -> None:
        """Note that a use has ended."""
        with self._lock:
            block._uses -= 1
            if block._uses == 0 and block.lasting and len(self._spare) < self._most:
                self._spare.append(block)
