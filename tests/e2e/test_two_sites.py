"""Two hospitals: one copies the other's anonymous metadata, and queries go over both, each under the caller's own rights."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc
from mdm_client.config import ClientConfig
from mdm_site.pki import DevelopmentCa
from mdm_testing.wait import eventually
from mdm_wire.channel import open_channel
from mdm_wire.tls import TlsFiles as ClientFiles
from psycopg import sql

from tests.e2e.compose_stack import ComposeStack
from tests.e2e.images import Image
from tests.e2e.local_stack import LocalStack
from tests.e2e.procedure import EXECUTED, PROCEDURES, execute
from tests.e2e.stack import Mdm, Result, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SUBTREE, IMAGES, PATIENTS = "/biomed/hospital-a", "/biomed/hospital-a/images", "/biomed/hospital-a/patients"
ATTRIBUTES = ("Kind:varchar(8)", "Rows:int", "Dose:numeric", "Day:date")
PATIENCE = 60.0


@dataclass
class Site:
    """One of the two hospitals, asked by its own users or by the other's."""

    stack: Stack
    mdm: Mdm

    def run(self, user: str, *arguments: str, config: Path | None = None) -> Result:
        """Run a command that must succeed."""
        result = self.mdm(user, *arguments, config=config)
        assert result.code == 0, (arguments, result.err)
        return result

    def rows(self, query: str, user: str = "alice") -> list[dict[str, Any]] | None:
        """Return the rows of a query, None while it fails."""
        result = self.mdm(user, "--json", "query", query)
        return result.rows() if result.code == 0 else None

    def replica(self) -> dict[str, Any]:
        """Return what the site's operator sees of its copy."""
        return self.mdm("operator", "--json", "meta", "replica").rows()[0]

    def is_current(self) -> bool:
        """Tell whether the site's copy goes on and is not behind."""
        state = self.replica()
        return state["behind"] == 0 and state["lag_seconds"] < 10 and not state["problem"]

    def configuration(self, user: str, certificate: Path, key: Path) -> Path:
        """Return a configuration of this site for whoever has this certificate."""
        text = self.stack.client_config("alice").read_text()
        ca = ClientConfig.load(self.stack.client_config("alice")).tls.ca
        lines = [line for line in text.splitlines() if not line.startswith(("certificate =", "key =", "ca ="))]
        file = self.mdm.scratch / f"{self.stack.name}-{user}.toml"
        file.write_text("\n".join([f'certificate = "{certificate}"', f'key = "{key}"', f'ca = "{ca}"', *lines]))
        return file

    def service(self, name: str) -> Path:
        """Return a client configuration under a service's own certificate."""
        place = self.stack.authority.directory
        return self.configuration(name, place / f"{name}.crt", place / f"{name}.key")

    def dn(self, user: str) -> str:
        """Return a user's DN."""
        return str(self.run(user, "--json", "whoami").rows()[0]["dn"])

    def join(self, group: str, member: str) -> None:
        """Put somebody into a group."""
        file = self.stack.trust_directory / "groups.toml"
        text = file.read_text()
        assert f'"{group}" = [' in text
        file.write_text(text.replace(f'"{group}" = [', f'"{group}" = ["{member}", '))

    def leave(self, group: str, member: str) -> None:
        """Take somebody out of a group again."""
        file = self.stack.trust_directory / "groups.toml"
        file.write_text(file.read_text().replace(f'"{group}" = ["{member}", ', f'"{group}" = ['))


@pytest.fixture(scope="module")
def sites(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site]]:
    """Hospital A, which has everything, and hospital B, which has metadata only, copies A's, and has some of its own."""
    directory = tmp_path_factory.mktemp("second")
    kind = ComposeStack if isinstance(stack, ComposeStack) else LocalStack
    second: Stack = kind(directory, "hospital-b", small=True)
    try:
        second.up()
        second.couple(stack)
        scratch = tmp_path_factory.mktemp("scratch")
        yield Site(stack, Mdm(stack, scratch)), Site(second, Mdm(second, scratch))
    finally:
        second.down()


