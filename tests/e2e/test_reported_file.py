"""Files of kinds with which users reported trouble come out right, through the PACS and through `mdm deid` alike."""

from collections.abc import Mapping
from pathlib import Path

import pydicom
import pytest
from mdm_deid import Pseudonymiser
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack
from pydicom.encaps import generate_frames

from tests.e2e import reported_file

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Incorrect value for Specific Character Set"),  # of an original
    pytest.mark.filterwarnings("ignore:Invalid value for VR"),
]


def uid_of(path: Path) -> str:
    """Return a file's SOP Instance UID."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


Released = Mapping[str, pydicom.FileDataset]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return reported_file.write(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def fetched(stack: Stack, originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What alice gets of them once a modality has stored them in the PACS."""
    mdm = Mdm(stack, tmp_path_factory.mktemp("fetched"))
    (secret,) = {path for path in stack.secret_files() if path.name == "site-secret"}
    pseudonyms = Pseudonymiser(secret.read_bytes())
    guids = {name: str(pseudonyms.guid(uid_of(path))) for name, path in originals.items()}
    stack.store(*originals.values())
    assert eventually(lambda: mdm("alice", "stat", *guids.values()).code == 0, timeout=90), "not all of them are visible"
    found = {}
    for name, guid in guids.items():
        result, files = mdm.get("alice", guid)
        assert (result.code, len(files)) == (0, 1), (name, result.err)
        found[name] = files[0]
    return found


@pytest.fixture(scope="module")
def alone(stack: Stack, originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `mdm deid` makes of them under the site's profile, without any server."""
    directory = tmp_path_factory.mktemp("alone")
    secret = directory / "secret"
    secret.write_bytes(bytes(range(32)))
    secret.chmod(0o600)
    arguments = ("--profile", "research", "--secret-file", str(secret), "-o", str(directory / "out"))
    result = Mdm(stack, directory)("alice", "deid", *map(str, originals.values()), *arguments)
    assert result.code == 0, result.err + result.out
    outputs = {uid_of(path): path for path in (directory / "out").rglob("*.dcm")}
    pseudonyms = Pseudonymiser(secret.read_bytes())
    return {name: outputs[pseudonyms.uid(uid_of(path))] for name, path in originals.items()}


@pytest.fixture(params=["fetched", "alone"])
def released(request: pytest.FixtureRequest) -> Released:
    paths: dict[str, Path] = request.getfixturevalue(request.param)
    return {name: pydicom.dcmread(path) for name, path in paths.items()}


def test_pixels_of_unshared_colours_are_untouched(released: Released, originals: dict[str, Path]):
    assert released["colours"].PixelData == pydicom.dcmread(originals["colours"]).PixelData


@pytest.mark.parametrize("modality", ["SM", "ES", "RG", "IVOCT", "RWV"])
def test_a_modality_stays_though_a_person_and_a_station_are_called_like_it(released: Released, modality: str):
    assert released[f"modality-{modality}"].Modality == modality
    assert modality not in str(released[f"modality-{modality}"].get("OperatorsName", ""))


def test_an_object_without_pixel_data_is_released(released: Released):
    assert released["spectroscopy"].SpectroscopyData == b"\0\0\x80\x3f" * 8


def test_the_record_of_an_earlier_step_stays(released: Released):
    dataset = released["face"]
    assert "113102" in {item.CodeValue for item in dataset.DeidentificationMethodCodeSequence}
    assert {item.CodingSchemeDesignator for item in dataset.DeidentificationMethodCodeSequence} == {"DCM"}
    methods = dataset["DeidentificationMethod"].value
    assert any("mri_reface" in method for method in methods)
    assert any(method.startswith("MDM") for method in methods)


def test_regions_keep_their_names_or_get_others_never_each_others(released: Released):
    names = [item.ROIName for item in released["regions"].StructureSetROISequence]
    assert len(set(names)) == len(reported_file.REGIONS)
    known = {"SpinalCord", "SpinalCord_PRV05", "GTVp", "Cochlea_L", "Glnd_Submand_L", "PTV"}
    for original, name in zip(reported_file.REGIONS, names, strict=True):
        assert name == original if original in known else name == original or name.startswith("LABEL_")
    assert "Zorgvliet" not in "".join(names)


def test_a_misspelt_character_set_is_written_right_and_hides_no_name(released: Released):
    dataset = released["charset"]
    assert dataset.SpecificCharacterSet == "ISO_IR 100"
    assert "igbrodt" not in str(dataset).lower()


def test_fill_bytes_hide_no_exif_data(released: Released):
    (frame,) = generate_frames(released["exif"].PixelData, number_of_frames=1)
    assert reported_file.OWNER not in frame
    assert frame.startswith(b"\xff\xd8")


def test_a_study_date_is_read_where_it_can_mean_one_day_and_is_else_empty(released: Released):
    dates = {name: released[f"date-{name}"].get("StudyDate") for name in ("iso", "acr", "zeros", "ambiguous")}
    assert dates["iso"] == dates["acr"] != ""
    assert {dates["zeros"], dates["ambiguous"]} <= {"", None}


def test_an_unreadable_study_date_is_null_in_the_metadata(fetched: dict[str, Path], stack: Stack, tmp_path: Path):
    studies = {
        pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID: name for name, path in fetched.items() if name.startswith("date")
    }
    rows = Mdm(stack, tmp_path).query("alice", 'SELECT study, StudyDate FROM "/biomed/hospital-a/studies"')
    found = {studies[row["study"]]: row["StudyDate"] for row in rows if row["study"] in studies}
    assert found["date-iso"] == found["date-acr"] != None  # noqa: E711 - compared in a chain
    assert (found["date-zeros"], found["date-ambiguous"]) == (None, None)


def test_slides_and_scanners_stay_distinct(released: Released):
    slides = [released["slide-1"], released["slide-2"]]
    for keyword in ("ContainerIdentifier", "StudyID"):
        values = [slide.get(keyword) for slide in slides]
        assert len(set(values)) == 2, keyword
        assert not any("S21" in value for value in values)
