"""The example configuration is complete, and wrong ones are refused in one clear line."""

import tomllib
from pathlib import Path

import pytest
from mdm_dicom_srm.composition.desk import text_policy
from mdm_dicom_srm.composition.site import own_part
from mdm_dicom_srm.config import Settings, TextSettings
from mdm_dicom_srm.register.rules import attribute
from mdm_service.settings import ConfigurationError, load
from mdm_wire.url import is_token

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"


def test_the_example_configuration_is_accepted_and_paths_are_relative_to_it() -> None:
    settings = load(Settings, "dicom-srm", EXAMPLE)
    assert settings.site_secret_file == EXAMPLE.parent / "secret/site-secret"
    assert settings.grid.certificate == EXAMPLE.parent / "tls/dicom-srm.crt"
    assert [(pacs.name, pacs.retrieve) for pacs in settings.pacs] == [("pacs", ("wado-rs", "c-get"))]


def test_the_example_configuration_names_every_registration_key() -> None:
    text = EXAMPLE.read_text()
    for section in ("pacs", "scp", "acl", "registration", "deid"):
        found = getattr(load(Settings, "dicom-srm", EXAMPLE), section)
        for name in type(found[0] if isinstance(found, tuple) else found).model_fields:
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


TWO = """
[[pacs]]
name = "main"
ae_title = "MAIN"
host = "127.0.0.1"
port = 104
retrieve = ["c-move"]
forwards_as = ["ROUTER"]
tls = { ca = "tls/hospital-ca.crt", certificate = "tls/mdm.crt", key = "tls/mdm.key", check_hostname = false }

[[pacs]]
name = "cardio"
ae_title = "CARDIO"
host = "cardio.example"
port = 104
dicomweb_url = "https://cardio.example/dicom-web"
dicomweb_token_file = "secret/token"
dicomweb_tls = { ca = "tls/hospital-ca.crt" }
"""


def with_pacs(tmp_path: Path, tables: str) -> Path:
    before, _, rest = EXAMPLE.read_text().partition("[pacs]")
    (tmp_path / "config.toml").write_text(f"{before}{tables}\n[scp]{rest.partition('[scp]')[2]}")
    return tmp_path / "config.toml"


def test_several_pacs_have_names_and_paths_of_their_own(tmp_path: Path) -> None:
    main, cardio = load(Settings, "dicom-srm", with_pacs(tmp_path, TWO)).pacs
    assert (main.name, cardio.name) == ("main", "cardio")
    assert main.tls is not None and main.tls.key == tmp_path / "tls/mdm.key"
    assert cardio.dicomweb_token_file == tmp_path / "secret/token"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "cardio"', 'name = "main"', "a name of its own"),
        ('ae_title = "CARDIO"', 'ae_title = "ROUTER"', "AE title belongs to one"),
        ('dicomweb_token_file = "secret/token"', 'dicomweb_token_file = "secret/token"\ndicomweb_user = "mdm"', "exclude each other"),
        ("https://cardio", "http://cardio", "https"),
        (', key = "tls/mdm.key"', "", "go together"),
        ('["c-move"]', '["c-store"]', "retrieve"),
    ],
)
def test_several_pacs_that_cannot_be_told_apart_or_reached_are_refused(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in TWO
    path = with_pacs(tmp_path, TWO.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=named):
        load(Settings, "dicom-srm", path)


def test_an_environment_variable_changes_the_only_pacs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDM_DICOM_SRM__PACS__HOST", "pacs.example")
    assert [pacs.host for pacs in load(Settings, "dicom-srm", EXAMPLE).pacs] == ["pacs.example"]


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


def test_each_worker_is_an_instance_with_its_share_of_the_spool(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('workers = 2\ninstance = "srm-1"\n' + EXAMPLE.read_text())
    settings = load(Settings, "dicom-srm", tmp_path / "config.toml")
    (first, name), (second, other) = own_part(settings, 1), own_part(settings, 2)
    assert (name, other) == ("srm-1.1", "srm-1.2")
    assert (first.directory, second.directory) == (settings.spool.directory / "1", settings.spool.directory / "2")
    assert first.quota_bytes == second.quota_bytes == settings.spool.quota_bytes // 2
    alone, name = own_part(settings, 0)
    assert (alone.directory, alone.quota_bytes, name) == (settings.spool.directory, settings.spool.quota_bytes, "srm-1")


def test_workers_do_not_retrieve_by_c_move(tmp_path: Path) -> None:
    example = EXAMPLE.read_text().replace('retrieve = ["wado-rs", "c-get"]', 'retrieve = ["c-move"]')
    assert "c-move" in example
    (tmp_path / "config.toml").write_text("workers = 2\n" + example)
    with pytest.raises(ConfigurationError, match="workers: retrieve by wado-rs or c-get"):
        own_part(load(Settings, "dicom-srm", tmp_path / "config.toml"), 1)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "x" * 64])
def test_an_instance_has_the_name_of_a_label(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.toml").write_text(f'instance = "{name}"\n' + EXAMPLE.read_text())
    with pytest.raises(ConfigurationError, match="instance"):
        load(Settings, "dicom-srm", tmp_path / "config.toml")


def test_without_a_name_an_instance_has_that_of_its_host(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(EXAMPLE.read_text())
    assert is_token(f"{load(Settings, 'dicom-srm', tmp_path / 'config.toml').instance}-{'x' * 43}")


def test_a_search_for_text_that_is_unasked_needs_a_detector_and_a_policy_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXAMPLE.read_text()
    (tmp_path / "config.toml").write_text(text.replace('policy = "propose"', 'policy = "release"', 1))
    with pytest.raises(ConfigurationError, match="policy"):
        load(Settings, "dicom-srm", tmp_path / "config.toml")
    monkeypatch.setattr("mdm_dicom_srm.composition.desk.is_installed", lambda: False)
    for settings, refused in (
        (TextSettings(), False),
        (TextSettings(modalities=("CR",)), True),
        (TextSettings(policy="blank-and-hold"), True),
    ):
        if refused:
            with pytest.raises(ConfigurationError, match="mdm-deid"):
                text_policy(settings)
        else:
            assert not text_policy(settings).looks_unasked
