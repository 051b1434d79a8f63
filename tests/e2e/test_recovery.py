"""Every container killed, databases restarted, the PACS away, a keystore cut off, while users store, query and fetch.

After each fault: nothing acknowledged is lost, nothing is half-visible, and everything works again without a person. How long that took
is printed as a table at the end of the run.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
from mdm_site.site import BY_NAME
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm

pytestmark = [pytest.mark.e2e, pytest.mark.compose, pytest.mark.timeout(420)]

IMAGES, PATIENTS = "/biomed/hospital-a/images", "/biomed/hospital-a/patients"
_PATIENCE_SECONDS = 120.0


@dataclass
class Users:
    """Store new images, find them and fetch them, and remember everything that the PACS has acknowledged."""

    stack: ComposeStack
    mdm: Mdm
    folder: Path
    acknowledged: list[Image] = field(default_factory=list)
    found_before: frozenset[str] = frozenset()
    wrong: list[str] = field(default_factory=list)

    def store(self) -> Image:
        """Store one new image; one that the PACS does not take is stored again, as a modality would."""
        image = make_image(self.folder / f"{time.monotonic_ns()}.dcm", "CT_small.dcm")

        def stored() -> bool:
            try:
                self.stack.store(image.path)
            except (*self.stack.store_error, AssertionError):
                return False
            return True

        assert eventually(stored, timeout=_PATIENCE_SECONDS, interval=0.5), "the PACS takes no image"
        self.acknowledged.append(image)
        return image

    def find_all(self) -> dict[str, str]:
        """Return the names in the catalog of everything that is found, by PatientID; nothing while nothing can be found."""
        joined = f'"{IMAGES}" i JOIN "{PATIENTS}" p ON i.patient = p.patient'
        found = self.mdm("carol", "--json", "query", f"SELECT p.PatientID AS patient, i.lfn AS lfn FROM {joined}")
        return {row["patient"]: row["lfn"] for row in found.rows()} if found.code == 0 else {}

    def find(self, image: Image) -> str:
        """Return the name of an image in the catalog, empty while it is not found."""
        return self.find_all().get(image.patient_id, "")

    def fetch(self, image: Image, lfn: str) -> bool:
        """Fetch an image and return whether it came; one that came wrong is remembered."""
        result, files = self.mdm.get("alice", lfn, "--timeout", "30")
        if result.code == 0:
            right = len(files) == 1 and pydicom.dcmread(files[0]).PixelData == image.read().PixelData
            if not right:
                self.wrong.append(lfn)
        elif files:
            self.wrong.append(f"{lfn}: a failed fetch left a file")
        return result.code == 0

    def whole_way(self) -> float:
        """Return the seconds until a new image is stored, found and fetched."""
        begin = time.monotonic()
        image = self.store()
        lfn = eventually(lambda: self.find(image), timeout=_PATIENCE_SECONDS)
        assert lfn, "a stored image is not found"
        assert eventually(lambda: self.fetch(image, lfn), timeout=_PATIENCE_SECONDS), "a found image is not fetched"
        return time.monotonic() - begin

    @contextmanager
    def busy(self, image: Image, lfn: str) -> Iterator[None]:
        """Keep fetching a known image and storing new ones; errors are allowed meanwhile, wrong answers are not."""
        stop = threading.Event()

        def fetch() -> None:
            while not stop.is_set():
                self.fetch(image, lfn)

        def store() -> None:
            while not stop.wait(2):
                self.store()

        threads = [threading.Thread(target=work) for work in (fetch, store)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def users(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> Users:
    folder = tmp_path_factory.mktemp("recovery")
    users = Users(stack, Mdm(stack, folder), folder)
    users.found_before = frozenset(users.find_all())  # other tests' images, of which one has no key any more
    return users


@pytest.fixture(scope="module")
def known(users: Users) -> tuple[Image, str]:
    """An image that everybody may fetch all the time."""
    image = users.store()
    lfn = eventually(lambda: users.find(image))
    assert lfn, "not registered"
    return image, lfn


def kill(name: str) -> Callable[[ComposeStack], None]:
    return lambda stack: stack.kill(name)


def restart_databases(stack: ComposeStack) -> None:
    stack.docker("restart", *(stack.container(f"{name}-db") for name in BY_NAME))


def pacs_away(stack: ComposeStack) -> None:
    stack.stop("pacs")
    time.sleep(60)
    stack.start("pacs")


def keystore_cut_off(stack: ComposeStack) -> None:
    network, container = f"{stack.project}_grid", stack.container("keystore-b")
    stack.docker("network", "disconnect", network, container)
    time.sleep(15)
    stack.docker("network", "connect", "--alias", "keystore-b", network, container)


FAULTS: dict[str, Callable[[ComposeStack], None]] = {
    **{f"{name} killed": kill(name) for name in (*BY_NAME, "pacs", "pacs-forwarder")},
    **{f"{name}-db killed": kill(f"{name}-db") for name in BY_NAME},
    "all databases restarted": restart_databases,
    "PACS away for 60 s": pacs_away,
    "keystore-b cut off for 15 s": keystore_cut_off,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_everything_works_again_and_nothing_is_lost(fault: str, stack: ComposeStack, users: Users, known, recovery_table):
    before = len(users.acknowledged)
    with users.busy(*known):
        time.sleep(1)
        FAULTS[fault](stack)
        recovered = users.whole_way()
    new = {image.patient_id: image for image in users.acknowledged[before:]}
    found = eventually(lambda: all_found if (all_found := users.find_all()).keys() >= new.keys() else None) or {}
    assert new.keys() - found.keys() == set(), "an acknowledged image is not found"
    assert [lfn for patient, lfn in found.items() if patient in list(new)[:2] and not users.fetch(new[patient], lfn)] == []
    assert users.wrong == []
    recovery_table.append((fault, recovered))


def test_without_a_fault_for_comparison(users: Users, recovery_table):
    recovery_table.append(("none", users.whole_way()))


def test_in_the_end_everything_acknowledged_is_there_and_everything_visible_is_whole(stack: ComposeStack, users: Users):
    users.whole_way()
    by_patient = users.find_all()
    assert [image for image in users.acknowledged if image.patient_id not in by_patient] == []
    visible = [lfn for patient, lfn in by_patient.items() if patient not in users.found_before]
    result, files = users.mdm.get("alice", *visible)
    assert (result.code, len(files)) == (0, len(visible)), result.err