@dataclass
class Trial:
    """A collection of the same schema at each site: A's lies in the subtree that B copies."""

    a: Site
    b: Site
    name: str

    @property
    def path(self) -> str:
        """A's collection, at A and, copied, at B."""
        return f"{SUBTREE}/{self.name}"

    @property
    def over_both(self) -> str:
        """The collection of each site, in a query over sites."""
        return f"/biomed/{{site}}/{self.name}"

    def set(self, key: str, *values: str) -> None:
        """Make or change an entry at A."""
        self.a.run("alice", "meta", "entry", "set", self.path, key, *values)

    def same(self) -> bool:
        """Tell whether the copy is as the original."""
        query = f'SELECT * FROM "{self.path}" ORDER BY entry'
        original = self.a.rows(query)
        return original is not None and self.b.rows(query) == original

    def over_sites(self, query: str, *, site: Site | None = None, user: str = "alice", sites: str = "hospital-a,hospital-b") -> Result:
        """Ask both sites at once."""
        return (site or self.a).mdm(user, "--json", "query", "--sites", sites, query.replace("TRIAL", f'"{self.over_both}"'))


@pytest.fixture(scope="module")
def trial(sites: tuple[Site, Site]) -> Trial:
    """What researchers of /biomed/neuro read at either site, and each site's alice writes at her own."""
    a, b = sites
    found = Trial(a, b, f"trial-{uuid4().hex[:8]}")
    for site, owner in ((a, a.service("dicom-srm")), (b, b.stack.client_config("operator"))):
        acl = _acl(site, owner, "group:/biomed/neuro=rl", f"dn:{site.dn('alice')}=rwlsd")
        visible = _acl(site, owner, "authenticated=r", "group:/biomed/neuro=rl", f"dn:{site.dn('alice')}=rwlsd")
        path = f"/biomed/{site.stack.name}/{found.name}"
        more = ("Length:int", "Gone:text") if site is a else ()
        site.run("", "meta", "mkdir", "-p", path, *ATTRIBUTES, *more, "--acl", visible, "--default-acl", acl, config=owner)
    return found


def _acl(site: Site, owner: Path, *entries: str) -> str:
    return site.run("", "meta", "acl", "create", *entries, config=owner).out.strip()


@pytest.mark.parametrize("service", ["dicom-srm", "catalog", "keystore-a", "metadata"])
def test_every_service_of_a_coupled_site_starts_again(sites: tuple[Site, Site], service: str):
    stack = sites[0].stack
    stack.stop(service)
    stack.start(service)


def test_a_copy_follows_inserts_updates_deletes_and_the_schema(trial: Trial):
    lines = [f"e{number},CT,{64 * number},1.50,2024-02-29" for number in range(2_500)]
    (trial.a.mdm.scratch / "trial.csv").write_text("\n".join(["key,Kind,Rows,Dose,Day", *lines]))
    trial.a.run("alice", "meta", "load", trial.path, str(trial.a.mdm.scratch / "trial.csv"), "--key", "key")
    assert eventually(trial.same, timeout=PATIENCE)
    trial.a.run("alice", "meta", "update", f"UPDATE \"{trial.path}\" SET Kind = 'MR', Rows = Rows + 1 WHERE Rows >= 128")
    trial.a.run("alice", "meta", "update", f"DELETE FROM \"{trial.path}\" WHERE entry LIKE 'e_%0'")
    trial.a.run("alice", "meta", "attr", "add", trial.path, "Note:text")
    trial.a.run("alice", "meta", "attr", "rename", trial.path, "Length", "Depth")
    trial.a.run("alice", "meta", "attr", "rm", trial.path, "Gone")
    trial.a.run("alice", "meta", "index", "add", trial.path, "Rows")
    trial.set("e1", "Note=seen")
    assert eventually(trial.same, timeout=PATIENCE)
    assert trial.b.rows(f"SELECT * FROM \"{trial.path}\" WHERE entry = 'e1'") == [
        {"entry": "e1", "Kind": "CT", "Rows": 64, "Dose": 1.5, "Day": "2024-02-29", "Depth": None, "Note": "seen"}
    ]


