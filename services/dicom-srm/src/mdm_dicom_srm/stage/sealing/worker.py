"""A worker process: `python -m mdm_dicom_srm.stage.sealing.worker SOCKET PROGRESS`, and our end of it.

Keys and plaintext stay in memory: tasks come over a socket pair, files in shared memory whose descriptors come the same way.
"""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mdm_dicom_srm.judgement import Deidentifier, MakeDeidentifier
from mdm_dicom_srm.shared_memory import Block, Piece

_START_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_PROGRESS_BYTES = 4

#: What a worker does with a file; sent to processes, so a module-level function or a functools.partial of one.
Work = Callable[[Deidentifier, memoryview], Any]


class WorkerLost(Exception):
    """The worker has ended, or hangs; the task at `position` was in hand."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Worker:
    """A worker process, our end of its socket, and which shared blocks it has mapped."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        progress = os.memfd_create("mdm-stage-progress", os.MFD_CLOEXEC)
        os.ftruncate(progress, _PROGRESS_BYTES)
        self._progress = mmap.mmap(progress, _PROGRESS_BYTES)
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(progress)]
        try:
            with theirs:
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno(), progress], stdin=subprocess.DEVNULL)
        finally:
            os.close(progress)
        self._socket = ours
        self._pipe = Connection(os.dup(ours.fileno()))
        self._mapped: dict[int, weakref.ref[Block]] = {}

    def prepare(self, make: MakeDeidentifier) -> bool:
        """Give the worker its de-identifier; return whether it is ready."""
        with contextlib.suppress(EOFError, OSError):
            self._pipe.send(make)
            if self._pipe.poll(_START_SECONDS):
                self._pipe.recv()
                return True
        return False

    def do(self, tasks: Sequence[tuple[Work, Piece]], timeout: float) -> list[Any]:
        """Return what each task returns.

        Raises:
            WorkerLost: the worker has ended, or needed more than `timeout` seconds for a task.
        """
        self._set_position(0)
        try:
            self._send(tasks)
            self._wait(timeout)
            answers: list[Any] = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerLost(self._position()) from None
        return answers

    def end(self) -> None:
        """Close the socket, which ends a worker that is idle; kill one that is not."""
        self._pipe.close()
        self._socket.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, tasks: Sequence[tuple[Work, Piece]]) -> None:
        new = {piece.block.number: piece.block for _, piece in tasks if piece.block.number not in self._mapped}
        ended = [number for number, block in self._mapped.items() if block() is None]
        for number in ended:
            del self._mapped[number]
        self._mapped |= {number: weakref.ref(block) for number, block in new.items() if block.lasting}
        sizes = [(number, block.size, block.lasting) for number, block in new.items()]
        self._pipe.send((sizes, ended, [(work, piece.block.number, piece.start, piece.size) for work, piece in tasks]))
        if new:
            socket.send_fds(self._socket, [b"\0"], [block.descriptor for block in new.values()])

    def _wait(self, timeout: float) -> None:
        position, since = self._position(), time.monotonic()
        while not self._pipe.poll(min(timeout, _LOOK_SECONDS)):
            if (now := self._position()) != position:
                position, since = now, time.monotonic()
            elif time.monotonic() - since >= timeout:
                raise WorkerLost(position)

    def _position(self) -> int:
        return int.from_bytes(self._progress[:], "little")

    def _set_position(self, position: int) -> None:
        self._progress[:] = position.to_bytes(_PROGRESS_BYTES, "little")


class _Blocks:
    """The shared blocks that a worker has mapped, to read only."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._views: dict[int, memoryview] = {}

    def receive(self, sizes: Sequence[tuple[int, int, bool]]) -> None:
        """Map new blocks, whose descriptors follow."""
        if not sizes:
            return
        _, descriptors, _, _ = socket.recv_fds(self._connection, 1, len(sizes))
        if len(descriptors) != len(sizes):
            raise EOFError
        for descriptor, (number, size, _) in zip(descriptors, sizes, strict=True):
            mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
            os.close(descriptor)
            mapped.madvise(mmap.MADV_DONTDUMP)
            self._views[number] = memoryview(mapped)

    def view(self, number: int, start: int, size: int) -> memoryview:
        """Return a file."""
        return self._views[number][start : start + size]

    def drop(self, numbers: Sequence[int]) -> None:
        """Have blocks mapped no longer."""
        for number in numbers:
            del self._views[number]


def work(descriptor: int, progress_descriptor: int) -> None:
    """Do the work that comes over the socket until the other end closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress = mmap.mmap(progress_descriptor, _PROGRESS_BYTES)
    with socket.socket(fileno=descriptor) as connection, Connection(os.dup(descriptor)) as pipe:
        blocks = _Blocks(connection)
        try:
            make: MakeDeidentifier = pipe.recv()
            deidentifier = make()
            pipe.send(None)
            while True:
                sizes, ended, tasks = pipe.recv()
                blocks.drop(ended)
                blocks.receive(sizes)
                answers = []
                for position, (task, number, start, size) in enumerate(tasks):
                    progress[:] = position.to_bytes(_PROGRESS_BYTES, "little")
                    answers.append(task(deidentifier, blocks.view(number, start, size)))
                pipe.send(answers)
                blocks.drop([number for number, _, lasting in sizes if not lasting])
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
