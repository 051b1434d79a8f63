"""A study as the grid's records have it: its series, its images in order, and which image has which SOP Instance UID."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mdm_wire.errors import NotFound

from mdm_client.dicomweb.matching import Condition, Search
from mdm_client.dicomweb.records import IMAGES, SERIES, STUDIES, Record, Records
from mdm_client.dicomweb.results import instances, results_of, series
from mdm_client.image.fetching import FileRef
from mdm_client.image.instance import Instance

_FRESH_SECONDS = 60.0
#: A UID that is not found is looked for anew, but not each time somebody asks.
_AGAIN_SECONDS = 2.0
_KEPT = 32


@dataclass
class Study:
    """Records of a study; `images` are in the order of series and instance number."""

    record: Record
    series: dict[str, Record]
    images: dict[str, list[Record]]
    read_at: float = field(default_factory=time.monotonic)
    _uids: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for image in self:
            if image.get("SOPInstanceUID"):
                self._uids[str(image["SOPInstanceUID"])] = image

    def __iter__(self) -> Iterator[Record]:
        for images in self.images.values():
            yield from images

    def of_series(self, series: str | None) -> list[Record]:
        """Return the images of a series, or of all.

        Raises:
            NotFound: SERIES_NOT_FOUND.
        """
        if series is None:
            return list(self)
        if series not in self.images:
            raise NotFound("SERIES_NOT_FOUND", f"{series[:64]}: no such series in the study, or it is not for you")
        return self.images[series]

    def image(self, uid: str) -> Record | None:
        """Return the image of a SOP Instance UID; None while it is not known."""
        return self._uids.get(uid)

    def learn(self, record: Record, instance: Instance) -> None:
        """Note the UID that an image's own header has."""
        self._uids[instance.uid] = record

    @property
    def unnamed(self) -> list[Record]:
        """The images whose SOP Instance UID no record and no header said yet."""
        known = {record["guid"] for record in self._uids.values()}
        return [image for image in self if image["guid"] not in known]


def ref_of(image: Record) -> FileRef:
    """Return what fetches an image."""
    return FileRef(image["guid"], str(image["lfn"]), str(image["site"]), str(image["grid"]))


class Studies:
    """Studies by UID; those asked for last are kept for a minute."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Study] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}

    def get(self, uid: str, *, newer: bool = False) -> Study:
        """Return a study; with `newer`, one that was read within the last seconds.

        Raises:
            NotFound: STUDY_NOT_FOUND: there is none, or not for the caller.
        """
        age = _AGAIN_SECONDS if newer else _FRESH_SECONDS
        with self._lock:
            reading = self._reading.setdefault(uid, threading.Lock())
        with reading:
            found = self._kept.get(uid)
            if found is None or time.monotonic() - found.read_at > age:
                found = self._read(uid)
            with self._lock:
                self._kept[uid] = found
                self._kept.move_to_end(uid)
                while len(self._kept) > _KEPT:
                    self._reading.pop(self._kept.popitem(last=False)[0], None)
            return found

    def _read(self, uid: str) -> Study:
        search = Search((Condition("StudyInstanceUID", (uid,)),), limit=100_000)
        found: dict[str, Sequence[Record]] = {level: self._records.search(level, search)[0] for level in (STUDIES, SERIES, IMAGES)}
        images: dict[str, list[Record]] = {}
        for image in found[IMAGES]:
            images.setdefault(str(image["series"]), []).append(image)
        results = results_of(self._records, uid)
        for result in instances(results):
            images.setdefault(str(result["series"]), []).append(result)
        if not images:
            with self._lock:
                self._kept.pop(uid, None)
            raise NotFound("STUDY_NOT_FOUND", f"{uid[:64]}: no such study, or it is not for you")
        # A study whose record is not for the caller still has images that are.
        first = (found[IMAGES] or results)[0]
        record = found[STUDIES][0] if found[STUDIES] else {key: first[key] for key in ("study", "patient", "site", "grid")}
        return Study(record, {str(item["series"]): item for item in (*series(results), *found[SERIES])}, images)
