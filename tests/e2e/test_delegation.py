"""Jobs act for their user: each reads its own series by a token and a certificate of its own, and nothing else."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pydicom
import pytest
from mdm_client.cli.error import NOT_FOUND
from mdm_client.client import Client
from mdm_testing.image import Image, make_image
from mdm_testing.stack import Mdm, Result, Stack
from mdm_wire.errors import NotFound

pytestmark = pytest.mark.e2e

JOBS = 5
IMAGES = "/biomed/hospital-a/images"


@dataclass(frozen=True)
class Job:
    """A job with a certificate of its own and a user's token; it never has the user's key."""

    mdm: Mdm
    config: Path
    certificate: Path
    token: Path

    def __call__(self, *arguments: str) -> Result:
        return self.mdm("alice", "--delegation", str(self.token), *arguments, config=self.config)

    def get(self, *targets: str) -> tuple[Result, list[Path]]:
        """Fetch into the directory beside the job's token."""
        directory = self.token.with_suffix(".out")
        result = self("get", *targets, "-o", str(directory))
        return result, sorted(path for path in directory.rglob("*") if path.is_file()) if directory.exists() else []


@pytest.fixture(scope="module")
def rows(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Five images, each the first of a series; the last two are of one series."""
    folder = tmp_path_factory.mktemp("series")
    images: list[Image] = [make_image(folder / f"{number}.dcm", "CT_small.dcm", number=1) for number in range(JOBS - 1)]
    images.append(make_image(folder / "beside.dcm", "CT_small.dcm", of=images[-1], number=2))
    stack.store(*(image.path for image in images))
    mdm = Mdm(stack, folder)
    last = mdm.registered(images[-1].patient_id, 2)
    return [*(mdm.registered(image.patient_id)[0] for image in images[:-2]), *last]


@pytest.fixture
def job(stack: Stack, mdm: Mdm, tmp_path: Path):
    """Return a function that gives a job of a name a token of alice's to read paths."""

    def make(name: str, *paths: str, life: str = "1h") -> Job:
        files = stack.authority.issue(stack.authority.subject(name), name=name)
        config = tmp_path / f"{name}.toml"
        text = stack.client_config("alice").read_text()
        lines = [line for line in text.splitlines() if line.split("=")[0].strip() not in ("certificate", "key", "ca")]
        identity = [f'certificate = "{files.certificate}"', f'key = "{files.key}"', f'ca = "{files.ca}"']
        config.write_text("\n".join([*identity, *lines]))
        token = tmp_path / f"{name}.token"
        reads = [part for path in paths for part in ("--read", path)]
        made = mdm("alice", "--json", "delegate", "--to", str(files.certificate), *reads, "--for", life, "-o", str(token))
        assert made.code == 0, made.err
        return Job(mdm, config, files.certificate, token)

    return make


def test_jobs_fetch_their_own_series_and_no_other_and_none_has_the_key(rows, job):
    directories = [row["lfn"].rsplit("/", 1)[0] for row in rows[: JOBS - 1]]
    jobs = [*(job(f"job-{number}", lfn) for number, lfn in enumerate(directories)), job("job-one", rows[-1]["lfn"])]
    own = [*directories, rows[-1]["lfn"]]
    with ThreadPoolExecutor(2) as pool:
        fetched = list(pool.map(lambda pair: pair[0].get(pair[1]), zip(jobs, own, strict=True)))
    for (result, files), row in zip(fetched, rows, strict=True):
        assert result.code == 0, result.err
        assert row["series"] in {pydicom.dcmread(path).SeriesInstanceUID for path in files}
    assert [len(files) for _, files in fetched] == [1] * (JOBS - 2) + [2, 1]
    for one in jobs:
        assert "alice" not in one.config.read_text()
    other, _ = jobs[0].get(directories[1])
    beside, _ = jobs[-1].get(rows[-2]["lfn"])
    by_guid, _ = jobs[0].get(rows[1]["guid"])
    above = jobs[0]("ls", directories[0].rsplit("/", 2)[0])
    assert [result.code != 0 for result in (other, beside, by_guid, above)] == [True] * 4
    assert len(jobs[0].get(directories[0])[1]) == 1


def test_a_job_sees_metadata_and_keys_of_its_own_study_only_and_changes_nothing(rows, job):
    directory = rows[0]["lfn"].rsplit("/", 1)[0]
    one = job("job-meta", directory)
    found = one("--json", "query", f'SELECT guid FROM "{IMAGES}"')
    assert found.code == 0, found.err
    assert [row["guid"] for row in found.rows()] == [rows[0]["guid"]]
    with Client.load(one.config, delegation=one.token) as client:
        keys = client.keystores.get_keys([UUID(rows[0]["guid"]), UUID(rows[1]["guid"])])
    assert [type(key) for key in keys.values()] == [bytes, NotFound], "keystores know the lists, not the paths"
    for command in (
        ("acl", "grant", directory, "authenticated", "r"),
        ("comment", directory, "mine"),
        ("rm", rows[0]["lfn"]),
        ("key", "stat", rows[1]["guid"]),
        ("delegate", "--to", str(one.certificate), "--read", directory),
        ("delegate", "revoke", "A" * 24),
    ):
        assert one(*command).code != 0, command


def test_a_token_is_worth_nothing_to_another_certificate_and_after_its_revocation(rows, job, stack, mdm):
    directory = rows[0]["lfn"].rsplit("/", 1)[0]
    one, other = job("job-good", directory), job("job-thief", rows[1]["lfn"])
    stolen = mdm("alice", "--delegation", str(one.token), "stat", directory, config=other.config)
    assert "another certificate" in stolen.err
    assert one("stat", directory).code == 0
    listed = mdm("alice", "--json", "delegate", "ls").rows()
    (mine,) = [item for item in listed if item["job"] == f"{stack.authority.subject('job-good')}"]
    assert mine["paths"] == [directory]
    by_other = mdm("mallory", "delegate", "revoke", mine["id"])
    assert by_other.code != 0
    assert "revoke it where, and as who, it was made" in by_other.err
    assert one("stat", directory).code == 0, "only the user's own revocation counts"
    revoked = mdm("alice", "delegate", "revoke", mine["id"])
    assert revoked.code == 0, revoked.err
    assert mdm("alice", "delegate", "revoke", mine["id"]).code == 0, "again is harmless"
    for command in (("stat", directory), ("query", f'SELECT guid FROM "{IMAGES}"'), ("get", directory, "-o", str(mdm.scratch / "no"))):
        assert "revoked" in one(*command).err, command


def test_rights_withdrawn_after_signing_are_withdrawn_from_the_job_and_the_audit_names_both(rows, job, mdm, stack):
    study = "/".join(rows[2]["lfn"].split("/")[:5])
    one = job("job-late", study)
    assert one.get(study)[0].code == 0
    shown = [mdm("operator", "--json", "key", "audit", "show", name, "--id", rows[2]["guid"]) for name in "abc"]
    named = json.dumps([result.rows() for result in shown])  # two of the three gave their shares
    assert f"{stack.authority.subject('alice')} by {stack.authority.subject('job-late')}" in named
    groups, banned = stack.trust_directory / "groups.toml", stack.trust_directory / "banned"
    members, bans, alice = groups.read_text(), banned.read_text(), stack.authority.subject("alice")
    assert alice in members
    try:
        groups.write_text(members.replace(alice, stack.authority.subject("nobody")))
        assert one("stat", study).code == NOT_FOUND
        groups.write_text(members)
        assert one("stat", study).code == 0
        banned.write_text(f"{bans}\n{alice}\n")
        assert "SUBJECT_BANNED" in one("stat", study).err
    finally:
        groups.write_text(members)
        banned.write_text(bans)
    assert one("stat", study).code == 0