def test_the_copy_is_read_only_for_whoever_may_write_the_original(trial: Trial):
    trial.set("only-read", "Rows=1")
    assert eventually(trial.same, timeout=PATIENCE)
    alice = ClientConfig.load(trial.a.stack.client_config("alice")).tls
    there = trial.b.configuration("alice-of-a", alice.certificate, alice.key)
    for arguments in (
        ("meta", "entry", "set", trial.path, "new", "Rows=1"),
        ("meta", "entry", "rm", trial.path, "only-read"),
        ("meta", "update", f'UPDATE "{trial.path}" SET Rows = 2'),
        ("meta", "attr", "add", trial.path, "More:int"),
        ("meta", "rmdir", trial.path),
    ):
        result = trial.b.mdm("", "--json", *arguments, config=there)
        assert (result.code != 0, json.loads(result.err.splitlines()[0])["reason"]) == (True, "COLLECTION_IS_REPLICA"), arguments
    assert trial.same()


@contextmanager
def steps_recorded(copy: Stack) -> Iterator[Callable[[], list[tuple[Any, Any]]]]:
    """Have the copy's database write down where each applied step began and ended; yields what reads that."""
    columns = ("sequence", "copying", "copied_path", "copied_key")
    position = ", ".join(f"ROW({', '.join(f'{row}.{column}' for column in columns)})::text" for row in ("old", "new"))
    with psycopg.connect(copy.database("metadata"), autocommit=True) as connection:
        connection.execute("CREATE TABLE step (number bigint GENERATED ALWAYS AS IDENTITY, began text, ended text)")
        connection.execute(
            sql.SQL(
                "CREATE FUNCTION record_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
                " INSERT INTO step (began, ended) VALUES ({}); RETURN NULL; END $$"
            ).format(sql.SQL(position))
        )
        connection.execute("CREATE TRIGGER step AFTER UPDATE ON replica FOR EACH ROW EXECUTE FUNCTION record_step()")
        try:
            yield lambda: connection.execute("SELECT began, ended FROM step WHERE began <> ended ORDER BY number").fetchall()
        finally:
            connection.execute("DROP TRIGGER step ON replica")
            connection.execute("DROP FUNCTION record_step")
            connection.execute("DROP TABLE step")


def test_killed_at_either_end_nothing_is_lost_nor_applied_twice_and_the_lag_is_told(trial: Trial):
    a, b = trial.a, trial.b
    assert eventually(trial.same, timeout=PATIENCE)
    stop, acknowledged = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            key = f"w{len(acknowledged) % 20}"
            rows = len(acknowledged)
            if a.mdm("alice", "meta", "entry", "set", trial.path, key, f"Rows={rows}").code == 0:
                acknowledged.append((key, rows))

    writer = threading.Thread(target=write)
    with steps_recorded(b.stack) as steps:
        writer.start()
        try:
            for victim in (b, a, b):
                time.sleep(2)
                victim.stack.kill("metadata")
                victim.stack.start("metadata")
        finally:
            stop.set()
            writer.join()
        assert eventually(trial.same, timeout=PATIENCE)
        applied = steps()
    expected = dict(acknowledged)
    found = {row["entry"]: row["Rows"] for row in b.rows(f"SELECT entry, Rows FROM \"{trial.path}\" WHERE entry LIKE 'w%'") or []}
    assert len(expected) > 5
    assert {key: found[key] for key in expected} == expected
    assert [began for began, _ in applied[1:]] == [ended for _, ended in applied[:-1]], "each step begins where the one before ended"
    assert len({ended for _, ended in applied}) == len(applied), "no step was applied twice"
    assert eventually(b.is_current, timeout=PATIENCE)


