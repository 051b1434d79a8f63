"""Every procedure of docs/operator, as it stands there, on a running site."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from mdm_service.server import probe
from mdm_site.pki import DevelopmentCa
from mdm_site.site import BY_NAME
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.repository import EXECUTED, PROCEDURES, execute
from mdm_testing.stack import Mdm
from pynetdicom import AE

pytestmark = [pytest.mark.e2e, pytest.mark.compose, pytest.mark.timeout(420)]


def fetches(mdm: Mdm, image: Image) -> bool:
    """Return whether a stored image is found and fetched."""
    (row,) = mdm.registered(image.patient_id)
    result, files = mdm.get("alice", row["lfn"])
    return result.code == 0 and len(files) == 1


@pytest.fixture(scope="module")
def registered(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image that was there before."""
    image = make_image(tmp_path_factory.mktemp("operations") / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    return image


def everybody_is_healthy(stack: ComposeStack) -> None:
    for name in BY_NAME:
        stack.start(name)


def test_a_new_site_is_made_and_completed(tmp_path):
    site = tmp_path / "site"
    execute("init", SITE=site)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    execute("init", SITE=site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert "mdm.hospital-a.example:7001" in (site / "client" / "operator" / "client.toml").read_text()


def test_starting_what_runs_changes_nothing(stack: ComposeStack):
    before = {name: stack.inspect(name)["State"]["StartedAt"] for name in BY_NAME}
    assert "catalog" in execute("start", SITE=stack.site)
    assert {name: stack.inspect(name)["State"]["StartedAt"] for name in BY_NAME} == before


def test_a_user_is_added_banned_and_revoked(stack: ComposeStack, mdm: Mdm, registered: Image):
    lfn = mdm.registered(registered.patient_id)[0]["lfn"]
    banned = (stack.site / "trust" / "banned").read_text()
    execute("add-user", SITE=stack.site)
    config = stack.client_config("alice").parents[1] / "dora" / "client.toml"

    def reads() -> bool:
        return mdm("dora", "get", lfn, "--force", "-o", str(mdm.scratch / "dora"), config=config).code == 0

    assert eventually(reads)
    execute("ban", SITE=stack.site)
    assert eventually(lambda: not reads())
    (stack.site / "trust" / "banned").write_text(banned)
    assert eventually(reads)
    execute("revoke", SITE=stack.site)
    assert eventually(lambda: not reads())


def test_the_hospitals_own_pacs_forwards_through_the_relay(stack: ComposeStack, mdm: Mdm, tmp_path):
    """The test plays the PACS that forwards; dicom-srm finds the image in its PACS, where it was stored unnoticed."""
    answers = execute("connect-pacs", SITE=stack.site).splitlines()
    assert len([line for line in answers if "  ok  " in line]) >= 8 and not [line for line in answers if "FAILED" in line]
    everybody_is_healthy(stack)
    stack.stop("pacs-forwarder")
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    scp, dataset = stack.description["scp"], image.read()

    def forwarded() -> bool:
        entity = AE("ORTHANC")
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate(scp["host"], scp["port"], ae_title=scp["aet"])
        if not association.is_established:
            return False
        status = association.send_c_store(dataset)
        association.release()
        return "Status" in status and status.Status == 0

    assert eventually(forwarded)
    assert fetches(mdm, image)
    stack.start("pacs")
    stack.docker("start", stack.container("pacs-forwarder"))


def test_certificates_that_expire_are_renewed(stack: ComposeStack, mdm: Mdm, registered: Image):
    ca = stack.authority
    soon = datetime.now(UTC) + timedelta(days=1)
    ca.issue(ca.subject("catalog"), hosts=("catalog", "127.0.0.1", "localhost"), name="catalog", not_after=soon)
    before = (stack.site / "catalog" / "tls.crt").read_bytes()
    execute("renew", SITE=stack.site)
    assert (stack.site / "catalog" / "tls.crt").read_bytes() != before
    everybody_is_healthy(stack)
    assert fetches(mdm, registered)


def test_key_encryption_keys_are_rotated_while_serving(stack: ComposeStack, mdm: Mdm, registered: Image):
    file = stack.site / "keystore-a" / "kek"
    old = file.read_text().strip()
    execute("rotate-kek", SITE=stack.site)
    assert old not in file.read_text()
    stack.docker("restart", stack.container("keystore-a"))
    everybody_is_healthy(stack)
    stack.stop("keystore-b")
    try:
        assert fetches(mdm, registered), "shares of keystore-a open under the new key only"
    finally:
        stack.start("keystore-b")


def test_every_store_is_backed_up_and_restored_after_its_loss(stack: ComposeStack, mdm: Mdm, registered: Image, tmp_path):
    assert fetches(mdm, registered)
    backup = tmp_path / "backup"
    execute("backup", SITE=stack.site, BACKUP=backup)
    assert registered.patient_id.encode() not in b"".join((backup / f"{name}.dump").read_bytes() for name in BY_NAME if name != "metadata")
    for name in BY_NAME:
        database = stack.container(f"{name}-db")
        stack.docker("stop", stack.container(name))
        stack.docker("rm", "--force", database)
        stack.docker("volume", "rm", f"{stack.project}_{name}-db")
    execute("restore", SITE=stack.site, BACKUP=backup)
    everybody_is_healthy(stack)
    assert fetches(mdm, registered)


def test_an_upgrade_to_the_same_version_leaves_everything_running(stack: ComposeStack, mdm: Mdm, registered: Image):
    execute("upgrade", SITE=stack.site)
    everybody_is_healthy(stack)
    assert fetches(mdm, registered)


def test_metrics_and_logs_are_read(stack: ComposeStack):
    assert "mdm_rpc_calls_total" in execute("metrics", SITE=stack.site)
    assert '"service": "dicom-srm"' in execute("logs", SITE=stack.site)


def test_a_site_runs_with_certificates_of_another_authority(stack: ComposeStack, tmp_path):
    """On a copy of the site, without starting it a second time: the configuration is what each service accepts."""
    site = tmp_path / "site"
    shutil.copytree(stack.site, site)
    ca = DevelopmentCa(tmp_path / "authority", "Example Hospital")
    for name in BY_NAME:
        for owner in (name, f"{name}-db"):
            files = ca.issue(ca.subject(owner), hosts=(owner, "localhost", stack.address))
            shutil.copy(files.certificate, site / owner / "tls.crt")
            shutil.copy(files.key, site / owner / "tls.key")
    operator = ca.issue(ca.subject("operator"), hosts=())
    for name in ("ca.crt", "authorities.crt"):
        shutil.copy(ca.certificate_file, site / "trust" / name)
    shutil.copy(ca.crl_file, site / "trust" / "ca.crl")
    saved = {path: path.read_bytes() for path in stack.site.rglob("*") if path.is_file() and path.parent.name != "ca"}
    try:
        for path in saved:
            changed = site / path.relative_to(stack.site)
            path.write_bytes(changed.read_bytes())
        execute("own-authority", SITE=stack.site)
        stack.mdm_site("renew")
        for name in BY_NAME:
            serving = partial(probe.is_serving, stack.address_of(name), operator.certificate, operator.key, ca.certificate_file)
            assert eventually(serving), name
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
        stack.docker("restart", *(stack.container(name) for name in (*(f"{name}-db" for name in BY_NAME), *BY_NAME)))
        time.sleep(1)
        everybody_is_healthy(stack)


def test_a_service_gets_more_workers(stack: ComposeStack, mdm: Mdm, registered: Image):
    file = stack.site / "catalog" / "service.toml"
    saved = file.read_bytes()
    try:
        assert "2 workers" in execute("workers", SITE=stack.site)
        stack.start("catalog")
        eventually(lambda: "mdm_workers 2.0" in execute("metrics", SITE=stack.site))
        assert fetches(mdm, registered)
    finally:
        file.write_bytes(saved)
        stack.docker("restart", stack.container("catalog"))
        stack.start("catalog")


def test_what_dicom_srm_refuses_is_in_the_forwarders_list(stack: ComposeStack):
    everybody_is_healthy(stack)
    assert "Traceback" not in execute("refused", SITE=stack.site)


def test_no_procedure_is_left_out():
    """Those about two sites are in two_sites/test_trust.py, those about several instances in test_container_instances.py."""
    assert {name for name in PROCEDURES if not name.startswith(("two-sites-", "instances"))} <= EXECUTED
