"""A CT series on the canvas of OHIF in Chromium without a window: from `mdm view`, and from Orthanc's own DICOMweb.

Needs Chromium, Orthanc with DICOMweb, and OHIF as `mdm view --fetch-viewer` installs it. The same OHIF opens a study of one series, in a
browser that has OHIF's scripts in its cache. Orthanc is at its best (`data_path/reference.py`) with whole headers, for OHIF draws nothing
from what `Extrapolate` answers, and the browser asks it directly: its check of origins is off in all runs, for Orthanc's pages are of
another port than OHIF's. Orthanc sends what it stores, in plaintext; the gateway has each image retrieved, de-identified, encrypted, sent
and decrypted first.

Seconds since the study's address was opened, medians: `first` image on the canvas; `frames`, all of the series have arrived; `last` image
on the canvas, by the key End after that. `again` is the same study opened anew in the same browser. A study of few slices, opened before,
warms everything up; each round of ours has a study of its own.
"""

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiohttp import web
from data_path import reference
from mdm_client.view import ohif
from mdm_testing import machine
from mdm_testing.browser import Browser
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import free_port
from mdm_testing.viewer import DRAWN, Running, need_viewer, viewer, viewer_folder
from view import WARM_UP, Bench, peak_memory

SERVERS = ("mdm view", "Orthanc")
STEPS = ("first", "frames", "last")
_SECONDS = 240.0
_MANY = "performance.setResourceTimingBufferSize(5000)"
_ARRIVED = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/frames/') && e.responseEnd > 0).length"
_DRAWN = f"(() => {{ const d = {DRAWN}; return d.greys > 20 ? d.sum : 0; }})()"


@contextmanager
def served_ohif(dicom_web: str) -> Iterator[str]:
    """Serve OHIF alone, for a DICOMweb server at another port; the value is its origin."""
    files = ohif.Ohif(viewer_folder(), ohif.app_config(dicom_web, dicom_web))

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await files.answer(request) if request.path in files else web.Response(status=404)
        response.headers["Cache-Control"] = "max-age=3600"
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    loop, port = asyncio.new_event_loop(), free_port()
    runner = web.AppRunner(app, access_log=None)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", port).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def opened(browser: Browser, origin: str, study: str, count: int) -> dict[str, float]:
    """Open a study and return the seconds of each step."""
    browser.go("about:blank")
    browser.wait("location.href === 'about:blank'")
    began, seconds = time.perf_counter(), {}
    browser.go(f"{origin}/viewer?StudyInstanceUIDs={study}")

    def until(condition: str) -> float:
        while time.perf_counter() - began < _SECONDS:
            try:
                if browser.evaluate(condition):
                    return time.perf_counter() - began
            except AssertionError:
                pass  # the page is being exchanged
            time.sleep(0.05)
        raise SystemExit(f"never true: {condition[:80]}: {browser.errors[-5:]}")

    seconds["first"] = until(_DRAWN)
    seconds["frames"] = until(f"{_ARRIVED} >= {count}")
    shown = browser.evaluate(_DRAWN)
    browser.press("End", 35)
    seconds["last"] = until(f"(() => {{ const s = {_DRAWN}; return s && s !== {shown}; }})()")
    print(f"{study[-12:]}: {seconds}", flush=True)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    need_viewer()
    begin = machine.state()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as opening:
        folder = Path(name)
        orthanc = opening.enter_context(reference.running(folder, closed=False))
        stack = LocalStack(folder / "stack")
        opening.callback(stack.down)
        stack.up()
        bench = Bench(stack, {"Orthanc": orthanc}, folder, options.slices)
        origin = opening.enter_context(served_ohif(f"http://127.0.0.1:{orthanc.http_port}/dicom-web"))
        memory = 0.0
        for _ in range(options.rounds):
            studies = {count: bench.registered(count) for count in (WARM_UP, options.slices)}
            with Browser("--disable-web-security") as browser:
                browser.before_pages(_MANY)
                opened(browser, origin, bench.stored(WARM_UP), WARM_UP)
                found.setdefault("Orthanc", []).append(opened(browser, origin, bench.stored(options.slices), options.slices))
                found.setdefault("Orthanc, again", []).append(opened(browser, origin, bench.stored(options.slices), options.slices))
            with viewer(stack, "alice", folder) as running, Browser("--disable-web-security") as browser:
                browser.before_pages(_MANY)
                enter(browser, running)
                opened(browser, running.origin, studies[WARM_UP], WARM_UP)
                found.setdefault("mdm view", []).append(opened(browser, running.origin, studies[options.slices], options.slices))
                found.setdefault("mdm view, again", []).append(opened(browser, running.origin, studies[options.slices], options.slices))
                memory = max(memory, peak_memory(running.process.pid))
    print(f"{begin}\n{options.slices} slices of 0.5 MB, medians of {options.rounds} rounds, seconds\n")
    print("| | " + " | ".join(STEPS) + " |\n" + "|---" * (len(STEPS) + 1) + "|")
    for server, rounds in found.items():
        print(f"| {server} | " + " | ".join(f"{statistics.median(one[step] for one in rounds):.2f}" for step in STEPS) + " |")
    for again in ("", ", again"):
        ours, theirs = ({step: statistics.median(one[step] for one in found[f"{server}{again}"]) for step in STEPS} for server in SERVERS)
        print(f"| ours to theirs{again} | " + " | ".join(f"{ours[step] / theirs[step]:.1f} ×" for step in STEPS) + " |")
    print(f"\npeak memory of mdm view: {memory:.0f} MB; load {machine.load()} at the end")


def enter(browser: Browser, running: Running) -> None:
    """Let the browser in by the address that works once."""
    browser.go(running.address)
    browser.wait("document.querySelectorAll('#results tbody tr').length > 0")


if __name__ == "__main__":
    main()