def test_while_the_origin_is_away_the_copy_answers_and_says_since_when(trial: Trial):
    a, b = trial.a, trial.b
    trial.set("before", "Rows=7")
    assert eventually(trial.same, timeout=PATIENCE)
    a.stack.stop("metadata")
    try:
        told = eventually(lambda: result if (result := b.mdm("operator", "--json", "meta", "replica")).code else None, timeout=PATIENCE)
        assert told is not None
        (state,) = told.rows()
        assert (told.code, state["origin"], state["subtree"], state["problem"]) == (1, "hospital-a", SUBTREE, "UNAVAILABLE")
        assert b.rows(f"SELECT Rows FROM \"{trial.path}\" WHERE entry = 'before'") == [{"Rows": 7}]
        assert eventually(lambda: b.replica()["lag_seconds"] > state["lag_seconds"], timeout=10)
    finally:
        a.stack.start("metadata")
    assert eventually(lambda: not b.replica()["problem"], timeout=PATIENCE)


def everything_in(database: str) -> str:
    """Return all of a database's tables as text."""
    with psycopg.connect(database) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = (row for (table,) in tables for row in connection.execute(f"SELECT t::text FROM {table} AS t".encode()))
        return "\n".join(text for (text,) in rows)


def test_images_reach_the_copy_and_patients_never_do(trial: Trial, image: Image):
    a, b = trial.a, trial.b
    sensitive = f"{SUBTREE}/names-{uuid4().hex[:8]}"
    a.run("", "meta", "mkdir", sensitive, "Name:text", "--sensitive", config=a.service("dicom-srm"))
    a.run("", "meta", "entry", "set", sensitive, "n1", f"Name={image.patient_name}", config=a.service("dicom-srm"))
    a.stack.store(image.path)
    joined = f'SELECT i.guid FROM "{IMAGES}" i JOIN "{PATIENTS}" p ON i.patient = p.patient WHERE p.PatientID = \'{image.patient_id}\''
    (row,) = eventually(lambda: a.rows(joined, "carol"), timeout=PATIENCE) or ()
    assert eventually(lambda: b.rows(f"SELECT guid FROM \"{IMAGES}\" WHERE guid = '{row['guid']}'"), timeout=PATIENCE) == [row]
    kept = everything_in(b.stack.database("metadata"))
    assert row["guid"] in kept, "the search finds what is there"
    for secret in (image.patient_id, image.patient_name.split("^")[0], "names-", "/patients"):
        assert secret not in kept
    assert image.patient_id in everything_in(a.stack.database("metadata")), "and at the origin it would have found it"
    assert b.rows(joined, "carol") is None


def subscribe(origin: Site, certificate: Path, key: Path, subtree: str) -> str:
    """Ask for a subtree as a subscriber and return what came of it."""
    config = ClientConfig.load(origin.stack.client_config("operator"))
    with open_channel(config.metadata, ClientFiles(certificate, key, config.tls.ca)) as channel:
        request = feed_pb2.SubscribeRequest(subtree=subtree, position=feed_pb2.FeedPosition(copying=True))
        call = feed_pb2_grpc.MetadataFeedServiceStub(channel).Subscribe(request, timeout=15)
        try:
            next(call)
        except grpc.RpcError as error:
            return str(error.code().name)
        finally:
            call.cancel()
    return "OK"


