"""Every part killed at random moments of registration, change, removal and staging: nothing is lost, nothing is left behind."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psycopg
import pydicom
import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack

pytestmark = [pytest.mark.e2e]
ROOT = "/biomed/hospital-a"
#: `make soak` has 200 rounds, as far as they fit into its time.
SECONDS = float(os.environ.get("MDM_SOAK_SECONDS", 0))
ROUNDS = 200 if SECONDS else 6
#: What is killed, and how often; the other half of the kills are of dicom-srm, which drives all of it.
OTHERS = ("catalog", "metadata", "keystore-a", "keystore-b", "keystore-c", "postgres", "pacs", "pacs-forwarder")
PATIENCE_SECONDS = 240.0


@pytest.fixture
def mdm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mdm]:
    """A stack of its own: in the end it is compared as a whole."""
    if request.config.getoption("--stack") != "local":
        pytest.skip("PostgreSQL and PACS of containers are killed by test_recovery.py")
    directory = tmp_path_factory.mktemp("kills")
    stack = LocalStack(directory)
    try:
        stack.up()
        yield Mdm(stack, directory)
    finally:
        stack.down()


class Study:
    """What the PACS has acknowledged of one study of three images; `version` is the number of its last correction."""

    def __init__(self, images: list[Image], version: int) -> None:
        self.images, self.version = images, version
        self.patient_id, self.uid = images[0].patient_id, images[0].study_uid


class Rounds:
    """Does something at random and kills something meanwhile; knows what must be there in the end."""

    def __init__(self, mdm: Mdm, scratch: Path, ask_pacs: Callable[..., Any], seed: int) -> None:
        assert isinstance(mdm.stack, LocalStack)
        self.stack, self.mdm, self.scratch, self.ask_pacs = mdm.stack, mdm, scratch, ask_pacs
        self.chance = random.Random(seed)
        self.studies: list[Study] = []
        self.number = 0
        self.done: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.faults: list[str] = []

    def register(self) -> None:
        """Store a new study."""
        first = make_image(self.scratch / f"{self.number}-1.dcm", "CT_small.dcm", number=1)
        others = [make_image(self.scratch / f"{self.number}-{n}.dcm", "CT_small.dcm", of=first, number=n) for n in (2, 3)]
        study = Study([first, *others], 0)
        self._write(study, self.number)
        self._until_acknowledged(lambda: self.stack.store(*(image.path for image in study.images)))
        self.studies.append(study)

    def change(self) -> None:
        """Have the PACS replace a study by a corrected one. Orthanc keeps what it has, so the old one goes first."""
        study = self.chance.choice(self.studies)
        self._write(study, self.number)
        self._until_acknowledged(lambda: self._replace(study))

    def remove(self) -> None:
        """Delete a study in the PACS, and have the grid follow."""
        study = self.studies.pop(self.chance.randrange(len(self.studies)))
        self._until_acknowledged(lambda: self._delete(study))
        self._until_acknowledged(lambda: self._unregister(study))

    def stage(self) -> None:
        """Fetch some studies; a fetch that fails leaves nothing incomplete, one that succeeds brings all of them, right."""
        studies = self.chance.sample(self.studies, min(2, len(self.studies)))
        lfns: list[str] = []

        def look() -> None:
            lfns[:] = [row["lfn"] for study in studies for row in self.mdm.images_of(study.patient_id)]

        self._until_acknowledged(look)
        if lfns:
            self._check(*self.mdm.get("alice", *lfns), len(lfns))

    def run(self) -> None:
        """Do something, and kill a part meanwhile."""
        self.number += 1
        choices = [self.register, *([self.change, self.remove, self.stage] if len(self.studies) > 2 else [])]
        act = self.chance.choice(choices)
        victim = "dicom-srm" if self.chance.random() < 0.5 else self.chance.choice(OTHERS)
        moment, pause = self.chance.uniform(0, 2), self.chance.uniform(0, 1)
        self.done[act.__name__] += 1
        self.killed[victim] += 1
        failed: list[BaseException] = []

        def work() -> None:
            try:
                act()
            except BaseException as error:
                failed.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        time.sleep(moment)
        self.stack.kill(victim)
        time.sleep(pause)
        self.stack.start(victim)
        worker.join()
        assert not failed, (act.__name__, victim, failed)

    def _check(self, result: Any, files: list[Path], wanted: int) -> None:
        if result.code == 0 and len(files) != wanted:
            self.faults.append(f"round {self.number}: success with {len(files)} of {wanted} files")
        pixels = pydicom.dcmread(self.studies[0].images[0].path).PixelData
        for file in files:
            if pydicom.dcmread(file).PixelData != pixels:
                self.faults.append(f"round {self.number}: a wrong file")

    def _write(self, study: Study, version: int) -> None:
        study.version = version
        for image in study.images:
            dataset = image.read()
            dataset.KVP = version
            dataset.save_as(image.path)

    def _replace(self, study: Study) -> None:
        self._delete(study)
        self.stack.store(*(image.path for image in study.images))

    def _delete(self, study: Study) -> None:
        for found in self.ask_pacs("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": study.patient_id}}):
            self.ask_pacs("DELETE", f"/patients/{found}")

    def _unregister(self, study: Study) -> None:
        result = self.mdm("operator", "unregister", "--study", study.uid, "--yes")
        assert result.code == 0 or "nothing" in (result.out + result.err), result.err

    def _until_acknowledged(self, act: Callable[[], object]) -> None:
        """Repeat something until it succeeds, as a modality, a PACS administrator or an operator would."""

        def tried() -> bool:
            act()
            return True

        eventually(tried, PATIENCE_SECONDS, ignored=(AssertionError, HTTPException, *self.stack.store_error), interval=0.3)


def rows(stack: LocalStack, service: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.database(service)) as connection:
        return connection.execute(sql).fetchall()


def settled(stack: LocalStack) -> bool:
    """Return whether nothing is under way. What a study lacks in the PACS is looked for again at once."""
    with psycopg.connect(stack.database("dicom-srm")) as connection:
        connection.execute("UPDATE registration SET missing_since = now() - interval '1 h' WHERE missing_since IS NOT NULL")
        connection.execute("UPDATE inspection SET due_at = now() WHERE outcome = '' AND due_at > now() + interval '1 min'")
    under_way = "SELECT 1 FROM registration WHERE state IN ('RECEIVED', 'KEYED', 'DESCRIBED', 'REMOVING')"
    return not rows(stack, "dicom-srm", f"{under_way} UNION ALL SELECT 1 FROM inspection WHERE outcome = '' LIMIT 1")


def holdings(stack: LocalStack) -> dict[str, set[str]]:
    """Return the GUIDs that each service holds."""
    described = f"SELECT key FROM entry JOIN collection c ON c.id = collection_id WHERE c.path = '{ROOT}/images'"
    return {
        "registry": {str(guid) for (guid,) in rows(stack, "dicom-srm", "SELECT guid FROM registration WHERE state = 'PUBLISHED'")},
        "catalog": {str(guid) for (guid,) in rows(stack, "catalog", "SELECT guid FROM entry WHERE guid IS NOT NULL")},
        "metadata": {key for (key,) in rows(stack, "metadata", described)},
        **{f"keystore-{name}": {str(guid) for (guid,) in rows(stack, f"keystore-{name}", "SELECT guid FROM key_share")} for name in "abc"},
    }


@pytest.mark.timeout(max(900, SECONDS + 1200))
def test_kills_at_random_moments_lose_nothing_and_leave_nothing_behind(
    mdm: Mdm, tmp_path: Path, ask_pacs_of: Callable[[Stack], Callable[..., Any]]
) -> None:
    stack, seed = mdm.stack, int(os.environ.get("MDM_SEED", random.randrange(1 << 32)))
    assert isinstance(stack, LocalStack)
    rounds = Rounds(mdm, tmp_path, ask_pacs_of(stack), seed)
    print(f"seed {seed}")
    end = time.monotonic() + (SECONDS or 120)
    while rounds.number < ROUNDS and time.monotonic() < end:
        rounds.run()
        print(f"round {rounds.number}", flush=True)
    eventually(lambda: mdm("operator", "register", "--all", "--wait", timeout=PATIENCE_SECONDS).code == 0, PATIENCE_SECONDS)
    eventually(lambda: settled(stack), PATIENCE_SECONDS)
    counts = ", ".join(f"{name} {count}" for name, count in sorted((rounds.done + rounds.killed).items()))
    print(f"{rounds.number} rounds ({counts}), {len(rounds.studies)} studies left")

    held = holdings(stack)
    assert {name: len(guids ^ held["registry"]) for name, guids in held.items()} == dict.fromkeys(held, 0), "held by some services only"
    found = {study.patient_id: mdm.images_of(study.patient_id) for study in rounds.studies}
    assert {patient: len(images) for patient, images in found.items()} == {study.patient_id: 3 for study in rounds.studies}
    assert len(held["registry"]) == 3 * len(rounds.studies), "what was removed has come back"
    described = {row["guid"]: row["KVP"] for row in mdm.query("alice", f'SELECT guid, KVP FROM "{ROOT}/images"')}
    for study in rounds.studies:
        result, files = mdm.get("alice", *(row["lfn"] for row in found[study.patient_id]))
        assert (result.code, len(files)) == (0, 3), result.err
        assert {float(pydicom.dcmread(file).KVP) for file in files} == {float(study.version)}, "an old version is served"
        assert {described[row["guid"]] for row in found[study.patient_id]} == {float(study.version)}, "an old version is described"
    assert rounds.faults == []
    names = [value.encode() for study in rounds.studies for value in (study.patient_id, study.images[0].patient_name, study.uid)]
    places = {**stack.staged(), **stack.logs()}
    assert [place for place, content in places.items() if any(name in content for name in names)] == []
    assert [place for place, content in stack.staged().items() if b"DICM" in content] == []
