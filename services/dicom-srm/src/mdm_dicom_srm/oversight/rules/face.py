"""Masks of faces, made from whole series of the PACS while their images wait, and the judge that waits for them."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mdm_deid import Patient
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.faces.place import member
from mdm_deid.faces.rule import FaceRule
from mdm_deid.faces.series import make_rule, read_slice
from mdm_deid.faces.volume import MAX_SLICES, Slice
from mdm_deid.outcome import FaceUnmasked, Malformed, Outcome
from mdm_deid.pixels.image import read_image
from mdm_wire.errors import Invalid, MdmError, Unavailable

from mdm_dicom_srm.judgement import FACE_UNMASKED, Deidentifier, Judgement
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import InstanceLocator, Pacs, RetrievedInstance
from mdm_dicom_srm.register.rules.port import Judge

_log = logging.getLogger(__name__)
_SECONDS = 120.0
_STOP_SECONDS = 20.0
#: Images of a series that are decoded at a time; so many are in memory.
_AT_ONCE = 4
#: Of so many series the masks are remembered, for so long.
_REMEMBERED, _REMEMBERED_SECONDS = 256, 1.0
#: So long a series counts as one without a mask; then it is asked what the PACS has of it.
_REFUSED_SECONDS = 300.0
Series = tuple[str, str]
#: Has work done where images are de-identified; see `Sealer.perform`.
Perform = Callable[[Callable[[Deidentifier, bytes | memoryview], Any], bytes | memoryview], "Future[Any]"]


@dataclass(frozen=True, slots=True)
class SeriesState:
    """For how many seconds the PACS has had what it has of a series, and why no mask can be made from that, if so."""

    seconds: float
    refused: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """When it was found that no mask can be made from these images, and why."""

    at: float
    detail: str
    sop_uids: frozenset[str]


class Masks(Protocol):
    """Where masks are kept; `FaceStore` has each method's contract."""

    def masks(self, study_uid: str, series_uid: str) -> tuple[FaceRule, ...]: ...
    def keep(self, study_uid: str, series_uid: str, mask: FaceRule) -> None: ...
    def note(self, study_uid: str, series_uid: str, sop_uids: list[str]) -> SeriesState: ...
    def refuse(self, study_uid: str, series_uid: str, sop_uids: list[str], detail: str) -> None: ...


def reduce(_deidentifier: Deidentifier, part10: bytes | memoryview) -> Slice | str:
    """Return an image reduced, or why it cannot be; it runs in a worker process."""
    try:
        return read_slice(part10)
    except FaceUnmasked as error:
        return error.detail


class SeriesReader:
    """Reads whole series of the PACS, image by image; what stays of each is a few kilobytes."""

    def __init__(self, pacs: Pacs, perform: Perform) -> None:
        self._pacs = pacs
        self._perform = perform

    def instances(self, study_uid: str, series_uid: str) -> list[InstanceLocator]:
        """Return what the PACS has of a series now, in order of SOP Instance UID.

        Raises:
            Unavailable: the PACS does not say.
        """
        found = {item.locator.sop_uid: item.locator for item in self._pacs.listing(study_uid) if item.locator.series_uid == series_uid}
        return [found[uid] for uid in sorted(found)]

    def slices(self, locators: Sequence[InstanceLocator]) -> Iterator[Slice]:
        """Yield the images, reduced.

        Raises:
            Unavailable: the PACS does not deliver one.
            FaceUnmasked: one cannot be read, or they are too many.
        """
        if len(locators) > MAX_SLICES:
            raise FaceUnmasked("too_many_slices")
        reading: deque[Future[Any]] = deque()
        arriving = self._pacs.retrieve(locators)
        with closing(cast("Any", arriving)):
            for instance in arriving:
                if not isinstance(instance, RetrievedInstance):
                    raise Unavailable(instance.reason, "The PACS cannot deliver an image of the series now.")
                reading.append(self._perform(reduce, bytes(instance.part10)))
                if instance.piece is not None:
                    instance.piece.release()
                if len(reading) == _AT_ONCE:
                    yield _finished(reading.popleft())
        while reading:
            yield _finished(reading.popleft())


def _finished(future: "Future[Any]") -> Slice:
    try:
        found = future.result(_SECONDS)
    except (NotInTime, CancelledError, RuntimeError):
        raise Unavailable("JUDGE_BUSY", "The series cannot be looked at now.") from None
    if not isinstance(found, Slice):
        raise FaceUnmasked(found or "worker_lost")
    return found


