"""What OHIF does with a presentation state that a site's own profile released: over a grid of fakes, in Chromium."""

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from mdm_testing.browser import Browser
from mdm_testing.derived import ct_series, presentation_state
from mdm_testing.process import eventually
from mdm_testing.viewer import DRAWN, need_viewer, thumbnail_of, viewer
from pydicom import dcmread

from client.tests.imaging import imaging_grid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_ohif_lists_a_presentation_state_does_not_apply_it_and_goes_on(pki, tmp_path):
    """OHIF 3.13 has no handler for presentation states: when this fails, it has one, and the user's guide may say so."""
    need_viewer()
    images = ct_series(tmp_path, 3)
    state = dcmread(presentation_state(images, tmp_path / "pr.dcm"))
    pictures = Path(os.environ.get("MDM_SCREENSHOTS") or tmp_path)
    with imaging_grid(pki, tmp_path / "grid") as grid, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = grid.add_study([image.read() for image in images], [state])
        config = grid.config()
        stack = SimpleNamespace(client_config=lambda user: config)
        with viewer(stack, "alice", tmp_path) as running, Browser() as browser:
            browser.go(running.address)
            browser.wait("document.querySelectorAll('#results tbody tr').length > 0")
            browser.go(f"{running.origin}/viewer?StudyInstanceUIDs={study}")
            browser.wait("document.querySelector('canvas.cornerstone-canvas')?.width > 0", 120)
            assert eventually(lambda: browser.evaluate(DRAWN)["greys"] > 20, timeout=60)
            browser.wait(thumbnail_of("PR"), 60)
            before = eventually(lambda: steady(browser), timeout=60)
            browser.evaluate(f"{thumbnail_of('PR')}.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
            after = eventually(lambda: steady(browser), timeout=60)
            browser.screenshot(pictures / "presentation-state.png")
            assert before == after
            assert browser.errors == []


def steady(browser: Browser) -> int:
    """Return the sum of what is drawn once it does not change; 0 while it does."""
    sums = {browser.evaluate(DRAWN)["sum"] for _ in range(5)}
    return sums.pop() if len(sums) == 1 else 0
