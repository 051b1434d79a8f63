"""The client for asyncio, on a grid of fakes; and that its surface, and fsspec's, is typed for those who use it."""

import asyncio
import subprocess
import sys

import pytest
from mdm_client.aio import AsyncClient
from mdm_testing.repository import ROOT
from mdm_wire.errors import NotFound

from client.tests.imaging import imaging_grid, slices

SAMPLE = """
import asyncio
from pathlib import Path

from mdm_client import Client, FetchOptions, MdmError, make_plan, parse_name
from mdm_client.aio import AsyncClient


async def main() -> int:
    total = 0
    async with AsyncClient.load("client.toml") as client:
        async for entry in client.list_entries("/biomed"):
            total += entry.size or 0
        for answer in (await client.read(["/biomed/a"])).values():
            total += 0 if isinstance(answer, MdmError) else len(answer)
        async for result in client.download(await client.plan(["/biomed"]), Path("out"), FetchOptions(jobs=2)):
            total += result.size
        usage = await client.call(client.client.catalog.usage, "/biomed")
        total += usage[0].bytes
    return total


with Client.load("client.toml") as client:
    plan = make_plan(client.catalog, [parse_name("/biomed")])
    paths: list[str] = [file.path for file in plan.files]
asyncio.run(main())
"""


@pytest.fixture
def studies(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as grid:
        grid.add_study(slices(5))
        yield grid


def test_a_program_lists_queries_and_reads_without_waiting_in_the_loop(studies):
    async def run():
        async with AsyncClient.load(studies.config()) as client:
            rows = [row async for row in client.query('SELECT lfn FROM "/biomed/hospital-a/images"')]
            listed = [entry.lfn async for entry in client.list_entries("/biomed", recursive=True)]
            assert {lfn for (lfn,) in rows} == {lfn for lfn in listed if lfn.endswith(".dcm")}
            wanted = [*sorted(lfn for (lfn,) in rows), "/biomed/none"]
            first, second = await asyncio.gather(client.read(wanted), client.stat(wanted))
            return first, second

    read, stated = asyncio.run(run())
    images = studies.catalog.images
    assert {lfn: data for lfn, data in read.items() if isinstance(data, bytes)} == {lfn: image.plaintext for lfn, image in images.items()}
    assert isinstance(read["/biomed/none"], NotFound) and isinstance(stated[-1], NotFound)
    assert len(studies.srm.requests) == 1


def test_a_download_yields_as_it_goes_and_ends_where_it_is_left(studies, tmp_path):
    async def run():
        async with AsyncClient.load(studies.config()) as client:
            plan = await client.plan(["/biomed/hospital-a/"])
            fetched = [result async for result in client.download(plan, tmp_path / "all")]
            left = client.download(plan, tmp_path / "one")
            async for _ in left:
                break
            await left.aclose()
            return fetched

    fetched = asyncio.run(run())
    assert len(fetched) == 5 and not any(result.error for result in fetched)
    assert not list((tmp_path / "one").rglob("*.part"))


def test_a_task_that_is_cancelled_stops_waiting(studies):
    [image, *_] = studies.catalog.images.values()
    image.held = True

    async def run():
        async with AsyncClient.load(studies.config()) as client:
            reading = asyncio.ensure_future(client.read([image.lfn]))
            while not studies.srm.requests:
                await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(asyncio.wait_for(run(), 60))


def test_programs_that_use_the_client_are_type_checked(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(SAMPLE.replace("list[str] = [file.path", "list[int] = [file.path"))
    sources = [str(ROOT / place) for place in ("proto/src", "libs/wire/src", "libs/crypto/src", "client/src")]
    checks = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(tmp_path / "cache"),
    ]

    def check(path) -> subprocess.CompletedProcess[str]:
        environment = {"MYPYPATH": ":".join(sources), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [*checks, "--follow-imports", "silent", str(path)], env=environment, capture_output=True, text=True, check=False
        )

    assert check(sample).stdout.strip() == "Success: no issues found in 1 source file"
    assert "list-item" in check(wrong).stdout or "List comprehension" in check(wrong).stdout
