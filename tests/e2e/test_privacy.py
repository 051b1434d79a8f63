"""Nothing identifying is stored but in the PACS and the collection `patients`: every other place is searched for planted values."""

import base64
from collections.abc import Iterator

import psycopg
import pytest
from mdm_site.site import BY_NAME
from mdm_testing.image import Image, make_image
from mdm_testing.stack import Mdm, Stack
from psycopg import sql

pytestmark = pytest.mark.e2e

PATIENTS = "/biomed/hospital-a/patients"


@pytest.fixture(scope="module")
def images(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    """A registered and a fetched image, and one that waits in quarantine, all with canary values."""
    folder = tmp_path_factory.mktemp("privacy")
    mdm = Mdm(stack, folder)
    kept = make_image(folder / "kept.dcm", "CT_small.dcm")
    held = make_image(folder / "held.dcm", "examples_ybr_color.dcm")  # ultrasound: names may be burned in
    stack.store(kept.path, held.path)
    (row,) = mdm.registered(kept.patient_id)
    result, files = mdm.get("alice", row["lfn"])
    assert (result.code, len(files)) == (0, 1), result.err
    # Errors are places too: identifiers in what users type must not reach a log.
    mdm("mallory", "query", f"SELECT PatientName FROM \"{PATIENTS}\" WHERE PatientID = '{kept.patient_id}'")
    mdm("alice", "ls", f"/biomed/hospital-a/{kept.patient_name}")
    mdm("operator", "register", "--study", kept.study_uid)
    return [kept, held]


def forms(secrets: tuple[str, ...]) -> list[bytes]:
    """Return the values in every encoding in which they might be stored."""
    found: list[bytes] = []
    for secret in secrets:
        plain = secret.encode()
        found += [plain, plain.lower(), secret.encode("utf-16-le"), plain.hex().encode(), base64.b64encode(plain).rstrip(b"=")[:-1]]
    return found


def test_no_file_of_the_suite_holds_an_identifier(images, stack: Stack):
    staged = stack.staged()
    assert staged, "nothing was staged"
    wanted = [form for image in images for form in forms(image.secrets)]
    assert [name for name, content in {**staged, **stack.logs()}.items() for form in wanted if form in content] == []


def rows_outside_patients(connection: psycopg.Connection) -> Iterator[tuple[str, bytes]]:
    """Yield every row of every table as text, except the entries of sensitive collections and what hangs on them."""
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    names = {name for (name,) in tables}
    sensitive: set[int] = set()
    if "collection" in names:
        sensitive = {number for (number,) in connection.execute("SELECT id FROM collection WHERE sensitive")}
        assert sensitive, "patients must be marked as sensitive"
    for name in names:
        query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name))
        if name in ("entry", "unique_value") and sensitive:
            query += sql.SQL(" WHERE NOT (t.collection_id = ANY ({}))").format(sql.Literal(sorted(sensitive)))
        for (row,) in connection.execute(query):
            yield name, row.encode()


def test_no_database_holds_an_identifier_outside_patients(images, stack: Stack):
    wanted = [form for image in images for form in forms(image.secrets)]
    leaks = set()
    for service in BY_NAME:
        with psycopg.connect(stack.database(service)) as connection:
            for table, row in rows_outside_patients(connection):
                leaks |= {(service, table) for form in wanted if form in row}
    assert leaks == set()


def test_the_search_would_find_a_leak(images, stack: Stack, mdm: Mdm):
    """The collection `patients` does hold the values, so the search above is not blind."""
    rows = mdm.query("carol", f"SELECT PatientName FROM \"{PATIENTS}\" WHERE PatientID = '{images[0].patient_id}'")
    assert rows == [{"PatientName": images[0].patient_name}]
    with psycopg.connect(stack.database("metadata")) as connection:
        found = connection.execute("SELECT count(*) FROM entry WHERE entry::text LIKE %s", (f"%{images[0].patient_id}%",)).fetchone()
    assert found == (1,)


def test_no_name_in_the_catalog_holds_an_identifier(images, mdm: Mdm):
    listing = mdm("alice", "--json", "ls", "-l", "-R", "/biomed")
    assert listing.code == 0, listing.err
    assert "/hospital-a/" in listing.out
    assert [secret for image in images for secret in image.secrets if secret in listing.out] == []


def test_a_suspect_of_burned_in_text_is_not_published(images, mdm: Mdm):
    sql_text = f"SELECT patient FROM \"{PATIENTS}\" WHERE PatientID = '{images[1].patient_id}'"
    assert mdm.query("carol", sql_text) == []


def test_secrets_are_readable_by_their_owner_only(stack: Stack):
    keys = stack.secret_files()
    assert len(keys) > 10
    assert [path for path in keys if path.stat().st_mode & 0o077] == []
