"""The example configuration is complete, and wrong ones are refused in one clear line."""

import tomllib
from pathlib import Path

import pytest
from mdm_dicom_srm.config import Settings
from mdm_dicom_srm.register.rules import attribute
from mdm_service.errors import ConfigurationError
from mdm_service.process.main import check
from mdm_service.settings import load

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"


def test_the_example_configuration_is_accepted_and_paths_are_relative_to_it() -> None:
    settings = load(Settings, "dicom-srm", EXAMPLE)
    assert settings.site_secret_file == EXAMPLE.parent / "secret/site-secret"
    assert settings.grid.certificate == EXAMPLE.parent / "tls/dicom-srm.crt"
    assert settings.pacs.retrieve == ("wado-rs", "c-get")


def test_the_example_configuration_names_every_registration_key() -> None:
    text = EXAMPLE.read_text()
    for section in ("pacs", "scp", "acl", "registration", "deid"):
        for name in type(getattr(load(Settings, "dicom-srm", EXAMPLE), section)).model_fields:
            assert name in text, f"[{section}] {name}"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('site = "hospital-a"', 'site = "Hospital A"', "site"),
        ('ae_title = "ORTHANC"', 'ae_title = "AN AE TITLE THAT IS TOO LONG"', "ae_title"),
        ('dicomweb_url = "http://127.0.0.1:8042/dicom-web"', "", "dicomweb_url"),
        ('retrieve = ["wado-rs", "c-get"]', "retrieve = []", "retrieve"),
        ("workers = 2", "workers = 2\nworkerz = 3", "workerz"),
        ('permissions = "rlxg"', 'permissions = "read"', "permissions"),
        ('allowed_calling_ae_titles = ["ORTHANC"]', "allowed_calling_ae_titles = []", "allowed_calling_ae_titles"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(tmp_path: Path, old: str, new: str, named: str) -> None:
    text = EXAMPLE.read_text()
    assert old in text
    (tmp_path / "config.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=named):
        load(Settings, "dicom-srm", tmp_path / "config.toml")


def test_the_shipped_attributes_cover_what_researchers_ask_for() -> None:
    names = {collection: {item.name for item in items} for collection, items in attribute.load(None).items()}
    assert {"StudyDate", "PatientSex", "PatientAge"} <= names["studies"]
    assert "SeriesNumber" in names["series"]
    assert {"Modality", "SOPClassUID", "BodyPartExamined", "Manufacturer", "ManufacturerModelName", "Rows", "Columns"} <= names["images"]
    assert {"NumberOfFrames", "InstanceNumber", "SliceThickness", "PixelSpacing", "BitsStored"} <= names["images"]
    assert {"PhotometricInterpretation", "TransferSyntaxUID"} <= names["images"]


@pytest.mark.parametrize(
    "text",
    [
        "not TOML",
        "[pictures]\nRows = { type = 'int' }",
        "[images]\nNotAKeyword = { type = 'int' }",
        "[images]\nRows = { type = 'complex' }",
        "[images]\nRows = { type = 'int', colour = 'red' }",
        "[images]\nManufacturer = { type = 'text', length = 5000, indexed = true }",
        "[images]\nRows = 3",
    ],
)
def test_wrong_attributes_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "attributes.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"attributes\.toml"):
        attribute.load(file)


def test_the_example_is_plain_toml() -> None:
    assert tomllib.loads(EXAMPLE.read_text())["deid"]["profile"] == "basic"


def test_more_than_one_process_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("workers = 2\n" + EXAMPLE.read_text())
    with pytest.raises(ConfigurationError, match="one process, not 2: storage SCP"):
        check(load(Settings, "dicom-srm", tmp_path / "config.toml"))
