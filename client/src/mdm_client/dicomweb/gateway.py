"""The gateway: what DICOMweb asks, answered from records and files. Calls block; use threads."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from mdm_wire.errors import MdmError, NotFound

from mdm_client.client import Client
from mdm_client.dicomweb import model, results
from mdm_client.dicomweb.matching import MAX_LIMIT, Search, parse_search
from mdm_client.dicomweb.presentation import CLASSES, Presentation
from mdm_client.dicomweb.records import IMAGES, SERIES, STUDIES, Record, Records
from mdm_client.dicomweb.study import Studies, Study, ref_of
from mdm_client.image.cache import EncryptedFolder, FileCache
from mdm_client.image.fetching import Fetcher
from mdm_client.image.instance import Instance, read_instance

DEFAULT_MEMORY = 1024**3
_DISK_BYTES = 16 * 1024**3
#: Images on each side of the one looked at that are fetched first; then the rest of the series, as far as half of the memory goes.
_NEIGHBOURS = 8
#: Headers that a search without study and series may fetch.
_FEW = 100
_IMAGE_LEVEL = frozenset({"SOPInstanceUID"})


@dataclass(frozen=True)
class Listing:
    """What QIDO-RS found, and the sites that did not answer, with why."""

    found: list[model.Json]
    failures: Mapping[str, MdmError]


class Gateway:
    """QIDO-RS and WADO-RS over the grid as `client` may see it; close it, or use it in `with`.

    `root` is the address under which it is served. At most `memory` bytes of files are held; with `cache`, what is forgotten is kept there,
    encrypted under a key of this process.
    """

    def __init__(self, client: Client, root: str, *, memory: int = DEFAULT_MEMORY, cache: Path | None = None) -> None:
        self.root = root
        self.records = Records(client)
        self.studies = Studies(self.records)
        self.cache = FileCache(memory, EncryptedFolder(cache, _DISK_BYTES) if cache else None)
        self.files = Fetcher(client, self.cache, partial(read_instance, root=root), Instance.held_bytes)

    def search_studies(self, pairs: Iterable[tuple[str, str]]) -> Listing:
        """Return the studies that the parameters of an address ask for."""
        records, failures = self.records.search(STUDIES, parse_search(pairs))
        summaries = self.records.summaries(records)
        return Listing([model.study_attributes(record, summaries.get(record["study"]), self.root) for record in records], failures)

    def search_series(self, study: str | None, pairs: Iterable[tuple[str, str]]) -> Listing:
        """Return series, of one study or of all."""
        search = parse_search([*pairs, *_given(study, None)])
        records, failures = self.records.search(SERIES, search)
        if study is not None and not search.offset:
            records = [*records, *_meeting(results.series(results.results_of(self.records, study)), search)][: search.limit]
        return Listing([model.series_attributes(record, self.root) for record in records], failures)

    def search_instances(self, study: str | None, series: str | None, pairs: Iterable[tuple[str, str]]) -> Listing:
        """Return instances. Within a study or series, headers are fetched where records do not name them; elsewhere only a few are.

        Raises:
            MdmError: no site answers.
        """
        search = parse_search([*pairs, *_given(study, series)])
        uids = search.values_of("SOPInstanceUID")
        narrow = bool(search.values_of("StudyInstanceUID") or search.values_of("SeriesInstanceUID"))
        if uids and narrow:
            # Some records may name their instances and others not: all of the study are looked at.
            wider = Search(search.without(_IMAGE_LEVEL).conditions)
            records, failures = self.records.search(IMAGES, wider)
            found = [record for record in self._named(records) if record["SOPInstanceUID"] in uids]
            named = found[search.offset : search.offset + search.limit]
        else:
            records, failures = self.records.search(IMAGES, search)
            named = self._named(records, MAX_LIMIT if narrow else _FEW)
        if study is not None and not search.offset:
            named = [*named, *_meeting(results.instances(results.results_of(self.records, study)), search)][: search.limit]
        return Listing([model.image_attributes(record, self.root) for record in named], failures)

    def _named(self, records: Sequence[Record], most: int = MAX_LIMIT) -> list[Record]:
        """Return the records with SOP Instance UIDs, of which at most `most` are read in headers; those without are left out."""
        unnamed = [record for record in records if not record.get("SOPInstanceUID")][:most]
        headers = self.files.headers([ref_of(record) for record in unnamed])
        for record in unnamed:
            header = headers[record["guid"]]
            record["SOPInstanceUID"] = header.uid if isinstance(header, Instance) else None
        return [record for record in records if record.get("SOPInstanceUID")]

    def metadata(self, study: str, series: str | None = None, uid: str | None = None, *, brief: bool = False) -> Iterator[bytes]:
        """Yield the headers of a study, series or instance as DICOM JSON; with `brief`, from records where these suffice.

        Raises:
            MdmError: there is nothing for the caller, or no header can be had.
        """
        found = self.studies.get(study)
        images = [self._image(found, series, uid)] if uid else found.of_series(series)
        wanted = [image for image in images if not (brief and model.suffices(image) and self.files.header(image["guid"]) is None)]
        headers = self.files.headers([ref_of(image) for image in wanted])
        failure: MdmError | None = None
        given = 0
        for image in images:
            header = headers.get(image["guid"])
            if isinstance(header, MdmError):
                failure = header
                continue
            if header is not None:
                found.learn(image, header)
            given += 1
            yield header.header if header is not None else model.brief_header(found, image, self.root)
        if failure is not None and not given:
            raise failure

    def _image(self, study: Study, series: str | None, uid: str) -> Record:
        """Return the record of an instance, looked for in headers where records do not name it.

        Raises:
            NotFound: INSTANCE_NOT_FOUND.
        """
        for attempt in (study, None):
            current = attempt or self.studies.get(str(study.record["study"]), newer=True)
            found = current.image(uid)
            if found is None and current.unnamed:
                unnamed = [image for image in current.unnamed if series in (None, image["series"])]
                headers = self.files.headers([ref_of(image) for image in unnamed])
                for image in unnamed:
                    header = headers[image["guid"]]
                    if isinstance(header, Instance):
                        current.learn(image, header)
                found = current.image(uid)
            if found is not None and series in (None, found["series"]):
                return found
        raise NotFound("INSTANCE_NOT_FOUND", f"{uid[:64]}: no such instance, or it is not for you")

    def instance(self, study: str, series: str | None, uid: str) -> tuple[Instance, bytes]:
        """Return a file; its neighbours are fetched next.

        Raises:
            MdmError: it is not there for the caller, or cannot be had now.
        """
        found = self.studies.get(study)
        image = self._image(found, series, uid)
        answer = self.files.file(ref_of(image))
        self._prefetch(found, image, len(answer[1]))
        return answer

    def instances(self, study: str, series: str | None = None) -> Iterator[tuple[Instance, bytes]]:
        """Yield the files of a study or series, one after the other; one that cannot be had is left out.

        Raises:
            MdmError: none can be had.
        """
        images = self.studies.get(study).of_series(series)
        failure: MdmError | None = None
        given = 0
        for number, image in enumerate(images):
            if number % _NEIGHBOURS == 0:
                self.files.prefetch([ref_of(item) for item in images[number : number + 2 * _NEIGHBOURS]])
            try:
                found = self.files.file(ref_of(image))
            except MdmError as error:
                failure = error
                continue
            given += 1
            yield found
        if failure is not None and not given:
            raise failure

    def sample(self, study: str, series: str | None = None) -> tuple[Instance, bytes]:
        """Return the file that stands for a study or series: the middle image of the first series that has pixels.

        Raises:
            NotFound: NO_IMAGE. MdmError: it cannot be had.
        """
        found = self.studies.get(study)
        for images in [found.of_series(series)] if series else found.images.values():
            image = images[len(images) // 2]
            if image.get("Rows") is not None or "Rows" not in image:
                return self.files.file(ref_of(image))
        raise NotFound("NO_IMAGE", f"{study[:64]}: no image that could be drawn")

    def presentations(self, study: str) -> list[Presentation]:
        """Return the presentation states that came with a study from its PACS, those that the caller may read.

        Not those that users gave back as results: one of them could hide something of others' pictures, who did not ask for it.

        Raises:
            MdmError: one cannot be had now.
        """
        found = []
        for image in self.studies.get(study):
            if image.get("SOPClassUID") in CLASSES and "Rows" in image:
                try:
                    found.append(Presentation.read(self.files.file(ref_of(image))[1]))
                except NotFound:  # neither for the caller nor of use
                    continue
        return found

    def _prefetch(self, study: Study, image: Record, size: int) -> None:
        images = study.images[str(image["series"])]
        place = next(number for number, item in enumerate(images) if item["guid"] == image["guid"])
        order = sorted(range(len(images)), key=lambda number: (abs(number - place), number < place))
        room = self.cache.limit // 2 // max(size, 1)
        self.files.prefetch([ref_of(images[number]) for number in order[1 : max(room, _NEIGHBOURS)]])

    def close(self) -> None:
        """Stop everything and forget all files."""
        self.files.close()
        self.records.close()
        self.cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _meeting(records: Iterable[Record], search: Search) -> list[Record]:
    """Return the records of results that have the values asked for; a condition that is no list of values is met by none."""
    names = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "PatientID": "patient"}

    def meets(record: Record) -> bool:
        return all(
            not one.wild and one.dates is None and str(record.get(names.get(one.keyword, one.keyword))) in one.values
            for one in search.conditions
        )

    return [record for record in records if meets(record)]


def _given(study: str | None, series: str | None) -> list[tuple[str, str]]:
    found = [("StudyInstanceUID", study), ("SeriesInstanceUID", series)]
    return [(name, value) for name, value in found if value is not None]


def array_of(documents: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a JSON array of documents."""
    opening = b"["
    for document in documents:
        yield opening + document
        opening = b","
    yield b"]" if opening == b"," else b"[]"


def dumps(listing: Listing) -> bytes:
    """Return a listing as JSON."""
    return json.dumps(listing.found, separators=(",", ":"), ensure_ascii=False).encode()