def test_only_the_coupled_service_may_subscribe_and_to_nothing_sensitive(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    place = b.stack.authority.directory

    def asked(name: str, subtree: str) -> str:
        return subscribe(a, place / f"{name}.crt", place / f"{name}.key", subtree)

    assert asked("metadata", SUBTREE) == "OK"
    assert asked("metadata", PATIENTS) == "NOT_FOUND"
    assert asked("metadata", "/biomed") == "NOT_FOUND"
    assert asked("alice", SUBTREE) == "PERMISSION_DENIED"


def test_certificates_that_prove_nothing_are_refused(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    ours, theirs = a.stack.authority, b.stack.authority
    stranger = DevelopmentCa(tmp_path / "stranger", theirs.organisation).issue(theirs.subject("metadata"))
    assert subscribe(a, stranger.certificate, stranger.key, SUBTREE) == "UNAVAILABLE", "the handshake fails"
    posing = theirs.issue(ours.subject("operator"), name="posing")
    assert subscribe(a, posing.certificate, posing.key, SUBTREE) == "UNAUTHENTICATED"
    result = a.mdm("", "--json", "meta", "ls", config=a.configuration("posing", posing.certificate, posing.key))
    assert (result.code, json.loads(result.err)["reason"]) == (5, "SUBJECT_OUTSIDE_NAMESPACE")
    others = b.stack.client_config("alice")
    alice = ClientConfig.load(others).tls
    from_b = a.configuration("alice-of-b", alice.certificate, alice.key)
    assert a.mdm("", "meta", "ls", config=from_b).code == 0
    assert a.mdm("", "ls", "/", config=from_b).code in (4, 5), "the catalog has nothing to do with the other site's users"


NUMBERS = {
    "hospital-a": [("a1", "CT", 512, "1.25", "2024-01-31"), ("a2", "MR", 64, "0.5", None), ("a3", "CT", 128, None, "2023-12-31")],
    "hospital-b": [("b1", "CT", 512, "2.5", "2024-02-01"), ("b2", "US", 64, "10", "2024-01-31"), ("b3", "MR", 32, "0.25", None)],
}


@pytest.fixture(scope="module")
def numbers(trial: Trial) -> Iterator[list[tuple[Any, ...]]]:
    """Entries at both sites, and alice of hospital A among the researchers of hospital B."""
    for site in (trial.a, trial.b):
        path = f"/biomed/{site.stack.name}/{trial.name}"
        site.run("alice", "meta", "update", f'DELETE FROM "{path}" WHERE TRUE')
        for key, kind, rows, dose, day in NUMBERS[site.stack.name]:
            values = (f"Kind={kind}", f"Rows={rows}", f"Dose={dose or ''}", f"Day={day or ''}")
            site.run("alice", "meta", "entry", "set", path, key, *values)
    alice = trial.a.dn("alice")
    trial.b.join("/biomed/neuro", alice)
    yield NUMBERS["hospital-a"] + NUMBERS["hospital-b"]
    trial.b.leave("/biomed/neuro", alice)


def _values(result: Result) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in result.rows()]


def test_a_query_over_both_sites_is_merged_as_if_it_were_one(trial: Trial, numbers: list[tuple[Any, ...]]):
    def ask(query: str) -> list[tuple[Any, ...]]:
        result = trial.over_sites(query)
        assert result.code == 0, result.err
        return _values(result)

    assert eventually(lambda: len(_values(trial.over_sites("SELECT entry FROM TRIAL"))) == 6, timeout=10)
    by_rows = sorted(numbers, key=lambda row: (-row[2], row[0]))
    assert ask("SELECT entry, Rows FROM TRIAL ORDER BY Rows DESC, entry") == [(row[0], row[2]) for row in by_rows]
    assert ask("SELECT entry FROM TRIAL ORDER BY Rows DESC, entry LIMIT 3 OFFSET 1") == [(row[0],) for row in by_rows[1:4]]
    assert ask("SELECT entry FROM TRIAL ORDER BY Day DESC NULLS LAST, entry LIMIT 4") == [("b1",), ("a1",), ("b2",), ("a3",)]
    assert ask("SELECT DISTINCT Kind FROM TRIAL ORDER BY Kind") == [("CT",), ("MR",), ("US",)]
    assert ask("SELECT DISTINCT Rows FROM TRIAL WHERE Kind <> 'US' ORDER BY 1 LIMIT 2") == [(32,), (64,)]
    assert ask("SELECT COUNT(*), COUNT(Dose), SUM(Rows), MIN(Day), MAX(Dose) FROM TRIAL") == [(6, 5, 1312, "2023-12-31", 10)]
    assert ask("SELECT Kind, COUNT(*), AVG(Rows) FROM TRIAL GROUP BY Kind ORDER BY 2 DESC, Kind") == [
        ("CT", 3, pytest.approx(384.0)),
        ("MR", 2, pytest.approx(48.0)),
        ("US", 1, pytest.approx(64.0)),
    ]
    assert ask("SELECT '{site}', COUNT(*) FROM TRIAL GROUP BY 1 ORDER BY 1") == [("hospital-a", 3), ("hospital-b", 3)]


def test_whoever_has_rights_at_one_site_only_sees_its_rows_only(trial: Trial, numbers: list[tuple[Any, ...]]):
    a, b = trial.a, trial.b
    query = "SELECT entry FROM TRIAL ORDER BY entry"
    only_a, only_b = ([(row[0],) for row in NUMBERS[site]] for site in ("hospital-a", "hospital-b"))
    assert _values(trial.over_sites(query, site=b)) == only_b, "alice of hospital B is a researcher there only"
    assert _values(trial.over_sites(query, user="mallory")) == []
    b.leave("/biomed/neuro", a.dn("alice"))
    try:
        assert eventually(lambda: _values(trial.over_sites(query)) == only_a, timeout=10)
        assert trial.over_sites("SELECT COUNT(*) FROM TRIAL").rows() == [{"count": 3}]
    finally:
        b.join("/biomed/neuro", a.dn("alice"))
    assert eventually(lambda: _values(trial.over_sites(query)) == only_a + only_b, timeout=10)


def test_a_site_that_is_down_is_told_and_the_other_ones_rows_are_there(trial: Trial, numbers: list[tuple[Any, ...]]):
    query = "SELECT entry FROM TRIAL ORDER BY entry"
    trial.b.stack.stop("metadata")
    try:
        result = trial.over_sites(query)
        (told,) = (json.loads(line) for line in result.err.splitlines())
        assert (result.code, _values(result)) == (1, [(row[0],) for row in NUMBERS["hospital-a"]])
        assert (told["item"], told["reason"], told["code"]) == ("hospital-b", "UNAVAILABLE", "UNAVAILABLE")
        assert trial.over_sites(query, sites="hospital-b").code == 4, "nobody answers"
    finally:
        trial.b.stack.start("metadata")
    assert trial.over_sites(query).code == 0


@pytest.mark.compose
def test_whom_the_other_site_revoked_is_kept_out(sites: tuple[Site, Site], tmp_path: Path):
    a, b = sites
    assert isinstance(a.stack, ComposeStack)
    assert isinstance(b.stack, ComposeStack)
    b.stack.mdm_site("add-user", "leaver")
    own = b.stack.site / "client" / "leaver"
    leaver = a.configuration("leaver", own / "leaver.crt", own / "leaver.key")
    assert a.mdm("", "meta", "ls", config=leaver).code == 0
    b.stack.mdm_site("revoke", "leaver")
    execute("two-sites-give", SITE=b.stack.site, GIVEN=tmp_path)
    execute("two-sites-revocations", SITE=a.stack.site, RECEIVED=tmp_path)
    result = a.mdm("", "--json", "meta", "ls", config=leaver)
    assert (result.code, json.loads(result.err)["reason"]) == (5, "CERTIFICATE_REVOKED")


@pytest.mark.compose
def test_no_procedure_is_left_out(sites: tuple[Site, Site], tmp_path: Path):
    _, b = sites
    assert isinstance(b.stack, ComposeStack)
    execute("two-sites-init", SITE=tmp_path / "site")
    assert "0 changes" in execute("two-sites-look", SITE=b.stack.site)
    assert {name for name in PROCEDURES if name.startswith("two-sites-")} <= EXECUTED
