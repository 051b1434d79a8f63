"""Registration and fetching of a fixed study cost no more calls, statements and bytes for each image than `limits.toml` allows.

No time is measured, so nothing depends on the machine's load; limits have a margin for what does a little, such as how many messages a
reader finds at once. Whoever makes something cheaper lowers the limit.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mdm_client import Client, make_plan, parse_name
from mdm_testing.process import require_program
from mdm_testing.study import LARGE_SIDE, Study, make_study
from mdm_testing.supply import ImageSupply

from tests.cost.counting import MeteredStack, counting
from tests.cost.judge import Count, judge, read_limits

pytestmark = pytest.mark.integration
IMAGES, WARM_UP = 40, 12


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeteredStack]:
    require_program("Orthanc", "orthanc")
    require_program("strace", "strace")
    made = MeteredStack(tmp_path_factory.mktemp("cost") / "stack")
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def supply(stack: MeteredStack, tmp_path_factory: pytest.TempPathFactory) -> ImageSupply:
    return ImageSupply(stack, tmp_path_factory.mktemp("supply"))


@pytest.fixture(scope="module")
def client(stack: MeteredStack) -> Iterator[Client]:
    with Client.load(stack.client_config("alice")) as client:
        yield client


def test_an_image_costs_no_more_than_it_may(stack: MeteredStack, supply: ImageSupply, client: Client, tmp_path: Path) -> None:
    register_and_fetch(stack, supply, client, tmp_path / "first", WARM_UP)
    found = register_and_fetch(stack, supply, client, tmp_path / "measured", IMAGES)
    limits = read_limits()
    lines = [line for action, counts in found.items() for line in judge(action, counts, limits[action])]
    assert not lines, "\n".join(lines)


def register_and_fetch(stack: MeteredStack, supply: ImageSupply, client: Client, folder: Path, images: int) -> dict[str, dict[str, Count]]:
    """Register a study, fetch it; return what each cost."""
    study = Study.new()
    for name in ("images", "registration", "fetch", "fetched"):
        (folder / name).mkdir(parents=True)
    paths = make_study(folder / "images", study, images, LARGE_SIDE)
    size = paths[0].stat().st_size
    supply.put(paths)
    service = {"dicom-srm": stack.pids_of("dicom-srm")}
    with counting(stack, folder / "registration", service, images, size) as registration:
        supply.register(folder / "images", images)
    directory = supply.names(study)[0].rsplit("/", 1)[0]
    with counting(stack, folder / "fetch", service | {"client": [os.getpid()]}, images, size) as fetched:
        plan = make_plan(client.catalog, [parse_name(directory)])
        with closing(client.download(plan.files, folder / "fetched").results()) as results:
            assert sum(result.error is None for result in results) == images
    return {"registration": registration, "fetch": fetched}
