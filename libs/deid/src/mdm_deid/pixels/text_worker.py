"""Looking for text in processes of their own, with a limit of memory and of time; images and words are in memory only."""

import contextlib
import importlib.util
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from mdm_deid.outcome import Malformed, Withheld
from mdm_deid.pixels.image import Box
from mdm_deid.pixels.text_line import NotLooked, TextLine, merged, pictures

_START_SECONDS: Final = 300.0
_DETECTOR: Final = "rapidocr_onnxruntime"
#: Address space of a worker: models and runtime reserve 1.7 GB, of which they use up to 0.9.
MEMORY: Final = 6 << 30
#: Processor time for one instance; the clock may show so many times as much.
SECONDS: Final = 120.0
_BUSY: Final = 10
_READY: Final = b"ready"
_MOST_BYTES: Final = 16 << 20


def is_installed() -> bool:
    """Return whether the detector is there: the extra `text`."""
    return importlib.util.find_spec(_DETECTOR) is not None


class TextFinder:
    """Finds text in Part 10 files, in `processes` workers that start when they are first needed. Safe for several threads."""

    def __init__(self, processes: int = 1, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        """Give a worker `seconds` of the processor for an instance and `memory` bytes of address space."""
        self._seconds = seconds
        self._memory = memory
        self._idle: queue.Queue[_Worker | None] = queue.Queue()
        for _ in range(processes):
            self._idle.put(None)
        self._processes = processes

    def find(self, part10: bytes, frame: int = 0) -> list[TextLine]:
        """Return the lines of text in a frame, counted from 1, or in all of an instance; waits until a worker is free.

        Raises:
            NotLooked: `not_installed`, `timeout`, `worker_lost`, or why the pixels cannot be read; another attempt at another time may
                end differently only for the first three.
        """
        if not is_installed():
            raise NotLooked("not_installed")
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self._memory)
            answer = worker.ask(part10, frame, self._seconds)
        except NotLooked:
            if worker is not None:
                worker.end()
            worker = None
            raise
        finally:
            self._idle.put(worker)
        if isinstance(answer, str):
            raise NotLooked(answer)
        return [TextLine(Box(*box), text, score) for box, text, score in answer]

    def close(self) -> None:
        """End the workers once they are idle."""
        for _ in range(self._processes):
            worker = self._idle.get()
            if worker is not None:
                worker.end()


class _Worker:
    """A worker process and our end of its pipe."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "mdm_deid.pixels.text_worker", str(theirs.fileno()), str(memory)]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._pipe = Connection(ours.detach())
        if not self._answers(_START_SECONDS):
            self.end()
            raise NotLooked("worker_lost")

    def ask(self, part10: bytes, frame: int, seconds: float) -> "str | list[tuple[tuple[int, ...], str, float]]":
        """Return the lines, or why there are none.

        Raises:
            NotLooked: `timeout`, `worker_lost`; the worker is to be ended.
        """
        try:
            self._pipe.send(frame)
            self._pipe.send_bytes(part10)
            self._wait(seconds)
            # Not unpickled: whoever takes over the worker by an image gets no further.
            answer: str | list[tuple[tuple[int, ...], str, float]] = json.loads(self._pipe.recv_bytes(_MOST_BYTES))
        except (EOFError, OSError, ValueError):
            raise NotLooked("worker_lost") from None
        return answer

    def _wait(self, seconds: float) -> None:
        """Wait until there is an answer; on a busy machine longer, as long as the worker did not get its time of the processor."""
        begun, end = self._used(), time.monotonic() + seconds * _BUSY
        while not self._pipe.poll(min(1.0, seconds)):
            if self._used() - begun >= seconds or time.monotonic() >= end:
                raise NotLooked("timeout")

    def _used(self) -> float:
        """Return the seconds of the processor that the worker has used; those of the clock where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _answers(self, seconds: float) -> bool:
        with contextlib.suppress(EOFError, OSError):
            return self._pipe.poll(seconds) and self._pipe.recv_bytes(_MOST_BYTES) == _READY
        return False


def work(descriptor: int, memory: int) -> None:
    """Answer what comes over the pipe until the other end closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from mdm_deid.pixels.text_detector import TextDetector

    detector = TextDetector()
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send_bytes(_READY)
        while True:
            frame, part10 = pipe.recv(), pipe.recv_bytes()
            try:
                lines = merged([line for picture in pictures(part10, frame) for line in detector.find(picture)])
                answer: object = [(line.box, line.text, line.score) for line in lines]
            except (Malformed, Withheld, NotLooked) as error:
                answer = error.reason
            except MemoryError:
                answer = "out_of_memory"
            except Exception:  # whatever a decoder or the detector raises may quote the image
                answer = "undecodable_pixels"
            pipe.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
