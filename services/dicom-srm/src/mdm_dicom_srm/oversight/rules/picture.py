"""Pictures of instances that wait: fetched from the PACS, drawn where images are de-identified, and kept nowhere."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import partial
from typing import Any

from mdm_client.dicomweb.rendering import Picture as Form
from mdm_client.dicomweb.rendering import render
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed, Outcome
from mdm_deid.pixels.drawn import DrawnRule
from mdm_deid.pixels.image import read_image
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound, Unavailable

from mdm_dicom_srm.judgement import RELEASABLE, Deidentifier, decide, under
from mdm_dicom_srm.oversight.rules.face import SeriesReader
from mdm_dicom_srm.oversight.rules.head import Head, head_of
from mdm_dicom_srm.pacs.port import InstanceLocator, MissingInstance, Pacs, RetrievedInstance

_SECONDS = 120.0
_AT_ONCE = 2
_QUALITY = 92
#: Work for `Sealer.perform`.
Work = Callable[[Deidentifier, bytes | memoryview], Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a frame is to be drawn. With `rules` or `released` as it would leave, else as the PACS has it."""

    frame: int = 1
    side: int = 1024
    released: bool = False
    rules: tuple[DrawnRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture; `reason`, in capitals, says why there is none."""

    jpeg: bytes = b""
    columns: int = 0
    rows: int = 0
    frames: int = 0
    reason: str = ""


def draw(deidentifier: Deidentifier, part10: bytes | memoryview, wanted: Wanted) -> Drawn:
    """Return a frame of a Part 10 file as a picture. Never raises for bad input; it runs in a worker process."""
    try:
        opened = open_part10(part10)
        image = read_image(opened.data, opened.start, opened.encoding)
        if not 1 <= wanted.frame <= image.frames:
            return Drawn(frames=image.frames, reason="FRAME_UNKNOWN")
        data = bytes(part10)
        if wanted.released:
            result = decide(under(deidentifier, wanted.rules), part10, None, RELEASABLE)
            if result.outcome is not Outcome.RELEASED or result.data is None:
                return Drawn(reason=result.reason)
            data = b"".join(result.data)
        jpeg = render(data, wanted.frame, Form("image/jpeg", wanted.side, wanted.side, quality=_QUALITY))
        return Drawn(jpeg, image.columns, image.rows, image.frames)
    except Malformed as error:
        return Drawn(reason=error.reason.upper())
    except MdmError as error:
        return Drawn(reason=error.reason)
    except MemoryError:
        return Drawn(reason="OUT_OF_MEMORY")


def applied(deidentifier: Deidentifier, part10: bytes | memoryview, rule: DrawnRule) -> str:
    """Return why a Part 10 file would not be released under one more rule alone, in capitals; "" if it would be."""
    result = decide(under(deidentifier, (rule,)), part10, None)
    if result.outcome is not Outcome.RELEASED:
        return result.reason
    return "" if rule.name in result.pixel_rule.split("+") else "RULE_NOT_APPLIED"


class Instances:
    """Instances that wait, as the PACS has them, a few at a time: they are held in memory."""

    def __init__(self, pacs: Pacs, perform: "Callable[[Work, bytes | memoryview], Future[Any]]") -> None:
        """Have `perform` do work on instances; see `Sealer.perform`."""
        self._pacs = pacs
        self._perform = perform
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    def draw(self, locator: InstanceLocator, wanted: Wanted) -> Drawn:
        """Return a picture of an instance.

        Raises:
            NotFound, Unavailable: the PACS does not deliver it.
            Invalid: it has no such frame.
            FailedPrecondition: CANNOT_RENDER; NOT_RELEASABLE, it could not leave so.
        """
        found: Drawn | None = self._do(locator, partial(draw, wanted=wanted))
        if found is None:
            raise FailedPrecondition("CANNOT_RENDER", "The image cannot be drawn: its decoder fails.")
        if found.reason == "FRAME_UNKNOWN":
            raise Invalid("FRAME_UNKNOWN", f"The image has {found.frames} frames.", fields={"frame": f"1 to {found.frames}"})
        if found.reason == "CANNOT_RENDER":
            raise FailedPrecondition("CANNOT_RENDER", "The image cannot be drawn here.")
        if found.reason:
            raise FailedPrecondition("NOT_RELEASABLE", f"The image could not leave so: {found.reason}.")
        return found

    def head(self, locator: InstanceLocator) -> Head:
        """Return the head that the series of an instance shows; see `head_of`, whose errors it raises."""
        with self._turns:
            return head_of(SeriesReader(self._pacs, self._perform), locator)

    def check(self, locator: InstanceLocator, rule: DrawnRule) -> None:
        """Raise unless a rule does on an instance what it is made for.

        Raises:
            NotFound, Unavailable: the PACS does not deliver it.
            FailedPrecondition: NOT_BLANKABLE.
        """
        reason: str | None = self._do(locator, partial(applied, rule=rule))
        if reason != "":
            why = reason if reason is not None else "WORKER_LOST"
            raise FailedPrecondition("NOT_BLANKABLE", f"The rule would not let this image leave: {why}.")

    def retrieve(self, locator: InstanceLocator) -> bytes:
        """Return an instance as Part 10.

        Raises:
            NotFound, Unavailable: the PACS does not deliver it.
        """
        found = next((item for item in self._pacs.retrieve([locator]) if item.sop_uid == locator.sop_uid), None)
        if isinstance(found, MissingInstance) and found.gone:
            raise NotFound("NOT_IN_PACS", "The PACS does not have this image any more.")
        if not isinstance(found, RetrievedInstance):
            raise Unavailable("PACS_NOT_DELIVERED", "The PACS does not deliver this image now.")
        part10 = bytes(found.part10)
        if found.piece is not None:
            found.piece.release()
        return part10

    def _do(self, locator: InstanceLocator, work: Work) -> Any:
        with self._turns:
            try:
                return self._perform(work, self.retrieve(locator)).result(_SECONDS)
            except (NotInTime, CancelledError, RuntimeError):
                raise Unavailable("DESK_BUSY", "The image cannot be looked at now; ask again later.") from None
