"""`mdm deid`, registration and staging decide alike: the same files through all three, outcome and reason."""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import uuid4

import pydicom
import pydicom.data
import pytest
from mdm_deid import Outcome, Patient, Profile, Pseudonymiser
from mdm_deid.cli.worker import FileWorker, Order, Task
from mdm_deid.pixels.rle import encode_frame
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm.judgement import make_deidentifier
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import InstanceLocator, MissingInstance, RetrievedInstance
from mdm_dicom_srm.register.rules.model import State
from mdm_dicom_srm.stage.sealing.sealed_file import seal
from mdm_wire.errors import Invalid, Unavailable
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from .conftest import SECRET, SERIES, STUDY, FakePacs, InlineJudge, Site, header, part10

pytestmark = pytest.mark.integration

Decision = tuple[str, str]
REAL = Path(pydicom.data.__file__).parent / "test_files"
RULES = """
[[rule]]
name = "regions"
source = "test"
clears = ["ultrasound"]
modalities = ["US"]
keep = "ultrasound_regions"
"""


def spectroscopy() -> bytes:
    """MR spectroscopy has Rows and Columns, and no pixel data (PS3.3 A.36.3)."""
    values = struct.pack("<1024f", *range(1024))
    return part10(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.2",
        Modality="MR",
        PixelData=None,
        Rows=1,
        Columns=1,
        DataPointRows=1,
        DataPointColumns=512,
        SpectroscopyData=values,
    )