class FaceMasks:
    """Makes masks in a thread of its own, one series at a time, and gives those that were made."""

    def __init__(self, store: Masks, quiet_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a series for complete when the PACS has had the same images of it for `quiet_seconds`."""
        self._store = store
        self._quiet = quiet_seconds
        self._clock = clock
        self._reader: SeriesReader | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[Series, tuple[float, tuple[FaceRule, ...]]] = OrderedDict()
        self._asked: dict[Series, None] = {}
        self._refused: dict[Series, _Refusal] = {}
        self._wake = threading.Condition(self._lock)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="face-masks", daemon=True)

    def use(self, reader: SeriesReader) -> None:
        """Read series by `reader`; to be called once, before `start`."""
        self._reader = reader

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the series in hand; others are asked for again."""
        with self._lock:
            self._stopped = True
            self._wake.notify_all()
        self._thread.join(_STOP_SECONDS)

    def rules(self, part10: bytes | memoryview) -> tuple[FaceRule, ...]:
        """Return the mask of a Part 10 file, if there is one: the first that was made from it, so that it is always the same."""
        series, name = _named(part10)
        if series is None:
            return ()
        return next(((mask,) for mask in self._masks(series) if name in mask.members), ())

    def ask(self, part10: bytes | memoryview) -> str:
        """Return why no mask of a file's series can be made; "" if that is not known: it is then going to be made."""
        series, _ = _named(part10)
        if series is None:
            return "no_series"
        sop_uid, now = header_of(part10).sop_uid, self._clock()
        with self._lock:
            refusal = self._refused.get(series)
            if refusal is not None and sop_uid in refusal.sop_uids and now - refusal.at < _REFUSED_SECONDS:
                return refusal.detail
            self._asked[series] = None
            self._wake.notify_all()
        return ""

    def work(self, series: Series) -> None:
        """Make the mask of a series if the PACS has it whole, and none that was made covers it.

        Raises:
            MdmError: the PACS does not answer.
        """
        assert self._reader is not None
        locators = self._reader.instances(*series)
        uids = [locator.sop_uid for locator in locators]
        state = self._store.note(*series, uids)
        detail = state.refused
        if not detail:
            if state.seconds < self._quiet:
                return
            try:
                self._store.keep(*series, make_rule(self._reader.slices(locators)))
            except FaceUnmasked as error:
                detail = error.detail
                self._store.refuse(*series, uids, detail)
                _log.warning("the face of a series cannot be masked", extra={"reason": detail, "instances": len(uids)})
        with self._lock:
            self._known.pop(series, None)
            if detail:
                while len(self._refused) >= _REMEMBERED:
                    self._refused.pop(next(iter(self._refused)))
                self._refused[series] = _Refusal(self._clock(), detail, frozenset(uids))

    def _masks(self, series: Series) -> tuple[FaceRule, ...]:
        with self._lock:
            read_at, masks = self._known.get(series, (float("-inf"), ()))
        if self._clock() - read_at >= _REMEMBERED_SECONDS:
            read_at, masks = self._clock(), self._store.masks(*series)
            with self._lock:
                self._known[series] = read_at, masks
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return masks

    def _run(self) -> None:
        while True:
            with self._lock:
                self._wake.wait_for(lambda: self._stopped or self._asked)
                if self._stopped:
                    return
                series = next(iter(self._asked))
                del self._asked[series]
            try:
                self.work(series)
            except MdmError as error:
                _log.warning("the mask of a series is made later", extra={"reason": error.reason})
            except Exception as error:
                _log.error("the mask of a series was not made", extra={"error": type(error).__name__})


class FaceJudge:
    """A judge that waits for masks; `inner` judges under those that were made."""

    def __init__(self, inner: Judge, masks: FaceMasks) -> None:
        self._inner = inner
        self._masks = masks

    @property
    def rules(self) -> str:
        """The digest of all rules that hold now; an image's mask does not change."""
        return self._inner.rules

    def begin(self, part10: bytes | memoryview, patient: Patient | None) -> "Future[Judgement]":
        """See `port.Judge`."""
        return self._inner.begin(part10, patient)

    def is_settled(self, judgement: Judgement, part10: bytes | memoryview) -> bool:
        """Return whether it is to be judged by `judge`: for want of a mask, or as a curator has settled why it is held back."""
        return _waits(judgement) or self._inner.is_settled(judgement, part10)

    def judge(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file; see `port.Judge`.

        Raises:
            Unavailable: the mask of its series is not made yet.
        """
        judgement = self._inner.judge(part10, patient)
        if _waits(judgement) and not self._masks.ask(part10):
            raise Unavailable("FACE_MASK_PENDING", "The mask of the series' face is made when the PACS has all of it.")
        return judgement


def _waits(judgement: Judgement) -> bool:
    return judgement.outcome is Outcome.QUARANTINED and judgement.reason == FACE_UNMASKED


def _named(part10: bytes | memoryview) -> tuple[Series | None, bytes]:
    """Return the series of a file, None where it names none, and its name among the images of that."""
    try:
        header = header_of(part10)
        opened = open_part10(header.part10)
        name = member(read_image(opened.data, opened.start, opened.encoding))
    except (Invalid, Malformed):
        return None, b""
    return ((header.study_uid, header.series_uid) if header.study_uid and header.series_uid else None), name