def ultrasound(syntax: str = "", pixels: bytes | None = None, **changes: object) -> bytes:
    """An 8-bit grey image that declares a region; compressed where a transfer syntax is given."""
    dataset = pydicom.dcmread(io.BytesIO(part10(Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1")))
    region = pydicom.Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 0, 2, 15, 7
    dataset.SequenceOfUltrasoundRegions = [region]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 16, 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = bytes(range(128)) if pixels is None else pixels
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = bool(syntax)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def embedded_overlay() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(part10()))
    dataset.add_new(0x60000010, "US", 128)
    dataset.add_new(0x60000011, "US", 128)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 15)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


PIXELS = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False)).PixelData
MADE: dict[str, Callable[[], bytes]] = {
    "spectroscopy": spectroscopy,
    "structure set": lambda: part10("rtplan.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT"),
    "waveform": lambda: part10("waveform_ecg.dcm"),
    "report": lambda: part10("reportsi.dcm"),
    "PDF": lambda: part10(SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC", PixelData=None, EncapsulatedDocument=b"%PDF"),
    "presentation state": lambda: part10(SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR", PixelData=None),
    "ultrasound": ultrasound,
    "ultrasound with another layout than a rule can blank": lambda: ultrasound(BitsAllocated=1),
    "ultrasound with too few pixels for a rule": lambda: ultrasound(pixels=bytes(100)),
    "ultrasound whose frame cannot be decoded": lambda: ultrasound(JPEGBaseline8Bit, encapsulate([b"no JPEG at all.."])),
    "ultrasound with more frames than it says": lambda: ultrasound(RLELossless, encapsulate([bytes(70), bytes(70)])),
    "ultrasound in a format nobody decodes": lambda: ultrasound("1.2.840.10008.1.2.4.100", encapsulate([bytes(16)])),
    "embedded overlay": embedded_overlay,
    "no pixel data": lambda: part10(PixelData=None),
    "empty pixel data": lambda: part10(PixelData=b""),
    "one more frame than it says": lambda: part10(PixelData=PIXELS * 2),
    "text after the last pixel": lambda: part10(PixelData=PIXELS + b"Secret^Name " * 4),
    "the patient's name in the pixels": lambda: part10(PixelData=PIXELS[:1000] + b"SECRET77 Secret^Name" + PIXELS[1020:]),
    "compressed, with a comment": lambda: part10(
        "JPEG-lossy.dcm", ConversionType=None, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"
    ),
    "a private class": lambda: part10(SOPClassUID="1.3.12.2.1107.5.9.1"),
    "a retired class": lambda: part10(SOPClassUID="1.2.840.10008.5.1.4.1.1.5", Modality="NM"),
    "a directory": lambda: part10(SOPClassUID="1.2.840.10008.1.3.10"),
}


@pytest.fixture(params=["", RULES], ids=["no pixel rules", "pixel rules"])
def pixels(request: pytest.FixtureRequest, tmp_path: Path) -> PixelRules:
    path = tmp_path / "rules.toml"
    path.write_text(request.param)
    return PixelRules.load(str(path) if request.param else "")


class Ways:
    """The three ways of one site."""

    def __init__(self, site: Site, pixels: PixelRules, directory: Path) -> None:
        self.site, self._directory, self._numbers = site, directory, count()
        self._profile = Profile.shipped("basic")
        self._order = Order(self._profile, Pseudonymiser(SECRET), pixels, directory)
        self._deidentifier = make_deidentifier(self._profile, SECRET, pixels, True)
        site.judge = InlineJudge(self._profile, pixels)

    def command(self, content: bytes, patient: Patient | None = None) -> Decision:
        """What `mdm deid FILE` does, where most files of the study are of `patient`."""
        place = self._directory / str(next(self._numbers))
        place.mkdir()
        (place / "in").write_bytes(content)
        order = Order(self._order.profile, self._order.pseudonymiser, self._order.pixels, place / "out")
        entry = FileWorker(order, place / "part").run(Task(1, place / "in", True, patient))
        return str(entry.outcome), entry.reason.upper()

    def registration(self, content: bytes) -> Decision:
        """What becomes of it after C-STORE; what cannot be read is refused there and then."""
        try:
            (guid,) = self.site.enqueue(header_of(content))
        except Invalid:
            return "REFUSED", ""
        self.site.run()
        state, reason = self.site.states()[guid]
        with self.site.pool.connection() as connection:
            connection.execute("TRUNCATE registration, study, statement, shared_entry CASCADE")
        return state.replace(State.PUBLISHED, Outcome.RELEASED), reason

    def staging(self, content: bytes, patient: Patient | None = None) -> Decision:
        """What staging seals, or why not."""
        sealed = seal(self._deidentifier, content, patient, uuid4(), bytes(32), self._directory / str(next(self._numbers)))
        outcome, reason = sealed.verdict or (Outcome.RELEASED, "")
        return str(outcome), reason


@pytest.fixture
def ways(site: Site, pixels: PixelRules, tmp_path: Path) -> Ways:
    return Ways(site, pixels, tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_the_three_ways_decide_alike(ways: Ways, name: str) -> None:
    content = MADE[name]()
    decision = ways.command(content)
    assert ways.registration(content) == decision
    assert ways.staging(content) == decision


def named(content: bytes) -> bool:
    try:
        return header_of(content).sop_uid != ""
    except Invalid:
        return True


def readable(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[128:132] == b"DICM"


def test_the_three_ways_decide_alike_on_every_public_file(ways: Ways) -> None:
    differences = []
    files = sorted(filter(readable, REAL.rglob("*")))
    for path in files:
        content = path.read_bytes()
        command, registration, staging = ways.command(content), ways.registration(content), ways.staging(content)
        nameless = registration[0] == "REFUSED" and not named(content)  # there is no C-STORE without a name
        expected = ("REFUSED", "") if registration[0] == "REFUSED" and command[0] == "FAILED" else command
        if staging != command or (registration != expected and not nameless):
            differences.append((path.name, command, registration, staging))
    assert differences == []
    assert len(files) > 100


def test_a_pixel_rule_releases_through_the_service_and_metadata_tell_what_is_fetched(site: Site, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    site.judge = InlineJudge(pixels=PixelRules.load(str(tmp_path / "rules.toml")))
    content = ultrasound(RLELossless, encapsulate([encode_frame(bytes(range(128)), 8, 1, 1)]))
    (guid,) = site.enqueue(header_of(content))
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}
    values = site.metadata.entries["/biomed/hospital-a/images"][str(guid)].values
    assert (values["Modality"], values["TransferSyntaxUID"], values["Rows"]) == ("US", RLELossless, 8)
    assert str(values["ImageType"]).startswith("DERIVED")


def test_spectroscopy_is_published(site: Site) -> None:
    (guid,) = site.enqueue(header_of(spectroscopy()))
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}


def test_what_waits_when_the_rules_change_is_judged_again_from_the_pacs(site: Site) -> None:
    image = header()
    (guid,) = site.enqueue(image)
    site.judge = InlineJudge(Profile.shipped("basic"), rules="second")
    site.pacs.away = True
    site.run()
    assert site.states() == {guid: ("RECEIVED", "PACS_UNAVAILABLE")}
    site.pacs = FakePacs({STUDY: [header(BurnedInAnnotation="YES")]})
    site.expire()
    site.run()
    assert site.states() == {guid: ("QUARANTINED", "BURNED_IN_ANNOTATION")}


class SecondPacs(FakePacs):
    """Has what the first one lost."""

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        yield from (replace(item, pacs="second") for item in super().retrieve(instances) if isinstance(item, RetrievedInstance))


def test_an_instance_that_another_pacs_delivers_is_asked_of_that_one_from_then_on(site: Site) -> None:
    (guid,) = site.enqueue(header())
    assert site.registrations.published([guid]) == {}
    site.judge.rules, site.pacs = "second", SecondPacs({STUDY: [header()]})
    site.run()
    assert site.registrations.published([guid])[guid].pacs == "second"


def test_what_is_judged_again_is_kept_over_a_failing_step(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.judge.rules, site.pacs = "second", FakePacs({STUDY: [header()]})
    site.catalog.trouble = OSError()
    site.run()
    site.catalog.trouble = None
    site.expire()
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}
    assert site.pacs.retrieved == 1


def test_what_the_pacs_no_longer_has_fails_and_says_so(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.judge.rules, site.pacs = "second", FakePacs()
    site.run()
    assert site.states() == {guid: ("FAILED", "NOT_IN_PACS")}


def test_what_the_pacs_cannot_send_now_is_tried_again(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.judge.rules, site.pacs = "second", FakePacs(missing="PACS_NOT_DELIVERED")
    site.run()
    assert site.states() == {guid: ("RECEIVED", "PACS_NOT_DELIVERED")}
    site.pacs = FakePacs({STUDY: [header()]})
    site.expire()
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}


def test_what_staging_quarantines_ends_its_generation_and_comes_back_by_a_retry(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    assert site.registrations.locators_of([guid])
    assert site.queue.hold_back(guid, Outcome.QUARANTINED, "SURPLUS_PIXELS")
    assert not site.queue.hold_back(guid, Outcome.QUARANTINED, "ANOTHER"), "it is no longer published"
    following = site.names.guid(f"{SERIES}.1", 1)
    assert site.states() == {guid: ("REMOVING", ""), following: ("QUARANTINED", "SURPLUS_PIXELS")}
    assert site.registrations.locators_of([guid, following]) == {}, "nobody can fetch it"
    site.run()
    assert site.states() == {guid: ("REMOVED", ""), following: ("QUARANTINED", "SURPLUS_PIXELS")}
    assert site.catalog.files == {} and site.keys.dead == {guid}
    assert {path for path, entries in site.metadata.entries.items() if entries} == set()
    assert site.queue.retry([following], "CN=operator") == {following: None}
    site.run()
    assert site.states()[following] == ("PUBLISHED", "")
    assert site.pacs.retrieved == 1


def test_what_staging_filters_comes_back_when_it_arrives_again_though_its_header_is_equal(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    assert site.queue.hold_back(guid, Outcome.FILTERED, "MODALITY")
    assert site.service().enqueue([header()]).queued == 1
    site.run()
    assert site.states() == {guid: ("REMOVED", ""), site.names.guid(f"{SERIES}.1", 1): ("PUBLISHED", "")}


def test_what_staging_cannot_read_keeps_its_guid(site: Site) -> None:
    """The way from the PACS may have spoilt it, so nothing is destroyed."""
    (guid,) = site.enqueue(header())
    site.run()
    assert site.queue.hold_back(guid, Outcome.FAILED, "TRUNCATED")
    assert site.states() == {guid: ("FAILED", "TRUNCATED")}
    assert site.registrations.locators_of([guid]) == {}, "nobody can fetch it"
    assert site.run() == 0 and guid in site.keys.keys
    assert site.queue.retry([guid], "CN=operator") == {guid: None}
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}
    assert site.registrations.locators_of([guid])[guid] is not None


def test_an_instance_of_another_patient_is_held_back_on_all_three_ways(site: Site, tmp_path: Path) -> None:
    ways = Ways(site, PixelRules(), tmp_path)
    decided = Patient("SECRET77", "")
    other = part10(number=2, PatientID="OTHER")
    site.enqueue(header())
    (guid,) = site.enqueue(header_of(other))
    site.run()
    assert site.states()[guid] == ("QUARANTINED", "PATIENT_CONFLICT")
    assert ways.command(other, decided) == ways.staging(other, decided) == ("QUARANTINED", "PATIENT_CONFLICT")
    assert site.pacs.retrieved == 0, "it was judged once, with the study's patient"


def test_what_was_judged_as_of_another_patient_is_judged_again_from_the_pacs(site: Site) -> None:
    """The first instance decides; then it may not be released any more, so that the study is of the patient of the others."""
    first = {"number": 9, "PatientID": "OTHER", "SeriesInstanceUID": f"{SERIES}.9"}
    (held,), (guid,) = site.enqueue(header(**first)), site.enqueue(header())
    site.enqueue(header(**first, BurnedInAnnotation="YES"))
    assert site.judge.judged == 3
    site.run()
    assert site.states() == {held: ("QUARANTINED", "BURNED_IN_ANNOTATION"), guid: ("PUBLISHED", "")}
    assert site.pacs.retrieved == 1
    [entry] = site.metadata.entries["/biomed/hospital-a/patients"].values()
    assert entry.values["PatientID"] == "SECRET77"


def test_a_judgement_holds_nothing_readable_in_the_database(site: Site) -> None:
    site.enqueue(header())
    site.catalog.trouble = Unavailable("CATALOG_UNAVAILABLE", "")
    site.run()
    with site.pool.connection() as connection:
        (sealed,) = connection.execute("SELECT judgement FROM registration").fetchone()
    assert b"RELEASED" not in sealed and b"DICM" not in sealed and SERIES.encode() not in sealed
